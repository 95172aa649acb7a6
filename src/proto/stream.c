/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Streams, sorted by id: ids only grow, so a new one goes to the end. The one that was looked up last is
 * remembered, because bulk comes in runs.
 */

#include "proto/stream.h"

#include <assert.h>

#include "base/base.h"

/* The peer may know of a stream's end before our reader has caught up, and open the next one. */
#define STREAMS_KEPT_MAX (2 * STREAMS_MAX)

void stream_table_done(StreamTable *t)
{
        for (size_t i = 0; i < t->n; i++)
                free(t->streams[i]);
        free(t->streams);
        *t = (StreamTable){ 0 };
}

int stream_table_add(StreamTable *t, uint32_t id, Stream **ret)
{
        Stream *st;

        assert(id > t->last_id);
        if (t->n_live >= STREAMS_MAX || t->n >= STREAMS_KEPT_MAX)
                return -ENOBUFS;
        if (t->n == t->allocated) {
                size_t allocated = MAX(t->allocated * 2, (size_t)8);
                Stream **streams = realloc(t->streams, allocated * sizeof(Stream *));

                if (!streams)
                        return -ENOMEM;
                t->streams = streams;
                t->allocated = allocated;
        }
        st = malloc(sizeof(*st));
        if (!st)
                return -ENOMEM;
        *st = (Stream){ .id = id, .is_live = true, .credit = STREAM_CREDIT };
        t->streams[t->n++] = st;
        t->n_live++;
        t->last_id = id;
        *ret = st;
        return 0;
}

static size_t stream_table_index(const StreamTable *t, uint32_t id)
{
        size_t low = 0, high = t->n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (t->streams[middle]->id < id)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

Stream *stream_table_find(StreamTable *t, uint32_t id)
{
        size_t i;

        if (t->recent && t->recent->id == id)
                return t->recent;
        i = stream_table_index(t, id);
        if (i >= t->n || t->streams[i]->id != id)
                return NULL;
        t->recent = t->streams[i];
        return t->recent;
}

static void owing_remove(StreamTable *t, Stream *st)
{
        Stream *before = NULL;

        for (Stream *i = t->first_owing; i && i != st; i = i->next_owing)
                before = i;
        if (before)
                before->next_owing = st->next_owing;
        else
                t->first_owing = st->next_owing;
        if (t->last_owing == st)
                t->last_owing = before;
        st->next_owing = NULL;
        st->is_owing = false;
}

void stream_table_remove(StreamTable *t, Stream *st)
{
        size_t i = stream_table_index(t, st->id);

        if (st->is_owing)
                owing_remove(t, st);
        if (t->recent == st)
                t->recent = NULL;
        if (st->is_live)
                t->n_live--;
        t->n--;
        memmove(t->streams + i, t->streams + i + 1, (t->n - i) * sizeof(*t->streams));
        free(st);
}

Stream *stream_table_take_owing(StreamTable *t)
{
        Stream *st = t->first_owing;

        if (st)
                owing_remove(t, st);
        return st;
}

bool stream_received(Stream *st, size_t n)
{
        if (n > STREAM_CREDIT - st->n_held - st->n_owed)
                return false;
        st->n_held += (uint32_t)n;
        return true;
}

void stream_taken(StreamTable *t, Stream *st, size_t n)
{
        assert(n <= st->n_held);
        st->n_held -= (uint32_t)n;
        st->n_owed += (uint32_t)n;
        if (st->n_owed < STREAM_CREDIT_RETURN || st->is_owing || st->peer_eof)
                return;
        st->is_owing = true;
        if (t->last_owing)
                t->last_owing->next_owing = st;
        else
                t->first_owing = st;
        t->last_owing = st;
}

bool stream_credited(Stream *st, uint32_t untrusted_n)
{
        if (untrusted_n == 0 || untrusted_n > STREAM_CREDIT - st->credit)
                return false;
        st->credit += untrusted_n;
        return true;
}

bool stream_table_settle(StreamTable *t, Stream *st)
{
        if (!st->own_eof || !st->peer_eof)
                return false;
        if (st->is_live) {
                st->is_live = false;
                t->n_live--;
        }
        if (st->n_held > 0)
                return false;
        stream_table_remove(t, st);
        return true;
}
