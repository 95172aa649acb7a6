/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What waits to be written, in order: bodies, cut into frames only when there is room on the port for the
 * next one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"

typedef struct OutqItem OutqItem;

typedef struct Outq {
        OutqItem *head, *tail;
        size_t n_bytes; /* bodies, and FRAME_HEADER_SIZE for each */
} Outq;                 /* zeroed: empty */

void outq_done(Outq *q); /* and empties */
/* Takes body (malloc'ed, may be NULL for n 0) over in any case. -ENOBUFS: past max bytes; -ENOMEM. */
int outq_push(Outq *q, size_t max, uint8_t type, uint32_t stream, uint8_t *body, size_t n);
static inline bool outq_is_empty(const Outq *q)
{
        return !q->head;
}
/* Writes the next frame's body, at most FRAME_BODY_MAX bytes, and the header's type, flags, stream and
 * length. The queue is not empty. */
void outq_next(Outq *q, uint8_t *ret_body, FrameHeader *ret_header);
