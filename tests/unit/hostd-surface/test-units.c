/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* hostd/units: names of targets, as systemd-escape(1) makes them. */

#include <check.h>
#include <glib.h>
#include <stdlib.h>

#include "base/base.h"
#include "hostd/units.h"

static const struct {
        const char *guest, *unit;
} names[] = {
        { "web01", "vmferry-guest@web01.target" },
        { "a_b.c:d", "vmferry-guest@a_b.c:d.target" },
        { "web-01", "vmferry-guest@web\\x2d01.target" },
        { "a/b", "vmferry-guest@a-b.target" },
        { ".hidden", "vmferry-guest@\\x2ehidden.target" },
        { "two words", "vmferry-guest@two\\x20words.target" },
        { "\xc3\xa4", "vmferry-guest@\\xc3\\xa4.target" },
        { "a\\b", "vmferry-guest@a\\x5cb.target" },
};

START_TEST(escaped)
{
        g_autofree char *unit = units_target(names[_i].guest);

        ck_assert_str_eq(unit, names[_i].unit);
}
END_TEST

START_TEST(too_long)
{
        size_t room = 255 - strlen("vmferry-guest@.target");
        g_autofree char *fits = g_strnfill(room, 'a'), *longer = g_strnfill(room + 1, 'a');
        g_autofree char *unit = units_target(fits);

        ck_assert_ptr_nonnull(unit);
        ck_assert_uint_eq(strlen(unit), 255);
        ck_assert_ptr_null(units_target(longer));
}
END_TEST

int main(void)
{
        Suite *s = suite_create("hostd/units");
        TCase *c = tcase_create("all");
        SRunner *r;
        int n;

        suite_add_tcase(s, c);
        tcase_add_loop_test(c, escaped, 0, ELEMENTSOF(names));
        tcase_add_test(c, too_long);
        r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        n = srunner_ntests_failed(r);
        srunner_free(r);
        return n == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
