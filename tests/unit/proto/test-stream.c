/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/stream.h"

#include "base/base.h"
#include "../suite.h"

static StreamTable t;

static Stream *add(uint32_t id)
{
        Stream *st = NULL;

        ck_assert_int_eq(stream_table_add(&t, id, &st), 0);
        st->is_accepted = true;
        return st;
}

START_TEST(test_table)
{
        Stream *st;

        for (uint32_t i = 1; i <= STREAMS_MAX; i++)
                add(i * 3);
        ck_assert_int_eq(stream_table_add(&t, 10000, &st), -ENOBUFS);
        for (uint32_t i = 0; i <= 3 * STREAMS_MAX; i++) {
                st = stream_table_find(&t, i);
                ck_assert((st != NULL) == (i > 0 && i % 3 == 0));
                ck_assert(!st || st->id == i);
        }
        stream_table_remove(&t, stream_table_find(&t, 3));
        ck_assert_ptr_null(stream_table_find(&t, 3));
        ck_assert_uint_eq(add(10000)->id, 10000);
        stream_table_done(&t);
        ck_assert_ptr_null(stream_table_find(&t, 6));
}
END_TEST

/* Streams that have ended and wait for our reader don't count as open, but there is an end to them too. */
START_TEST(test_lagging_readers)
{
        Stream *st;

        for (uint32_t i = 1; i <= 2 * STREAMS_MAX; i++) {
                st = add(i);
                ck_assert(stream_received(st, 1));
                st->own_eof = st->peer_eof = true;
                ck_assert(!stream_table_settle(&t, st));
                ck_assert(!stream_table_settle(&t, st));
        }
        ck_assert_uint_eq(t.n_live, 0);
        ck_assert_int_eq(stream_table_add(&t, 10000, &st), -ENOBUFS);
        st = stream_table_find(&t, 7);
        stream_taken(&t, st, 1);
        ck_assert(stream_table_settle(&t, st));
        ck_assert_ptr_null(stream_table_find(&t, 7));
        add(10000);
        ck_assert_uint_eq(t.n_live, 1);
        stream_table_done(&t);
}
END_TEST

START_TEST(test_credit)
{
        Stream *a = add(1), *b = add(2), *c = add(3);

        ck_assert(stream_received(a, STREAM_CREDIT));
        ck_assert(!stream_received(a, 1));
        stream_taken(&t, a, STREAM_CREDIT_RETURN - 1);
        ck_assert_ptr_null(t.first_owing);
        /* taken, but not yet given back */
        ck_assert(!stream_received(a, 1));
        stream_taken(&t, a, 1);
        ck_assert(stream_received(b, STREAM_CREDIT) && stream_received(c, STREAM_CREDIT));
        stream_taken(&t, b, STREAM_CREDIT_RETURN);
        stream_taken(&t, c, STREAM_CREDIT);
        stream_table_remove(&t, b);
        ck_assert_ptr_eq(stream_table_take_owing(&t), a);
        ck_assert_uint_eq(a->n_owed, STREAM_CREDIT_RETURN);
        stream_table_remove(&t, c);
        ck_assert_ptr_null(stream_table_take_owing(&t));
        a->n_owed = 0;
        ck_assert(stream_received(a, STREAM_CREDIT_RETURN));
        ck_assert(!stream_received(a, 1));
        /* nobody needs credit behind his EOF */
        a->peer_eof = true;
        stream_taken(&t, a, STREAM_CREDIT);
        ck_assert_ptr_null(stream_table_take_owing(&t));
        stream_table_done(&t);
}
END_TEST

START_TEST(test_credited)
{
        Stream *st = add(1);

        ck_assert(stream_is_writable(st));
        ck_assert(!stream_credited(st, 1));
        st->credit = FRAME_BODY_MAX - 1;
        ck_assert(!stream_is_writable(st));
        ck_assert(!stream_credited(st, 0));
        ck_assert(!stream_credited(st, UINT32_MAX));
        ck_assert(!stream_credited(st, STREAM_CREDIT - FRAME_BODY_MAX + 2));
        ck_assert(stream_credited(st, STREAM_CREDIT - FRAME_BODY_MAX + 1));
        ck_assert_uint_eq(st->credit, STREAM_CREDIT);
        ck_assert(stream_is_writable(st));
        st->own_eof = true;
        ck_assert(!stream_is_writable(st));
        stream_table_done(&t);
}
END_TEST

SUITE("stream",
      { test_table },
      { test_lagging_readers },
      { test_credit },
      { test_credited })
