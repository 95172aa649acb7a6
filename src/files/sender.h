/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The sending end of a transfer: walks a source, reads it, and yields the bytes of proto/entry.h. Runs in
 * guestd's carrier (pull) and in the host's worker (push), there with the caller's identity. Does file I/O,
 * never blocks on a peer. One at a time per source; not thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "files/report.h"
#include "proto/wire-error.h"

typedef struct Sender Sender;

typedef struct SenderConfig {
        const char *path; /* what to send; ignored if fd >= 0. A symlink given as `path` itself is followed,
                             those inside a tree are sent as they are (as cp -r does with -P inside). */
        int fd;           /* a file, pipe or socket from the caller, taken over; -1: none */
        const char *const *roots; /* NULL, or the directories beneath which `path` must lie after resolving
                                     (guest policy) */
        bool preserve;            /* owner, xattrs, set-id bits */
        bool negotiate;           /* send ENTRY as offers and wait for WANT: resume, overwrite=update */
        uint64_t expect_size,
                expect_inode;     /* a resumed source must still be that: else SourceChanged. size */
        int64_t expect_mtime_sec; /* SIZE_UNKNOWN: not checked */
        uint32_t expect_mtime_nsec;
        EntryReported reported; /* may be NULL */
        void *userdata;
} SenderConfig;

typedef struct SenderSource { /* what was found: for preflight, for properties, and to recognise it at a
                                 resume */
        bool is_tree, is_stream;
        uint64_t n_bytes, n_files; /* SIZE_UNKNOWN for a stream */
        uint64_t inode;
        int64_t mtime_sec;
        uint32_t mtime_nsec;
        char name[256]; /* last component of the path: the name beneath a destination directory */
} SenderSource;

typedef struct SenderProgress {
        uint64_t n_bytes, n_files; /* acknowledged by the receiver */
        uint64_t n_bytes_sent;     /* read and handed out, repeats included */
        uint64_t n_failed;
        bool done;               /* DONE arrived: result below is final */
        uint64_t digest;         /* of a single file */
        WireError error;         /* WIRE_OK, or the first failure */
        const char *text, *path; /* never NULL */
} SenderProgress;

/* Opens the source. WIRE_OK and *ret, or an error and a malloc'ed sentence in *ret_text. */
WireError sender_new(const SenderConfig *config, Sender **ret, char **ret_text);
Sender *sender_free(Sender *s);
/* Counts a tree, a slice of entries a call. 1: more to do, *ret has all but the counts; 0: done, *ret is
 * complete. */
int sender_scan(Sender *s, SenderSource *ret);

/* Yields up to n bytes (n >= 4096). > 0; 0: nothing until the peer speaks or, for a stream source, until
 * sender_fd() is readable; -ENODATA: all was said (END is out). Never another error: failures travel as
 * records. */
ssize_t sender_fill(Sender *s, uint8_t *buf, size_t n);
/* Takes bytes from the receiver. 0, or -EBADMSG with *ret_why: the peer broke the protocol. */
int sender_feed(Sender *s, const uint8_t *untrusted_data, size_t n, const char **ret_why);
/* To poll for POLLIN when sender_fill() returned 0 for want of source bytes; -1: it waits for the peer. */
int sender_fd(const Sender *s);
const SenderProgress *sender_progress(const Sender *s);
