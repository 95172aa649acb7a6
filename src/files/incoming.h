/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One file while its content arrives: in memory while small, else in its temporary, which is flushed to disk
 * as it grows, so that little is lost with the machine; or in a descriptor of the caller. Digested on the
 * way.
 */

#include "files/directory.h"
#include "proto/digest.h"

#define INCOMING_SMALL_MAX 65536u

typedef struct Incoming {
        Directory *d;
        Entry *e;   /* our own copy; e->path for reports */
        char *name; /* in d */
        uint64_t number;
        const char *transfer_id;
        int fd;                                /* of the temporary, or of the caller */
        bool is_sink;                          /* the caller's */
        bool is_seekable, is_socket, is_dense; /* a sink's nature; dense: holes are written as zeros */
        uint64_t base;                         /* a seekable sink's place of the first byte */
        uint8_t *small; /* INCOMING_SMALL_MAX bytes, borrowed: content is still there */
        Digest *digest;
        uint64_t end;       /* what lies before was written, agreed upon, or is a hole */
        uint64_t hashed;    /* the digest's place */
        uint64_t n_counted; /* what the receiver's progress has of `end` */
        uint64_t n_unsynced, n_unflushed;
        uint64_t synced_usec, sync_cost_usec;
        /* a resume */
        bool is_resumed; /* until its first DATA */
        bool is_examined;
        uint64_t have, block_size;
        uint64_t *blocks;
        size_t n_blocks;
} Incoming;

/* Copies e, takes a reference to d. small: a buffer to use while the content is small, or NULL. NULL: no
 * memory. */
Incoming *incoming_new(Directory *d, const char *name, const Entry *e, uint64_t number,
                       const char *transfer_id, uint8_t *small);
/* Content goes to fd, which stays the caller's. */
void incoming_use_sink(Incoming *in, int fd);
/* Frees; removes the temporary if `discard`. */
void incoming_done(Incoming *in, bool discard, const AttributeRules *rules, bool sync,
                   const FailureSink *sink);
/* Opens the temporary that an earlier attempt left. 0; -ENOENT: there is none worth it. */
int incoming_resume(Incoming *in);
/* Digests a slice of it. 0: done, blocks are there; -EINPROGRESS; -errno */
int incoming_examine(Incoming *in);
/* Behind incoming_examine(): whether there is anything worth keeping; if not, it starts anew. */
bool incoming_keeps(Incoming *in);
/* >= 0: how many bytes were taken (fewer than n only from a sink that is full); -EINPROGRESS: a slice of
 * what was skipped was digested, try again soon; -EBADMSG: not as announced; -errno */
ssize_t incoming_write(Incoming *in, uint64_t offset, const uint8_t *data, size_t n);
/* The content is complete. 0: it is, as the digest says; -EILSEQ: it is not; -EINPROGRESS, -EAGAIN (a sink
 * is full), -errno. */
int incoming_finish(Incoming *in, uint64_t size, uint64_t digest);
/* Behind incoming_finish(): a temporary with all attributes, its descriptor in in->fd. 0 or -errno. */
int incoming_complete(Incoming *in, const AttributeRules *rules, const char **ret_note);
size_t entry_size(const Entry *e); /* of a copy in memory */
