/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The receiving end of a transfer: takes the bytes of proto/entry.h and makes files of them. Runs in
 * guestd's carrier (push) and in the host's worker (pull), there with the caller's identity. Believes
 * nothing: every name is opened beneath the destination, no symlink followed; a file appears under its name
 * only when whole, digested and synced.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "files/report.h"
#include "proto/wire-error.h"

typedef struct Receiver Receiver;

typedef enum ReceiverOverwrite { OVERWRITE_REPLACE, OVERWRITE_FAIL, OVERWRITE_UPDATE } ReceiverOverwrite;

typedef struct ReceiverConfig {
        const char *path; /* destination; an existing directory, or a path with a trailing slash, takes the
                             object under `name`; anything else is the object's new name, whose parent must
                             exist */
        const char *name; /* the source's last component; NULL: it has none, and goes into no directory; "":
                             a tree's contents go into the directory itself, whose attributes stay as they
                             are, or make it, if it is not there */
        int fd; /* write the single file's bytes here instead (caller's pipe or file), taken over; -1: none
                 */
        const char *const *roots; /* NULL, or the directories beneath which it must lie (guest policy) */
        const char *transfer_id;  /* names temporaries: .vmferry-<transfer_id>-<n>.part, beside their
                                     destination */
        bool slash_makes; /* a tree to a path that ends in a slash and is not there makes that directory, as
                             cp(1) does; otherwise it is refused */
        bool is_tree;     /* what the source is, as announced */
        uint64_t n_bytes; /* announced, for the progress; SIZE_UNKNOWN. Space is judged when TOTALS comes,
                             which knows about holes, if nothing of it can be there already: DONE then says
                             NoSpace before any content */
        bool preserve;
        bool resume; /* look for temporaries of the same transfer and for files already complete (same size
                        and mtime), and answer offers with WANT_REST or WANT_NONE */
        bool keep_partial; /* leave temporaries for a later resume when freed before the end */
        ReceiverOverwrite overwrite;
        uint32_t mode;          /* for files, instead of the source's; UINT32_MAX: the source's */
        const char *owner;      /* "user:group", "user", ":group", numbers too; NULL: none */
        EntryReported reported; /* may be NULL */
        void *userdata;
} ReceiverConfig;

typedef struct ReceiverProgress {
        uint64_t n_bytes, n_files, n_failed;
        uint64_t total_bytes, total_files; /* as announced; SIZE_UNKNOWN */
        bool done;                         /* END arrived, all is durable, DONE is queued or out */
        uint64_t digest;
        WireError error;
        const char *text, *path; /* never NULL */
} ReceiverProgress;

/* Preflight: opens the destination's parent, judges space, type, permission. WIRE_OK and *ret, or an error
 * and a malloc'ed sentence. */
WireError receiver_new(const ReceiverConfig *config, Receiver **ret, char **ret_text);
/* From now on nothing is kept for a resume: the transfer was cancelled, or the other side knows that it is
 * done; then its mark goes at once. Without this word a tree with keep_partial leaves a mark beside it even
 * when done, for DONE may be lost on its way. */
void receiver_give_up(Receiver *r);
/* Removes its temporaries, unless keep_partial. */
Receiver *receiver_free(Receiver *r);

/* Takes bytes of the sender. >= 0: how many were used (fewer: offer the rest again after receiver_fill(), or
 * when receiver_fd() is writable); -EBADMSG with *ret_why: the peer broke the protocol, everything begun was
 * given up, and the progress has the error's name. Failures of entries travel as records. */
ssize_t receiver_feed(Receiver *r, const uint8_t *untrusted_data, size_t n, const char **ret_why);
/* Bytes for the sender. > 0; 0: none now; -ENODATA: DONE is out. */
ssize_t receiver_fill(Receiver *r, uint8_t *buf, size_t n);
int receiver_fd(const Receiver *r); /* to poll for POLLOUT; -1 */
const ReceiverProgress *receiver_progress(const Receiver *r);
/* Whether a name is one of our temporaries; its transfer id goes to ret_id (33 bytes), if not NULL. */
bool receiver_is_temporary(const char *name, char *ret_id);
