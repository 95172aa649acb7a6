/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What is in flight on a data port as a whole, both ways: DATA frames and their bytes, acknowledged in
 * totals since the session began. It keeps QEMU's and the kernel's queues short, and says what was certainly
 * received.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

typedef struct WindowTotal {
        uint64_t n_bytes;
        uint32_t n_frames;
} WindowTotal;

typedef struct Window {
        WindowTotal sent, acked;    /* by us; of these by the peer */
        WindowTotal received, told; /* from the peer; of these said in an ACK that was taken for writing */
        bool is_pressed;            /* the peer may be waiting for the last word */
} Window;                           /* zeroed: at the start of a session */

/* A full frame, or nothing: a window's last scrap would only make small frames. */
static inline bool window_is_open(const Window *w)
{
        return w->sent.n_bytes - w->acked.n_bytes + FRAME_BODY_MAX <= PORT_WINDOW_BYTES &&
               w->sent.n_frames - w->acked.n_frames < PORT_WINDOW_FRAMES;
}
void window_sent(Window *w, size_t n);
/* False: the peer sent more than it may. */
bool window_received(Window *w, size_t n);
static inline bool window_has_news(const Window *w)
{
        return w->received.n_frames != w->told.n_frames;
}
bool window_owes_ack(const Window *w);
void window_take_ack(Window *w, WindowTotal *ret);
/* False: the peer acknowledges what can't be. */
bool window_acked(Window *w, const WindowTotal *untrusted);
