/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/fragments.h"

#include "base/base.h"
#include "../suite.h"

static Fragments fragments;
static const uint8_t *data;
static size_t n_data;

static int feed(uint8_t type, uint32_t stream, bool has_more, const void *body, size_t n)
{
        FrameHeader h = {
                .type = type, .stream = stream, .flags = has_more ? FRAME_MORE : 0, .length = (uint32_t)n
        };

        return fragments_feed(&fragments, &h, body, &data, &n_data);
}

START_TEST(test_whole)
{
        static const uint8_t body[] = "abc";

        ck_assert_int_eq(feed(FRAME_NOTIFY, 0, false, body, 3), 1);
        ck_assert_ptr_eq(data, body);
        ck_assert_uint_eq(n_data, 3);
        ck_assert_int_eq(feed(FRAME_NOTIFY, 0, false, body, 0), 1);
        ck_assert_uint_eq(n_data, 0);
        fragments_done(&fragments);
}
END_TEST

START_TEST(test_interleaved)
{
        FrameHeader h = { .type = FRAME_REQUEST, .stream = 1 };

        ck_assert(!fragments_has(&fragments, &h));
        ck_assert_int_eq(feed(FRAME_REQUEST, 1, true, "ab", 2), 0);
        ck_assert(fragments_has(&fragments, &h));
        ck_assert_int_eq(feed(FRAME_REPLY, 1, true, "AB", 2), 0);
        ck_assert_int_eq(feed(FRAME_REQUEST, 2, false, "x", 1), 1);
        ck_assert_int_eq(feed(FRAME_REQUEST, 1, false, "c", 1), 1);
        ck_assert_uint_eq(n_data, 3);
        ck_assert_mem_eq(data, "abc", 3);
        ck_assert(!fragments_has(&fragments, &h));
        ck_assert_int_eq(feed(FRAME_REPLY, 1, false, "", 0), 1);
        ck_assert_mem_eq(data, "AB", 2);
        fragments_done(&fragments);
}
END_TEST

START_TEST(test_limits)
{
        static uint8_t body[FRAME_BODY_MAX];
        size_t n = 0;

        for (uint32_t i = 0; i < MESSAGE_PARTIAL_MAX; i++)
                ck_assert_int_eq(feed(FRAME_REQUEST, i, true, "a", 1), 0);
        ck_assert_int_eq(feed(FRAME_REQUEST, 99, true, "a", 1), -EPROTO);
        ck_assert_int_eq(feed(FRAME_REQUEST, 99, false, "a", 1), 1);
        ck_assert_int_eq(feed(FRAME_REQUEST, 1, true, "", 0), -EPROTO);
        fragments_done(&fragments);

        while (n + FRAME_BODY_MAX <= MESSAGE_MAX) {
                ck_assert_int_eq(feed(FRAME_REQUEST, 1, true, body, FRAME_BODY_MAX), 0);
                n += FRAME_BODY_MAX;
        }
        ck_assert_int_eq(feed(FRAME_REQUEST, 1, true, body, MESSAGE_MAX - n), 0);
        ck_assert_int_eq(feed(FRAME_REQUEST, 1, true, body, 1), -E2BIG);
        ck_assert_int_eq(feed(FRAME_REQUEST, 1, false, body, 0), 1);
        ck_assert_uint_eq(n_data, MESSAGE_MAX);
        fragments_done(&fragments);
}
END_TEST

SUITE("fragments",
      { test_whole },
      { test_interleaved },
      { test_limits })
