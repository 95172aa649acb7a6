/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * All processes below one: found by their parents in /proc, which is complete as long as the root is their
 * subreaper; and gathered in a cgroup of their own where there can be one. Signals go through pidfds where
 * the kernel has them, so that a reused pid is never hit.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "guestd/cgroup.h"

typedef struct Tree {
        pid_t root; /* not a member itself */
        Cgroup cgroup;
} Tree;

/* The caller is the root. Without a cgroup when none can be made. id: a checked one. */
void tree_init(Tree *t, const char *id);
void tree_done(Tree *t);        /* removes the cgroup, if empty */
void tree_enter(const Tree *t); /* a child of the root goes into the cgroup, its descendants will follow */

/* How many were signalled. Negative errno: /proc can't be read. */
int tree_signal(const Tree *t, int signal);
/* One round of SIGKILL: stops them all first, so that none forks away meanwhile. To be repeated until none
 * is left. */
int tree_kill(const Tree *t);
/* For what is faster than that, as one that forks and leaves at once, over and over: a quick look at the
 * children that the root has now, and SIGKILL to these. To be repeated often. */
void tree_chase(const Tree *t);
/* Puts what is left back into the root's own cgroup, so that tree_done() can remove this one. */
void tree_release(const Tree *t);
