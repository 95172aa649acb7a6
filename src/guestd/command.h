/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * From a supervisor's fork to the command's first instruction: identity, terminal, directory, environment,
 * the search in PATH, the policy's last word on what was found, execve(2). argv goes as it is: no shell
 * stands in for a file that the kernel can't execute.
 */

#include "guestd/supervisor.h"
#include "guestd/tree.h"
#include "guestd/users.h"

typedef struct CommandError {
        int32_t stage; /* SupervisorStage */
        int32_t error; /* positive errno */
} CommandError;

/* Forks; waits until execve(2) has succeeded or something failed. keep_identity: user is who guestd is
 * already. 0 and *ret_pid, or -errno and *ret_error; a child that failed is left to be reaped. */
int command_start(const SupervisorSpec *spec, const Tree *tree, const User *user, bool keep_identity,
                  pid_t *ret_pid, CommandError *ret_error);
