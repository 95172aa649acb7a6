/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* hostd/quota: at the limit, one past it, and back. */

#include <stdlib.h>

#include "base/base.h"
#include "hostd/quota.h"
#include "../suite.h"

START_TEST(at_the_limit)
{
        Quota *q = quota_new();

        for (uint32_t i = 0; i < 3; i++)
                ck_assert(quota_take(q, QUOTA_JOBS, "1000", 3));
        ck_assert(!quota_take(q, QUOTA_JOBS, "1000", 3));
        ck_assert_uint_eq(quota_count(q, QUOTA_JOBS, "1000"), 3);
        quota_release(q, QUOTA_JOBS, "1000");
        ck_assert(quota_take(q, QUOTA_JOBS, "1000", 3));
        ck_assert(!quota_take(q, QUOTA_JOBS, "1000", 3));
        quota_free(q);
}
END_TEST

START_TEST(apart)
{
        Quota *q = quota_new();

        ck_assert(quota_take(q, QUOTA_JOBS, "a", 1));
        ck_assert(quota_take(q, QUOTA_JOBS, "b", 1));
        ck_assert(quota_take(q, QUOTA_PROCESSES, "a", 1));
        ck_assert(!quota_take(q, QUOTA_PROCESSES, "a", 1));
        ck_assert(!quota_take(q, QUOTA_CALLS, "a", 0));
        quota_free(q);
}
END_TEST

START_TEST(not_taken_is_not_given_back)
{
        Quota *q = quota_new();

        quota_release(q, QUOTA_JOBS, "a");
        ck_assert_uint_eq(quota_count(q, QUOTA_JOBS, "a"), 0);
        ck_assert(quota_take(q, QUOTA_JOBS, "a", 1));
        ck_assert(!quota_take(q, QUOTA_JOBS, "a", 1));
        quota_free(q);
}
END_TEST

START_TEST(a_lowered_limit_counts_at_once)
{
        Quota *q = quota_new();

        ck_assert(quota_take(q, QUOTA_JOBS, "a", 5));
        ck_assert(quota_take(q, QUOTA_JOBS, "a", 5));
        ck_assert(!quota_take(q, QUOTA_JOBS, "a", 1));
        quota_free(q);
}
END_TEST

START_TEST(bucket_holds_a_second)
{
        QuotaBucket b = {};
        uint64_t now = 1000;

        for (int i = 0; i < 10; i++)
                ck_assert(quota_bucket_take(&b, 10, now));
        ck_assert(!quota_bucket_take(&b, 10, now));
        ck_assert(!quota_bucket_take(&b, 10, now + 99999));
        ck_assert(quota_bucket_take(&b, 10, now + 100000));
        ck_assert(!quota_bucket_take(&b, 10, now + 100000));
        /* However long nobody came, there is no more than a second's worth. */
        now += 3600 * USEC_PER_SEC;
        for (int i = 0; i < 10; i++)
                ck_assert(quota_bucket_take(&b, 10, now));
        ck_assert(!quota_bucket_take(&b, 10, now));
}
END_TEST

START_TEST(bucket_keeps_its_rate)
{
        QuotaBucket b = {};
        unsigned n = 0;

        for (uint64_t now = 1; now <= 10 * USEC_PER_SEC; now += 100)
                n += quota_bucket_take(&b, 1000, now);
        ck_assert_uint_ge(n, 10000);
        ck_assert_uint_le(n, 11000);
}
END_TEST

START_TEST(bucket_of_nothing)
{
        QuotaBucket b = {};

        ck_assert(!quota_bucket_take(&b, 0, 1));
        ck_assert(!quota_bucket_take(&b, 0, 10 * USEC_PER_SEC));
        /* Lowered by a reload. */
        ck_assert(quota_bucket_take(&b, 1000, 20 * USEC_PER_SEC));
        ck_assert(quota_bucket_take(&b, 1, 20 * USEC_PER_SEC));
        ck_assert(!quota_bucket_take(&b, 1, 20 * USEC_PER_SEC));
}
END_TEST

SUITE("hostd/quota",
      { at_the_limit },
      { apart },
      { not_taken_is_not_given_back },
      { a_lowered_limit_counts_at_once },
      { bucket_holds_a_second },
      { bucket_keeps_its_rate },
      { bucket_of_nothing })
