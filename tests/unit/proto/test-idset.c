/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/idset.h"

#include "base/base.h"
#include "proto/limits.h"
#include "../suite.h"

START_TEST(test_limit)
{
        Idset s = { 0 };

        for (uint32_t i = 1; i <= REQUESTS_MAX; i++)
                ck_assert_int_eq(idset_add(&s, i), 0);
        ck_assert_int_eq(idset_add(&s, REQUESTS_MAX + 1), -ENOBUFS);
        ck_assert(!idset_has(&s, REQUESTS_MAX + 1));
        for (uint32_t i = 1; i <= REQUESTS_MAX; i += 2)
                ck_assert(idset_remove(&s, i));
        for (uint32_t i = 1; i <= REQUESTS_MAX; i++)
                ck_assert(idset_has(&s, i) == (i % 2 == 0));
        ck_assert(!idset_remove(&s, 1));
        idset_done(&s);
        ck_assert(!idset_has(&s, 2));
}
END_TEST

START_TEST(test_ascent)
{
        Idset s = { 0 };

        ck_assert(!idset_is_next(&s, 0));
        ck_assert(idset_is_next(&s, 1));
        ck_assert(idset_is_next(&s, 0xffffffff));
        idset_add(&s, 0xfffffffe);
        ck_assert(!idset_is_next(&s, 0xfffffffe));
        ck_assert(!idset_is_next(&s, 0x80000000));
        ck_assert(!idset_is_next(&s, 0xfffffff0));
        idset_add(&s, 0xffffffff);
        /* and round */
        ck_assert(!idset_is_next(&s, 0));
        ck_assert(idset_is_next(&s, 1));
        idset_add(&s, 1);
        idset_add(&s, 7);
        ck_assert(idset_has(&s, 0xfffffffe) && idset_has(&s, 0xffffffff) && idset_has(&s, 1) &&
                  idset_has(&s, 7));
        ck_assert(!idset_has(&s, 2));
        ck_assert(idset_remove(&s, 0xffffffff));
        ck_assert(idset_has(&s, 0xfffffffe) && idset_has(&s, 1));
        idset_done(&s);
}
END_TEST

SUITE("idset",
      { test_limit },
      { test_ascent })
