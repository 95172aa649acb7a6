/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/name.h"

#include <stdio.h>

#include "base/base.h"
#include "proto/limits.h"
#include "../suite.h"

static char *run_of(char c, size_t n)
{
        static char text[8192];

        memset(text, c, n);
        text[n] = 0;
        return text;
}

START_TEST(test_topic)
{
        ck_assert(name_is_topic("a"));
        ck_assert(name_is_topic("Az09._-"));
        ck_assert(name_is_topic(run_of('x', TOPIC_MAX)));
        ck_assert(!name_is_topic(run_of('x', TOPIC_MAX + 1)));
        ck_assert(!name_is_topic(NULL));
        ck_assert(!name_is_topic(""));
        ck_assert(!name_is_topic("."));
        ck_assert(!name_is_topic(".."));
        ck_assert(!name_is_topic(".hidden"));
        ck_assert(!name_is_topic("a/b"));
        ck_assert(!name_is_topic("a b"));
        ck_assert(!name_is_topic("\303\244"));
        ck_assert(!name_is_topic("a\n"));
}
END_TEST

START_TEST(test_absolute_path)
{
        char path[PATH_BYTES_MAX + 3];

        ck_assert(name_is_absolute_path("/"));
        ck_assert(name_is_absolute_path("/a"));
        ck_assert(name_is_absolute_path("/a/b.c/"));
        ck_assert(name_is_absolute_path("/.../..a"));
        ck_assert(!name_is_absolute_path(NULL));
        ck_assert(!name_is_absolute_path(""));
        ck_assert(!name_is_absolute_path("a"));
        ck_assert(!name_is_absolute_path("//"));
        ck_assert(!name_is_absolute_path("/a//b"));
        ck_assert(!name_is_absolute_path("/a//"));
        ck_assert(!name_is_absolute_path("/./a"));
        ck_assert(!name_is_absolute_path("/a/.."));
        ck_assert(!name_is_absolute_path("/a/../"));
        for (size_t i = 0; i < sizeof(path); i++)
                path[i] = i % 2 ? 'a' : '/';
        path[PATH_BYTES_MAX] = 0;
        ck_assert(name_is_absolute_path(path));
        ck_assert(name_is_rooted(path));
        path[PATH_BYTES_MAX] = 'a';
        path[PATH_BYTES_MAX + 1] = 0;
        ck_assert(!name_is_absolute_path(path));
        ck_assert(!name_is_rooted(path));
        ck_assert(name_is_rooted("/") && name_is_rooted("//") && name_is_rooted("/a/.././/b/"));
        ck_assert(!name_is_rooted(NULL) && !name_is_rooted("") && !name_is_rooted("./a"));
}
END_TEST

START_TEST(test_tree_path)
{
        static const struct {
                const char *path;
                size_t n;
                bool is_right;
        } table[] = {
                { "a", 1, true },       { "a/b", 3, true },        { "a\xff\x01", 3, true },
                { "...", 3, true },     { "..a/b..", 7, true },    { "", 0, false },
                { "/a", 2, false },     { "a/", 2, false },        { "a//b", 4, false },
                { ".", 1, false },      { "..", 2, false },        { "../a", 4, false },
                { "a/../b", 6, false }, { "a/.", 3, false },       { "a\0b", 3, false },
                { "/", 1, false },      { "a/..b/./c", 9, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                ck_assert_msg(name_is_tree_path(table[i].path, table[i].n) == table[i].is_right, "%s",
                              table[i].path);
        ck_assert(name_is_tree_path(run_of('x', NAME_BYTES_MAX), NAME_BYTES_MAX));
        ck_assert(!name_is_tree_path(run_of('x', NAME_BYTES_MAX + 1), NAME_BYTES_MAX + 1));
        ck_assert(!name_is_tree_path(NULL, 0));
}
END_TEST

START_TEST(test_id)
{
        ck_assert(name_is_id("0"));
        ck_assert(name_is_id("0123456789abcdef0123456789abcdef"));
        ck_assert(!name_is_id("0123456789abcdef0123456789abcdef0"));
        ck_assert(!name_is_id(""));
        ck_assert(!name_is_id(NULL));
        ck_assert(!name_is_id("A"));
        ck_assert(!name_is_id("g"));
        ck_assert(!name_is_id("../a"));
}
END_TEST

START_TEST(test_text)
{
        ck_assert(name_is_text("", 0));
        ck_assert(name_is_text("a\tb\nc", 5));
        ck_assert(!name_is_text("a\tb\nc", 4));
        ck_assert(!name_is_text("a\r", 9));
        ck_assert(!name_is_text("a\033[0m", 9));
        ck_assert(!name_is_text("\xff", 9));
        ck_assert(!name_is_text(NULL, 9));
}
END_TEST

START_TEST(test_variable)
{
        ck_assert(name_is_variable("PATH"));
        ck_assert(!name_is_variable(""));
        ck_assert(!name_is_variable("A=B"));
        ck_assert(!name_is_variable("=A"));
        ck_assert(!name_is_variable(NULL));
}
END_TEST

START_TEST(test_utf8)
{
        static const char *const good[] = { "",
                                            "a",
                                            "\x7f",
                                            "\xc2\x80",
                                            "\xdf\xbf",
                                            "\xe0\xa0\x80",
                                            "\xed\x9f\xbf",
                                            "\xee\x80\x80",
                                            "\xef\xbf\xbd",
                                            "\xf0\x90\x80\x80",
                                            "\xf4\x8f\xbf\xbd" };
        static const char *const bad[] = { "\x80",
                                           "\xc0\xaf",
                                           "\xc1\xbf",
                                           "\xc2",
                                           "\xe0\x9f\xbf",
                                           "\xe1\x80",
                                           "\xed\xa0\x80",
                                           "\xef\xb7\x90",
                                           "\xef\xbf\xbe",
                                           "\xef\xbf\xbf",
                                           "\xf0\x8f\xbf\xbf",
                                           "\xf0\x90\x80",
                                           "\xf4\x90\x80\x80",
                                           "\xf5\x80\x80\x80",
                                           "\xff",
                                           "a\xe2\x82" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                ck_assert_msg(name_is_utf8(good[i], strlen(good[i])), "%zu", i);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(!name_is_utf8(bad[i], strlen(bad[i])), "%zu", i);
        ck_assert(!name_is_utf8("a\0b", 3));
        ck_assert(!name_is_utf8("\xc3\xa4", 1));
}
END_TEST

SUITE("name",
      { test_topic },
      { test_absolute_path },
      { test_tree_path },
      { test_id },
      { test_text },
      { test_variable },
      { test_utf8 })
