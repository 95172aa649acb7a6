/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Push and pull as jobs: a worker with the caller's identity on the host's side, a stream to the guest's
 * carrier.
 */

#include "hostd/jobs.h"

typedef struct TransferOptions { /* checked by the bus */
        uint32_t mode;           /* UINT32_MAX: the source's */
        const char *owner;       /* NULL */
        bool preserve;
        bool contents;         /* of a directory, into the one at the destination */
        const char *overwrite; /* "replace", "fail", "update" */
        bool resume;           /* default true */
        bool detach;           /* goes on when the caller leaves; default true for path transfers */
} TransferOptions;

/* host_path absolute, or NULL with fd >= 0 (taken over). WIRE_OK and *ret, or an error and a malloc'ed
 * sentence. The guest must be ready (NotReady otherwise). */
WireError transfer_start(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *host_path,
                         int fd, const char *guest_path, const TransferOptions *options, Job **ret,
                         char **ret_text);

/* WIRE_OK, or InvalidPath with a malloc'ed sentence. */
WireError transfer_check(const Guest *g, const char *host_path, const char *guest_path, char **ret_text);
/* As a queued job: hidden and not started; *ret_params is what the store has to keep of it. */
WireError transfer_queue(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *host_path,
                         const char *guest_path, const TransferOptions *options, Job **ret,
                         json_object **ret_params, char **ret_text);
/* One of an earlier hostd: waiting for its guest, or queued as the item says. 0, -EINVAL: the item is no
 * good, -ENOMEM. */
int transfer_restore(Jobs *js, const StoreItem *item, Job **ret);
