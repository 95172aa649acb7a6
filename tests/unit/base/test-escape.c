/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Escaping: what passes as it is, what does not, and where a text is cut.
 */


#include "base/base.h"
#include "base/escape.h"
#include "../suite.h"

#define TEXT(s) s, sizeof(s) - 1

START_TEST(test_texts)
{
        static const struct {
                const char *in;
                size_t n, max;
                const char *out;
        } cases[] = {
                { TEXT(""), 10, "" },
                { TEXT("plain"), 100, "plain" },
                { TEXT("a\\b"), 100, "a\\\\b" },
                { TEXT("tab\tnl\n"), 100, "tab\\x09nl\\x0a" },
                { TEXT("\x1b[31m"), 100, "\\x1b[31m" },
                { TEXT("nul\0in"), 100, "nul\\x00in" },
                { TEXT("\x7f"), 100, "\\x7f" },
                { TEXT("gr\xc3\xbc\xc3\x9f"), 100, "gr\xc3\xbc\xc3\x9f" },
                { TEXT("\xf0\x9f\x9a\xa2"), 100, "\xf0\x9f\x9a\xa2" },
                { TEXT("\xff"), 100, "\\xff" },
                { TEXT("\xc3"), 100, "\\xc3" },
                { TEXT("\xc0\xaf"), 100, "\\xc0\\xaf" },                   /* overlong */
                { TEXT("\xed\xa0\x80"), 100, "\\xed\\xa0\\x80" },          /* a surrogate */
                { TEXT("\xf4\x90\x80\x80"), 100, "\\xf4\\x90\\x80\\x80" }, /* past U+10FFFF */
                { TEXT("\xc2\x9b"), 100, "\\xc2\\x9b" },                   /* C1 */
                { TEXT("\xc2\xa0"), 100, "\xc2\xa0" },
                { TEXT("a\xe2\x80\xae"
                       "b"),
                  100,
                  "a\\xe2\\x80\\xae"
                  "b" }, /* right-to-left override */
                { TEXT("12345"), 5, "12345" },
                { TEXT("123456"), 5, "12\xe2\x80\xa6" },
                { TEXT("\xc3\xbc\xc3\xbc\xc3\xbc"), 5, "\xc3\xbc\xe2\x80\xa6" },
                { TEXT("123456"), 3, "\xe2\x80\xa6" },
                { TEXT("123456"), 2, "" },
                { TEXT("123456"), 0, "" },
                { TEXT("\x01\x01"), 7, "\\x01\xe2\x80\xa6" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *copy = malloc(cases[i].n + 1), *out = NULL;

                memcpy(copy, cases[i].in, cases[i].n);
                out = escape_text(copy, cases[i].n, cases[i].max);
                ck_assert_str_eq(out, cases[i].out);
                ck_assert_uint_le(strlen(out), cases[i].max);
        }
}
END_TEST

START_TEST(test_every_maximum)
{
        static const char in[] = "a\n\xc3\xbc\xff\\z\xf0\x9f\x9a\xa2";

        for (size_t max = 0; max < 40; max++)
                for (size_t n = 0; n < sizeof in; n++) {
                        _cleanup_free_ char *out = escape_text(in, n, max);

                        ck_assert_ptr_nonnull(out);
                        ck_assert_uint_le(strlen(out), max);
                        for (size_t o = 0; out[o];) {
                                size_t k = escape_utf8_length(out + o, strlen(out + o));

                                ck_assert_uint_gt(k, 0);
                                o += k;
                        }
                }
}
END_TEST

SUITE("escape",
      { test_texts },
      { test_every_maximum })
