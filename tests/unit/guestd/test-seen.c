/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of messages taken: its bound, its file, and what it makes of a broken one.
 */

#include <stdio.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/seen.h"
#include "../suite.h"

static char dir[] = "/tmp/vmferry-test-seen-XXXXXX";

static Seen *seen_in(const char *path)
{
        const char *const dirs[] = { path, NULL };
        Seen *s = NULL;

        ck_assert_int_eq(seen_new(dirs, &s), 0);
        return s;
}

static void setup(void)
{
        log_init("test", true);
        ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
        char command[256];

        (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
        ck_assert_int_eq(system(command), 0);
        memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
}

START_TEST(survives_a_restart)
{
        Seen *s = seen_in(dir);

        ck_assert(!seen_has(s, 7));
        seen_add(s, 7);
        seen_add(s, 8);
        seen_remove(s, 8);
        ck_assert(seen_has(s, 7));
        ck_assert(!seen_has(s, 8));
        (void)seen_free(s);
        s = seen_in(dir);
        ck_assert(seen_has(s, 7));
        ck_assert(!seen_has(s, 8));
        (void)seen_free(s);
}
END_TEST

START_TEST(forgets_the_oldest_at_its_limit)
{
        Seen *s = seen_in(dir);

        for (uint64_t i = 1; i <= SEEN_MAX; i++)
                seen_add(s, i);
        ck_assert(seen_has(s, 1));
        seen_add(s, SEEN_MAX + 1);
        ck_assert(!seen_has(s, 1));
        ck_assert(seen_has(s, 2));
        (void)seen_free(s);
        /* The ring goes on where it was. */
        s = seen_in(dir);
        ck_assert(!seen_has(s, 1));
        ck_assert(seen_has(s, SEEN_MAX + 1));
        seen_add(s, SEEN_MAX + 2);
        ck_assert(!seen_has(s, 2));
        ck_assert(seen_has(s, 3));
        (void)seen_free(s);
}
END_TEST

START_TEST(a_broken_file_is_an_empty_one)
{
        static const char *const contents[] = { "", "x", "vmfseen1", "vmfseen1abc",
                                                "something else altogether" };
        char path[256];

        (void)snprintf(path, sizeof(path), "%s/seen", dir);
        ck_assert_int_eq(fs_write_file_atomic(path, contents[_i], strlen(contents[_i]), 0600), 0);
        Seen *s = seen_in(dir);
        ck_assert(!seen_has(s, 7));
        seen_add(s, 7);
        (void)seen_free(s);
        s = seen_in(dir);
        ck_assert(seen_has(s, 7));
        (void)seen_free(s);
}
END_TEST

START_TEST(works_without_a_place)
{
        Seen *s = seen_in("/proc/nonexistent");

        seen_add(s, 7);
        ck_assert(seen_has(s, 7));
        (void)seen_free(s);
}
END_TEST

START_TEST(keys_differ)
{
        uint64_t key = seen_key("topic", 1, "abc", 3);

        ck_assert_uint_eq(key, seen_key("topic", 1, "abc", 3));
        ck_assert_uint_ne(key, seen_key("topic", 2, "abc", 3));
        ck_assert_uint_ne(key, seen_key("topik", 1, "abc", 3));
        ck_assert_uint_ne(key, seen_key("topic", 1, "abd", 3));
        ck_assert_uint_ne(0, seen_key("topic", 1, NULL, 0));
}
END_TEST

SUITE_AROUND("guestd-seen", setup, teardown,
             { survives_a_restart },
             { forgets_the_oldest_at_its_limit },
             { a_broken_file_is_an_empty_one, 5 },
             { works_without_a_place },
             { keys_differ })
