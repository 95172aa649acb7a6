/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A running guest, reached through its QEMU guest agent: files by guest-file-*, everything else by
 * guest-exec of a shell.
 */

#include "deploy/domain.h"
#include "deploy/target.h"

typedef struct GuestAgent {
        Target target; /* first */
        Domain *domain;
        uint64_t deadline_usec; /* of everything; monotonic */
} GuestAgent;

void guest_agent_init(GuestAgent *a, Domain *d, uint64_t deadline_usec);
int guest_agent_ping(GuestAgent *a); /* 0, -errno with target.why */
/* A script for /bin/sh. 0 and *ret_status, *ret_output (stdout, text; may be NULL); -errno with target.why.
 */
int guest_agent_run(GuestAgent *a, const char *script, int *ret_status, char **ret_output);
