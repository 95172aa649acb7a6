/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A cgroup of the second version for one job, below guestd's own: whoever a process forks is in it too, so
 * that cgroup.kill (Linux 5.14), or before that freezing (5.2), outruns what forks away from signals. Where
 * nobody has mounted the hierarchy, it is opened by a mount that no path leads to (5.2).
 */

#include "base/base.h"

typedef struct Cgroup {
        int mount;        /* -EBADF: the hierarchy is mounted */
        char *own, *path; /* of this process's group and of the job's; NULL: there is none */
} Cgroup;

int cgroup_make(const char *id, Cgroup *ret); /* id: a checked one. 0, -errno */
void cgroup_done(Cgroup *c);
void cgroup_remove(Cgroup *c);        /* and the group too, if it is empty */
void cgroup_enter(const Cgroup *c);   /* the caller, and what it will fork */
void cgroup_kill(const Cgroup *c);    /* all that is in it */
void cgroup_release(const Cgroup *c); /* what is in it goes back to the caller's own group */
/* Of a job that nobody holds any more: kills what is in it, or lets it go on, and removes the group. */
void cgroup_reap(const char *id);
void cgroup_disband(const char *id);
