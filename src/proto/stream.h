/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The streams of a data port and the credit of each: who may send how much, who has taken what, which half
 * has ended. Arithmetic and a table; the frames are session-stream.c's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

#define STREAM_CREDIT_RETURN (STREAM_CREDIT / 4) /* taken bytes that are worth a CREDIT frame */

typedef struct Stream Stream;
struct Stream {
        uint32_t id;
        bool is_accepted;
        bool own_eof, peer_eof;
        bool is_live;    /* counts against STREAMS_MAX */
        uint32_t credit; /* bytes that we may send */
        uint32_t n_held; /* received, and not yet taken by the reader */
        uint32_t n_owed; /* taken, and not yet given back as credit */
        bool is_owing;   /* in the list of those that owe a CREDIT frame */
        Stream *next_owing;
};

typedef struct StreamTable {
        Stream **streams; /* ascending ids */
        size_t n, allocated;
        size_t n_live;    /* all but those whose halves have both ended while the reader is behind */
        uint32_t last_id; /* the highest that there was */
        Stream *recent;
        Stream *first_owing, *last_owing;
} StreamTable; /* zeroed: empty */

void stream_table_done(StreamTable *t);
/* id is above all before it. -ENOBUFS: STREAMS_MAX are live, or twice as many kept; -ENOMEM. */
int stream_table_add(StreamTable *t, uint32_t id, Stream **ret);
Stream *stream_table_find(StreamTable *t, uint32_t id); /* NULL */
void stream_table_remove(StreamTable *t, Stream *st);
/* The next stream that owes credit, taken from the list; NULL. */
Stream *stream_table_take_owing(StreamTable *t);

/* Whether a DATA frame may be sent as far as the stream itself is concerned: credit for a full one. */
static inline bool stream_is_writable(const Stream *st)
{
        return st->is_accepted && !st->own_eof && st->credit >= FRAME_BODY_MAX;
}
/* False: more than the peer has credit for. */
bool stream_received(Stream *st, size_t n);
/* The reader has done with n bytes. */
void stream_taken(StreamTable *t, Stream *st, size_t n);
/* False: the peer gives back more than we used. */
bool stream_credited(Stream *st, uint32_t untrusted_n);
/* After own_eof, peer_eof or n_held has changed: removes the stream if it is over. Whether it did. */
bool stream_table_settle(StreamTable *t, Stream *st);
