/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A sender and a receiver in one process, joined by two byte queues that split and cut what passes.
 */

#include "files/receiver.h"
#include "files/sender.h"

typedef struct Pair {
        Sender *sender;
        Receiver *receiver;
        WireError error; /* of sender_new() or receiver_new() */
        char *text;
        unsigned seed;
        size_t n_max;       /* largest piece that passes at once */
        uint64_t cut_after; /* bytes from the sender, then both are freed; UINT64_MAX: never */
        uint64_t n_forth, n_back;
        const char *why; /* a side broke the protocol */
        bool is_stuck;
        SenderProgress sent;
        ReceiverProgress received;
        char sent_text[256], sent_path[256];
} Pair;

extern const SenderConfig PAIR_SENDER; /* defaults */
extern const ReceiverConfig PAIR_RECEIVER;

/* Runs a transfer to its end, or to the cut. Name, kind and announced size go from one to the other. */
void pair_run(Pair *p, const SenderConfig *sc, const ReceiverConfig *rc);
void pair_done(Pair *p);

/* A fresh directory beneath $TMPDIR or /tmp; removed by scratch_done(). */
const char *scratch_new(void);
void scratch_done(void);
/* "<scratch>/<format>", valid until eight more calls. */
__attribute__((format(printf, 1, 2))) const char *scratch_path(const char *format, ...);
void scratch_write(const char *path, const void *data, size_t n);
void scratch_fill(const char *path, size_t n, unsigned seed); /* random bytes */
__attribute__((format(printf, 1, 2))) int shell(const char *format, ...);
/* Compares trees or files: kinds, modes, mtimes, contents, targets, link counts. 0: alike; else a line on
 * stderr. */
int trees_differ(const char *a, const char *b);
int n_temporaries(const char *dir);
