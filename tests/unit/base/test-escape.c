/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What escape_text() lets through, sd-bus and a terminal take; what it doesn't can be read.
 */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/escape.h"

static void escapes_to(const char *in, size_t n, size_t max, const char *out)
{
        _cleanup_free_ char *s = escape_text(in, n, max);

        ck_assert_ptr_nonnull(s);
        ck_assert_str_eq(s, out);
}

START_TEST(characters)
{
        static const struct {
                const char *in, *out;
        } table[] = {
                { "", "" },
                { "web01", "web01" },
                { "Grüße 日本 🙂", "Grüße 日本 🙂" },
                { "a\\b", "a\\\\b" },
                { "a\nb\tc", "a\\x0ab\\x09c" },
                { "\x1b[2J", "\\x1b[2J" },
                { "\x7f", "\\x7f" },
                { "\xc2\x9b", "\\xc2\\x9b" },                   /* C1 */
                { "\xe2\x80\xae", "\\xe2\\x80\\xae" },          /* U+202E, right to left */
                { "\xe2\x80\xa8", "\\xe2\\x80\\xa8" },          /* U+2028, a new line */
                { "\xff\xfe", "\\xff\\xfe" },                   /* no UTF-8 */
                { "\xc0\xaf", "\\xc0\\xaf" },                   /* overlong */
                { "\xed\xa0\x80", "\\xed\\xa0\\x80" },          /* a surrogate */
                { "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80" }, /* past the end */
                { "\xe2\x82", "\\xe2\\x82" },                   /* cut */
                { "\xef\xb7\x8f", "\xef\xb7\x8f" },             /* U+FDCF */
                { "\xef\xb7\x90", "\\xef\\xb7\\x90" },          /* U+FDD0, the first noncharacter */
                { "\xef\xb7\xaf", "\\xef\\xb7\\xaf" },
                { "\xef\xb7\xb0", "\xef\xb7\xb0" },
                { "\xef\xbf\xbd", "\xef\xbf\xbd" }, /* U+FFFD, the replacement character */
                { "\xef\xbf\xbe", "\\xef\\xbf\\xbe" },
                { "\xef\xbf\xbf", "\\xef\\xbf\\xbf" },
                { "\xf0\x9f\xbf\xbd", "\xf0\x9f\xbf\xbd" },
                { "\xf0\x9f\xbf\xbe", "\\xf0\\x9f\\xbf\\xbe" }, /* U+1FFFE */
                { "\xf4\x8f\xbf\xbf", "\\xf4\\x8f\\xbf\\xbf" }, /* U+10FFFF */
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                escapes_to(table[i].in, strlen(table[i].in), 1000, table[i].out);
        escapes_to("a\0b", 3, 1000, "a\\x00b");
}
END_TEST

START_TEST(cut_at_the_limit)
{
        escapes_to("abcdef", 6, 6, "abcdef");
        escapes_to("abcdefg", 7, 6, "abc…");
        escapes_to("ab\n\n", 4, 9, "ab\\x0a…");
        escapes_to("abc", 3, 2, "");
        escapes_to("abc", 3, 0, "");
}
END_TEST

int main(void)
{
        Suite *s = suite_create("escape");
        TCase *t = tcase_create("escape");

        tcase_add_test(t, characters);
        tcase_add_test(t, cut_at_the_limit);
        suite_add_tcase(s, t);
        SRunner *sr = srunner_create(s);
        srunner_run_all(sr, CK_NORMAL);
        int n_failed = srunner_ntests_failed(sr);
        srunner_free(sr);
        return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
