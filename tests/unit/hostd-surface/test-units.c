/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* hostd/units: names of targets, as systemd-escape(1) makes them. */

#include <glib.h>
#include <stdlib.h>

#include "base/base.h"
#include "hostd/units.h"
#include "../suite.h"

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

SUITE("hostd/units",
      { escaped, ELEMENTSOF(names) },
      { too_long })
