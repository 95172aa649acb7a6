/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* hostd/services: which guest may call which topic. */

#include <stdlib.h>

#include "base/base.h"
#include "hostd/services.h"
#include "../suite.h"

static const char *const rules[] = { "lookup:web-*", "time.*:*", "all:", "nocolon", "*:admin", NULL };

static const struct {
        const char *topic, *guest;
        bool may;
} cases[] = {
        { "lookup", "web-1", true },     { "lookup", "web-", true },    { "lookup", "db-1", false },
        { "lookup2", "web-1", false },   { "time.utc", "db-1", true },  { "time", "db-1", false },
        { "all", "web-1", false },       { "nocolon", "web-1", false }, { "anything", "admin", true },
        { "anything", "admin2", false },
};

START_TEST(rule)
{
        ck_assert_int_eq(services_may_call(rules, cases[_i].topic, cases[_i].guest), cases[_i].may);
}
END_TEST

START_TEST(nothing_by_default)
{
        const char *const none[] = { NULL };

        ck_assert(!services_may_call(NULL, "lookup", "web-1"));
        ck_assert(!services_may_call(none, "lookup", "web-1"));
}
END_TEST

SUITE("hostd/services",
      { rule, ELEMENTSOF(cases) },
      { nothing_by_default })
