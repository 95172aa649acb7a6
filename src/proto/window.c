/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The arithmetic of the port's window.
 */

#include "proto/window.h"

void window_sent(Window *w, size_t n)
{
        w->sent.n_bytes += n;
        w->sent.n_frames++;
}

bool window_received(Window *w, size_t n)
{
        w->received.n_bytes += n;
        w->received.n_frames++;
        return w->received.n_bytes - w->told.n_bytes <= PORT_WINDOW_BYTES &&
               w->received.n_frames - w->told.n_frames <= PORT_WINDOW_FRAMES;
}

bool window_owes_ack(const Window *w)
{
        uint32_t n_frames = w->received.n_frames - w->told.n_frames;

        if (w->is_pressed)
                return n_frames > 0;
        return n_frames >= PORT_ACK_FRAMES || w->received.n_bytes - w->told.n_bytes >= PORT_ACK_BYTES;
}

void window_take_ack(Window *w, WindowTotal *ret)
{
        w->told = w->received;
        w->is_pressed = false;
        *ret = w->told;
}

bool window_acked(Window *w, const WindowTotal *untrusted)
{
        /* the frames' counter goes round, the distance does not */
        if (untrusted->n_bytes < w->acked.n_bytes || untrusted->n_bytes > w->sent.n_bytes ||
            untrusted->n_frames - w->acked.n_frames > w->sent.n_frames - w->acked.n_frames)
                return false;
        w->acked = *untrusted;
        return true;
}
