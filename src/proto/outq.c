/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * First in, first out: a peer sees messages in the order in which they were given, and never has more than
 * one of them in parts.
 */

#include "proto/outq.h"

#include <assert.h>

#include "base/base.h"

struct OutqItem {
        OutqItem *next;
        uint8_t type;
        uint32_t stream;
        uint8_t *body;
        size_t n, offset;
};

static size_t item_cost(const OutqItem *i)
{
        return i->n + FRAME_HEADER_SIZE;
}

static OutqItem *item_free(OutqItem *i)
{
        if (i) {
                free(i->body);
                free(i);
        }
        return NULL;
}

void outq_done(Outq *q)
{
        while (q->head) {
                OutqItem *i = q->head;

                q->head = i->next;
                (void)item_free(i);
        }
        *q = (Outq){ 0 };
}

int outq_push(Outq *q, size_t max, uint8_t type, uint32_t stream, uint8_t *body, size_t n)
{
        _cleanup_free_ uint8_t *owned = body;
        OutqItem *i;

        if (q->n_bytes > max || n + FRAME_HEADER_SIZE > max - q->n_bytes)
                return -ENOBUFS;
        i = malloc(sizeof(*i));
        if (!i)
                return -ENOMEM;
        *i = (OutqItem){ .type = type, .stream = stream, .body = TAKE(owned), .n = n };
        if (q->tail)
                q->tail->next = i;
        else
                q->head = i;
        q->tail = i;
        q->n_bytes += item_cost(i);
        return 0;
}

void outq_next(Outq *q, uint8_t *ret_body, FrameHeader *ret_header)
{
        OutqItem *i = q->head;
        size_t n;

        assert(i);
        n = MIN(i->n - i->offset, (size_t)FRAME_BODY_MAX);
        if (n > 0)
                memcpy(ret_body, i->body + i->offset, n);
        i->offset += n;
        *ret_header = (FrameHeader){
                .type = i->type,
                .flags = i->offset < i->n ? FRAME_MORE : 0,
                .stream = i->stream,
                .length = (uint32_t)n,
        };
        if (i->offset < i->n)
                return;
        q->n_bytes -= item_cost(i);
        q->head = i->next;
        if (!q->head)
                q->tail = NULL;
        (void)item_free(i);
}
