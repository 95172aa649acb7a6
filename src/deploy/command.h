/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A program of the host that is run to its end: its output, and in `why` what it complained of.
 */

#include "deploy/target.h"

/* argv ends in NULL; looked for in PATH and the sbin directories. 0, and where ret_output isn't NULL its
 * stdout as text of at most 1 MiB, malloc'ed; -ENOENT: there is no such program; -EIO: it failed. It is in a
 * process group of its own: Ctrl-C is for us, who then put things back. */
int command_run(Target *t, const char *const *argv, char **ret_output);
/* Does not wait: pid, and the read end of its stderr. It is ended when we are, whatever ends us. */
int command_start(Target *t, const char *const *argv, pid_t *ret_pid, int *ret_stderr);
/* What it has complained of until now, in one line. */
void command_complaint(int fd, char *ret, size_t n);
