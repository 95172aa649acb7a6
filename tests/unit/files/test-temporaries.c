/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an abandoned transfer has left is removed where it can be, and nowhere else is looked: its
 * destination may have been / or a home.
 */


#include "base/base.h"
#include "files/temporaries.h"
#include "pair.h"
#include "../suite.h"

#define PART ".vmferry-ab-"

static void setup(void)
{
        (void)scratch_new();
}

static void make(const char *tree)
{
        ck_assert_int_eq(shell("cd '%s' && for f in %s; do mkdir -p \"${f%%/*}\" && touch \"$f\"; done",
                               scratch_path("."), tree),
                         0);
}

static bool is_there(const char *path)
{
        return access(scratch_path("%s", path), F_OK) == 0;
}

START_TEST(test_into_directory)
{
        make("p/d/src/a/" PART "3.part p/d/" PART "0.part p/d/other/a/" PART
             "4.part p/d/src/.vmferry-cd-1.part");
        temporaries_sweep(scratch_path("p/d"), "src", true, "ab");
        ck_assert(!is_there("p/d/src/a/" PART "3.part") && !is_there("p/d/" PART "0.part"));
        ck_assert(is_there("p/d/other/a/" PART "4.part") && is_there("p/d/src/.vmferry-cd-1.part"));
}
END_TEST

START_TEST(test_new_directory)
{
        make("p/d/a/" PART "3.part p/" PART "0.part p/other/" PART "4.part");
        temporaries_sweep(scratch_path("p/d"), "src", true, "ab");
        ck_assert(!is_there("p/d/a/" PART "3.part") && !is_there("p/" PART "0.part"));
        ck_assert(is_there("p/other/" PART "4.part"));
}
END_TEST

START_TEST(test_contents)
{
        make("p/d/a/" PART "3.part");
        temporaries_sweep(scratch_path("p/d"), "", true, "ab");
        ck_assert(!is_there("p/d/a/" PART "3.part"));
}
END_TEST

START_TEST(test_without_name)
{
        make("p/d/a/" PART "3.part p/d/" PART "0.part");
        temporaries_sweep(scratch_path("p/d"), NULL, true, "ab");
        ck_assert(is_there("p/d/a/" PART "3.part") && !is_there("p/d/" PART "0.part"));
        make("p/" PART "0.part");
        temporaries_sweep(scratch_path("p/d"), NULL, true, "ab");
        ck_assert(!is_there("p/d/a/" PART "3.part") && !is_there("p/" PART "0.part"));
}
END_TEST

START_TEST(test_link)
{
        make("p/elsewhere/" PART "3.part p/d/x");
        ck_assert_int_eq(shell("ln -s ../elsewhere '%s'", scratch_path("p/d/src")), 0);
        temporaries_sweep(scratch_path("p/d"), "src", true, "ab");
        ck_assert(is_there("p/elsewhere/" PART "3.part"));
}
END_TEST

START_TEST(test_file)
{
        make("p/" PART "0.part p/d/" PART "0.part p/d/src/" PART "1.part");
        temporaries_sweep(scratch_path("p/d"), "src", false, "ab");
        ck_assert(!is_there("p/" PART "0.part") && !is_there("p/d/" PART "0.part"));
        ck_assert(is_there("p/d/src/" PART "1.part"));
}
END_TEST

SUITE_AROUND("temporaries", setup, scratch_done,
             { test_into_directory },
             { test_new_directory },
             { test_contents },
             { test_without_name },
             { test_link },
             { test_file })
