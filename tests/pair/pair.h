/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Two sessions and the bytes between them, in memory, with a clock that only the test moves. Each side has a
 * small driver, as patient as the real ones, and an application whose every word can be checked by the other
 * side. What the port does to the bytes is the test's business.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/session.h"

#define PAIR_STREAMS 8u

typedef struct Link {  /* bytes on their way from one side to the other */
        uint8_t *data; /* n bytes, from `space` + what was read already */
        size_t n, allocated;
        uint8_t *space;
} Link;

typedef struct PairStream {
        uint32_t id; /* 0: none */
        bool is_accepted, own_eof, peer_eof;
        uint64_t n_sent, n_received, n_untaken;
} PairStream;

typedef struct Pair Pair;

typedef struct Side {
        Pair *pair;
        SessionRole role;
        SessionPort port;
        Session *session;
        Link out;
        uint64_t n_messages_sent, n_messages_received; /* in this session */
        uint32_t open_request;                         /* ours, not answered */
        uint64_t open_tag;
        uint64_t asked_usec; /* when the last ping, or HELLO, went out */
        bool is_waiting;
        PairStream streams[PAIR_STREAMS];
        /* over all sessions */
        uint64_t n_up, n_down, n_replies, n_streams_done, n_bytes_received, n_bye, n_bye_ack, n_incompatible;
} Side;

struct Pair {
        SessionPort port;
        uint64_t seed, random;
        uint64_t now_usec, turn_usec;
        size_t chunk_max;      /* bytes that one read brings; 0: anything */
        uint64_t stream_bytes; /* of each stream, each way */
        bool is_quiet;         /* the applications begin nothing new */
        Side host, guest;
};

void pair_init(Pair *p, SessionPort port, uint64_t seed);
void pair_done(Pair *p);
uint64_t pair_random(Pair *p, uint64_t below);
void pair_restart(Pair *p,
                  Side *side); /* a new process: a new session on the same port, what was on its way stays */
/* Each side once: reads, handles events, writes. */
void pair_turn(Pair *p);
bool pair_is_up(const Pair *p);
/* Turns until both sides are up, at most limit_usec of the clock; whether they are. */
bool pair_settle(Pair *p, uint64_t limit_usec);
void link_done(Link *l);
void link_put(Link *l, const void *data, size_t n);
void link_remove(Link *l, size_t at, size_t n);
