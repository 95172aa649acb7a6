/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The data port's side of guestd, as main sees it: a child process, the carrier, that opens the data port,
 * carries streams while there are any, and ends. The parent never touches files or bulk: it answers the
 * child's questions for the descriptors of processes, and writes the audit lines that the child tells.
 * Sources: carry.c (parent), carry-link.c (their packets), carry-child.c (the child), carry-transfer.c (push
 * and pull).
 */

#include <stdbool.h>
#include <stdint.h>

#include "guestd/config.h"
#include "guestd/loop.h"
#include "proto/wire-error.h"

typedef struct Carry Carry;

typedef enum CarryStream {
        CARRY_STDIO,        /* read: stdout (or the terminal); write: stdin (or the terminal) */
        CARRY_STDERR,       /* read */
        CARRY_SPOOL_STDOUT, /* read: a detached process's output from its start, then as it comes */
        CARRY_SPOOL_STDERR,
        _CARRY_STREAM_MAX,
} CarryStream;

typedef struct CarryOps {
        /* The answer to carry_open(), once for each, never from within it: WIRE_OK: the data port is open
         * and stays so until the host has had time to connect; otherwise text is a sentence. */
        void (*opened)(void *userdata, uint64_t cookie, WireError error, const char *text);
        /* What stands behind a stream of kind stdio, stderr or spool. Descriptors are given away (dup what
         * stays; the terminal may be given twice); -1: this direction has none. They become nonblocking. End
         * of file on *ret_read_fd (or EIO of a terminal) ends the stream's half. WIRE_OK, or an error and a
         * malloc'ed sentence. Answer at once. */
        WireError (*process_stream)(void *userdata, const char *process_id, CarryStream which,
                                    int *ret_read_fd, int *ret_write_fd, char **ret_text);
} CarryOps;

/* 0, -ENOMEM. config outlives it; each child sees it as it is when that child is forked. */
int carry_new(Loop *l, const Config *config, const CarryOps *ops, void *userdata, Carry **ret);
Carry *carry_free(Carry *c); /* kills the child; no answers any more */
DEFINE_CLEANUP(Carry *, carry_free);

/* `data.open`: starts a child, or makes sure that the one there is stays; several may be under way. */
void carry_open(Carry *c, uint64_t cookie);
/* The control session is gone, so the host has given up its data streams too: the child gives up its own and
 * ends. Questions of carry_open() without an answer are forgotten. */
void carry_reset(Carry *c);
bool carry_is_running(const Carry *c);
