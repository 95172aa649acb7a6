/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The paths of cp: which side a word is of, what the spellings of a path become, and which of them mean the
 * contents of a directory.
 */

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "cli/copy-path.h"
#include "../suite.h"

START_TEST(test_split)
{
        static const struct {
                const char *in, *guest, *path; /* guest NULL: a local path */
        } cases[] = {
                { "file", NULL, NULL },        { "", NULL, NULL },
                { "/a:b", NULL, NULL },        { "./a:b", NULL, NULL },
                { "dir/x:/y", NULL, NULL },    { ":/x", NULL, NULL },
                { "g:/x", "g", "/x" },         { "g:", "g", "" },
                { "g:x", "g", "x" },           { "g:/x:y", "g", "/x:y" },
                { "g:/x:/y", "g", "/x:/y" },   { "a:b:/etc/x", "a:b", "/etc/x" },
                { "a::/x", "a:", "/x" },       { "a:b:c", "a", "b:c" },
                { "a:b/c:/d", "a", "b/c:/d" }, /* no name has a slash */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *guest = NULL;
                const char *path = copy_path_split(cases[i].in, &guest);

                ck_assert_pstr_eq(guest, cases[i].guest);
                ck_assert_pstr_eq(path, cases[i].path);
        }
}
END_TEST

START_TEST(test_clean)
{
        static const struct {
                const char *in, *out;
                bool contents;
        } cases[] = {
                { "/a", "/a", false },
                { "/a/b", "/a/b", false },
                { "/a/", "/a/", false },
                { "/a//", "/a/", false },
                { "/etc//hosts", "/etc/hosts", false },
                { "//etc/hosts", "/etc/hosts", false },
                { "/a/./b", "/a/b", false },
                { "/./a", "/a", false },
                { "/a/.", "/a/", true },
                { "/a/./", "/a/", true },
                { "/a/././/.", "/a/", true },
                { "/", "/", true },
                { "///", "/", true },
                { "/.", "/", true },
                { "/a/.b", "/a/.b", false },
                { "/a/b.", "/a/b.", false },
                { "/a/...", "/a/...", false },
                { "/a/../b", "/a/../b", false },
                { "/a/..", "/a/..", false },
                { "a//b", "a//b", false },
                { ".", ".", false },
                { "", "", false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                bool contents;
                _cleanup_free_ char *out = copy_path_clean(cases[i].in, &contents);

                ck_assert_str_eq(out, cases[i].out);
                ck_assert_msg(contents == cases[i].contents, "%s", cases[i].in);
        }
}
END_TEST

START_TEST(test_resolve)
{
        static const struct {
                const char *in, *out; /* beneath the directory; NULL: errno */
                bool contents;
                int error;
        } cases[] = {
                { "d/f", "/d/f", false, 0 },
                { "d//f", "/d/f", false, 0 },
                { "d/../d/./f", "/d/f", false, 0 },
                { "missing", "/missing", false, 0 },
                { "d", "/d", false, 0 },
                { "d/", "/d/", false, 0 },
                { "link", "/link", false, 0 }, /* a link is what is copied */
                { "link/f", "/d/f", false, 0 },
                { "d/.", "/d/", true, 0 },
                { "d/.//", "/d/", true, 0 },
                { "link/.", "/d/", true, 0 },
                { ".", "/", true, 0 },
                { "d/..", "/", true, 0 },
                { "d/f/.", NULL, false, ENOTDIR },
                { "no/such", NULL, false, ENOENT },
                { "no/.", NULL, false, ENOENT },
                { "", NULL, false, ENOENT }, /* not the directory that we are in */
        };
        char directory[] = "/tmp/test-copy-path-XXXXXX", here[PATH_MAX], expected[PATH_MAX + 64];
        bool contents;

        ck_assert_ptr_nonnull(mkdtemp(directory));
        ck_assert_int_eq(chdir(directory), 0);
        ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
        ck_assert_int_eq(mkdir("d", 0755), 0);
        ck_assert_int_eq(symlink("d", "link"), 0);
        ck_assert_int_eq(symlink("/dev/null", "d/f"), 0);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *out = NULL;

                errno = 0;
                out = copy_path_resolve(cases[i].in, &contents);
                if (!cases[i].out) {
                        ck_assert_ptr_null(out);
                        ck_assert_int_eq(errno, cases[i].error);
                        continue;
                }
                (void)snprintf(expected, sizeof(expected), "%s%s", here, cases[i].out);
                ck_assert_str_eq(out, expected);
                ck_assert_msg(contents == cases[i].contents, "%s", cases[i].in);
        }
        ck_assert_int_eq(unlink("d/f") | unlink("link") | rmdir("d") | chdir("/") | rmdir(directory), 0);
        _cleanup_free_ char *root = copy_path_resolve("/", &contents);
        ck_assert_str_eq(root, "/");
        ck_assert(contents);
}
END_TEST

START_TEST(test_name)
{
        static const char *const cases[][2] = {
                { "/a/b", "b" }, { "/a/b/", "b" }, { "/b", "b" }, { "/", "" }, { "b", "b" }, { "", "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *name = copy_path_name(cases[i][0]);

                ck_assert_str_eq(name, cases[i][1]);
        }
}
END_TEST

SUITE("copy-path", { test_split }, { test_clean }, { test_resolve }, { test_name })
