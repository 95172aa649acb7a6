/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What transfer.c, transfer-start.c, transfer-keep.c and transfer-end.c share.
 */

#include "hostd/loop.h"
#include "hostd/opener.h"
#include "hostd/transfer.h"

typedef struct Source { /* as first found: what a resumed attempt must find again */
        bool known, is_tree, is_stream;
        uint64_t n_bytes, inode;
        int64_t mtime_sec;
        uint32_t mtime_nsec;
} Source;

typedef struct Transfer {
        Jobs *jobs;
        Job *job; /* NULL: the job was freed, the stream's end is still to come */
        char *host_path, *guest_path, *owner, *overwrite;
        char *name; /* of a pull's source, beneath a destination that is a directory; NULL: it has none */
        TransferOptions options;
        int fd; /* the caller's; of a regular file it is held for the next attempt */
        bool has_fd;
        bool fd_is_file; /* regular, so that an attempt can begin again at fd_offset */
        int64_t fd_offset;
        Source source;
        unsigned n_attempts, n_fruitless;
        uint64_t bytes_before; /* of this attempt */

        Opener *opener;
        GuestStream *stream;
        int in_fd, out_fd; /* the stream's, until it is opened */
        bool active, worker_done, cancelled;
        bool ended_in_order; /* the stream of this attempt, by both sides */
        WireError error;     /* what ended this attempt; WIRE_OK so far */
        char *text, *digest;
        LoopTimer *timer; /* the other end's grace, or the pause before the next attempt */
} Transfer;

/* Writes down, or again, what a hostd started later needs. What nobody could go on with is not. */
void transfer_keep(Transfer *t);
void transfer_fd_name(const Job *j, char ret[static 32]); /* in systemd's descriptor store */
json_object *transfer_params_format(const Transfer *t);

/* NULL: no memory. */
Transfer *transfer_make(Jobs *js, const char *host_path, int fd, const char *guest_path,
                        const TransferOptions *options);
void transfer_drop(Transfer *t);
extern const JobOps transfer_ops;
/* Leftovers of a pull that nobody will go on with are removed by a worker with the caller's rights. */
void transfer_sweep(const Transfer *t);

/* What an attempt that failed as a whole, or in n_failed entries, has to say, malloc'ed by GLib; path and
 * text are of the first one, path "" of the object itself. */
char *transfer_failure_text(int64_t n_failed, bool is_tree, const char *path, const char *text);
/* The offset of the caller's file goes behind what was carried, as if he had read or written it himself. */
void transfer_move_offset(const Transfer *t);
