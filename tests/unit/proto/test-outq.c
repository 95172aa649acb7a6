/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/outq.h"

#include "base/base.h"
#include "../suite.h"

static Outq q;
static uint8_t body[FRAME_BODY_MAX];

static int push(size_t max, uint32_t stream, size_t n)
{
        uint8_t *data = malloc(n + 1);

        memset(data, (int)stream, n);
        return outq_push(&q, max, FRAME_NOTIFY, stream, data, n);
}

static void expect(uint32_t stream, size_t n, bool has_more)
{
        FrameHeader h;

        ck_assert(!outq_is_empty(&q));
        outq_next(&q, body, &h);
        ck_assert_uint_eq(h.type, FRAME_NOTIFY);
        ck_assert_uint_eq(h.stream, stream);
        ck_assert_uint_eq(h.length, n);
        ck_assert_uint_eq(h.flags, has_more ? FRAME_MORE : 0);
        if (n > 0)
                ck_assert_uint_eq(body[n - 1], (uint8_t)stream);
}

START_TEST(test_order_and_cuts)
{
        push(SIZE_MAX, 1, FRAME_BODY_MAX);
        push(SIZE_MAX, 2, FRAME_BODY_MAX + 1);
        ck_assert_int_eq(outq_push(&q, SIZE_MAX, FRAME_NOTIFY, 3, NULL, 0), 0);
        expect(1, FRAME_BODY_MAX, false);
        expect(2, FRAME_BODY_MAX, true);
        expect(2, 1, false);
        expect(3, 0, false);
        ck_assert(outq_is_empty(&q));
        ck_assert_uint_eq(q.n_bytes, 0);
}
END_TEST

START_TEST(test_limit)
{
        ck_assert_int_eq(push(1000, 1, 1000 - FRAME_HEADER_SIZE + 1), -ENOBUFS);
        ck_assert_int_eq(push(1000, 1, 1000 - FRAME_HEADER_SIZE), 0);
        ck_assert_int_eq(push(1000, 1, 0), -ENOBUFS);
        /* a smaller limit than what is there already */
        ck_assert_int_eq(push(10, 1, 0), -ENOBUFS);
        ck_assert_int_eq(push(2000, 2, 10), 0);
        outq_done(&q);
        ck_assert(outq_is_empty(&q));
        ck_assert_uint_eq(q.n_bytes, 0);
        ck_assert_int_eq(push(1000, 1, 0), 0);
        outq_done(&q);
}
END_TEST

SUITE("outq",
      { test_order_and_cuts },
      { test_limit })
