/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/digest.h"

#include "base/base.h"
#include "../suite.h"

/* Values of xxhsum -H64 of the xxhash project. */
START_TEST(test_values)
{
        char text[DIGEST_TEXT_SIZE];

        digest_format(digest_of("", 0, 0), text);
        ck_assert_str_eq(text, "xxh64:ef46db3751d8e999");
        digest_format(digest_of("abc", 3, 0), text);
        ck_assert_str_eq(text, "xxh64:44bc2cf5ad770999");
}
END_TEST

START_TEST(test_pieces)
{
        Digest *d = digest_new();
        uint8_t data[1000];

        ck_assert_ptr_nonnull(d);
        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t)(i * 7);
        for (size_t n = 1; n < 70; n++) {
                digest_reset(d);
                for (size_t at = 0; at < sizeof(data); at += n)
                        digest_update(d, data + at, MIN(n, sizeof(data) - at));
                digest_update(d, NULL, 0);
                ck_assert(digest_value(d) == digest_of(data, sizeof(data), 0));
        }
        ck_assert_ptr_null(digest_free(d));
        ck_assert_ptr_null(digest_free(NULL));
}
END_TEST

SUITE("digest",
      { test_values },
      { test_pieces })
