/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Messages put together from the frames that carry them. A message is known by its type and its stream or
 * request id; MESSAGE_PARTIAL_MAX of them may be under way at once, each of at most MESSAGE_MAX bytes.
 * Memory is taken as bytes arrive, never because a peer announced them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"

typedef struct Fragment {
        bool is_used;
        uint8_t type;
        uint32_t stream;
        uint8_t *data;
        size_t n, allocated;
} Fragment;

typedef struct Fragments {
        Fragment parts[MESSAGE_PARTIAL_MAX];
        uint8_t *whole; /* the last one handed out */
} Fragments;            /* zeroed: empty */

void fragments_done(Fragments *f);
/* Whether earlier fragments of this frame's message are held. */
bool fragments_has(const Fragments *f, const FrameHeader *h);
/* 1: a whole message, valid until the next call, and as long as body; 0: more must come; -EPROTO: an empty
 * fragment, or one message too many; -E2BIG; -ENOMEM. */
int fragments_feed(Fragments *f, const FrameHeader *h, const uint8_t *body, const uint8_t **ret_data,
                   size_t *ret_n);
