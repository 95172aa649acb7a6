/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/window.h"

#include "base/base.h"
#include "../suite.h"

START_TEST(test_sender)
{
        Window w = { 0 };
        WindowTotal total;
        unsigned n = 0;

        while (window_is_open(&w)) {
                window_sent(&w, FRAME_BODY_MAX);
                n++;
        }
        ck_assert_uint_eq(n, PORT_WINDOW_BYTES / FRAME_BODY_MAX);
        total = (WindowTotal){ .n_bytes = FRAME_BODY_MAX, .n_frames = 1 };
        ck_assert(window_acked(&w, &total));
        ck_assert(window_is_open(&w));
        total.n_bytes--;
        ck_assert(!window_acked(&w, &total));
        total = (WindowTotal){ .n_bytes = w.sent.n_bytes + 1, .n_frames = n };
        ck_assert(!window_acked(&w, &total));
        total = (WindowTotal){ .n_bytes = w.sent.n_bytes, .n_frames = n + 1 };
        ck_assert(!window_acked(&w, &total));
        total = w.sent;
        ck_assert(window_acked(&w, &total));

        for (n = 0; window_is_open(&w); n++)
                window_sent(&w, 1);
        ck_assert_uint_eq(n, PORT_WINDOW_FRAMES);
}
END_TEST

START_TEST(test_receiver)
{
        Window w = { 0 };
        WindowTotal total;

        for (unsigned i = 0; i < PORT_WINDOW_FRAMES; i++) {
                ck_assert(window_owes_ack(&w) == (i >= PORT_ACK_FRAMES));
                ck_assert(window_received(&w, 1));
        }
        ck_assert(!window_received(&w, 1));

        w = (Window){ 0 };
        ck_assert(window_received(&w, PORT_ACK_BYTES - 1));
        ck_assert(!window_owes_ack(&w));
        ck_assert(window_received(&w, 1));
        ck_assert(window_owes_ack(&w));
        window_take_ack(&w, &total);
        ck_assert(total.n_bytes == PORT_ACK_BYTES && total.n_frames == 2);
        ck_assert(!window_owes_ack(&w));
        ck_assert(window_received(&w, PORT_WINDOW_BYTES));
        ck_assert(!window_received(&w, 1));

        w = (Window){ .is_pressed = true };
        ck_assert(!window_owes_ack(&w));
        ck_assert(window_received(&w, 1));
        ck_assert(window_owes_ack(&w));
}
END_TEST

START_TEST(test_frames_go_round)
{
        Window w = { .sent = { .n_frames = 0xfffffff0 }, .acked = { .n_frames = 0xfffffff0 } };
        WindowTotal total;

        for (unsigned i = 0; i < 0x20; i++)
                window_sent(&w, 1);
        total = (WindowTotal){ .n_bytes = 0x18, .n_frames = 8 };
        ck_assert(window_acked(&w, &total));
        total.n_frames = 7;
        ck_assert(!window_acked(&w, &total));
}
END_TEST

SUITE("window",
      { test_sender },
      { test_receiver },
      { test_frames_go_round })
