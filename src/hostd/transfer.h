/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Push and pull as jobs: a worker with the caller's identity on the host's side, a stream to the guest's carrier.
 */

#include "hostd/jobs.h"

typedef struct TransferOptions { /* checked by the bus */
        uint32_t mode;         /* UINT32_MAX: the source's */
        const char *owner;     /* NULL */
        bool preserve;
        const char *overwrite; /* "replace", "fail", "update" */
        bool resume;           /* default true */
        bool detach;           /* goes on when the caller leaves; default true for path transfers */
} TransferOptions;

/* host_path absolute, or NULL with fd >= 0 (taken over). WIRE_OK and *ret, or an error and a malloc'ed sentence. The guest
 * must be ready (NotReady otherwise). */
WireError transfer_start(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *host_path, int fd,
                         const char *guest_path, const TransferOptions *options, Job **ret, char **ret_text);
