/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader of configuration: every kind of line, right and wrong, with its number; drop-in directories;
 * values.
 */

#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"
#include "base/ini.h"
#include "../suite.h"

static char got[4096];

static int on_assign(void *userdata, const char *file, unsigned line, const char *section, const char *key,
                     const char *value)
{
        size_t n = strlen(got);

        if (!key)
                return 0;
        (void)snprintf(got + n, sizeof got - n, "%u[%s]%s=%s|", line, section, key, value);
        return str_eq(key, "Stop") ? -ECANCELED : 0;
}

static void on_complain(void *userdata, const char *file, unsigned line, const char *why)
{
        size_t n = strlen(got);

        ck_assert_str_eq(file, "x.conf");
        ck_assert_uint_gt(strlen(why), 10);
        (void)snprintf(got + n, sizeof got - n, "%u!|", line);
}

START_TEST(test_lines)
{
        static const struct {
                const char *text, *result;
        } cases[] = {
                { "", "" },
                { "\n\n", "" },
                { "# c\n; c\n  # c\n", "" },
                { "A=1", "1[]A=1|" },
                { "[S]\nA=1\nB = 2 \n", "2[S]A=1|3[S]B=2|" },
                { "[S]\r\nA=1\r\n", "2[S]A=1|" },
                { "\xef\xbb\xbf[S]\nA=1", "2[S]A=1|" },
                { "[Step site config]\nPush=/a:/b\n", "2[Step site config]Push=/a:/b|" },
                { "[ S ]\nA=\n", "2[S]A=|" },
                { "[S]\nA=a=b#c\n", "2[S]A=a=b#c|" },
                { "[S]\nA=1 \\\n  2\nB=3", "2[S]A=1    2|4[S]B=3|" },
                { "[S]\nA=1\\\n# in between\n2\n", "2[S]A=1 2|" },
                { "[S]\nA=1\\", "2[S]A=1|" },
                { "[S]\nA=1\\\n# the last", "2[S]A=1|" },
                { "[S]\nnonsense\nA=1\n", "2!|3[S]A=1|" },
                { "[S\nA=1\n[T]\nB=2", "1!|4[T]B=2|" },
                { "[]\nA=1\n[T]\nB=2", "1!|4[T]B=2|" },
                { "[S]\n=1\nA b=2\nC=3", "2!|3!|4[S]C=3|" },
                { "[S]\nA=\xff\nB=1", "2!|3[S]B=1|" },
                { "[S]\nA=1\nStop=2\nB=3", "2[S]A=1|3[S]Stop=2|" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                size_t n = strlen(cases[i].text);
                _cleanup_free_ char *copy = malloc(n + 1);
                int r;

                memcpy(copy, cases[i].text, n);
                got[0] = 0;
                r = ini_parse("x.conf", copy, n, on_assign, on_complain, NULL);
                ck_assert_int_eq(r, strstr(cases[i].text, "Stop") ? -ECANCELED : 0);
                ck_assert_msg(str_eq(got, cases[i].result), "%zu: %s", i, got);
        }
        got[0] = 0;
        ck_assert_int_eq(ini_parse("x.conf", "A=1\0\nB=2", 8, on_assign, on_complain, NULL), 0);
        ck_assert_str_eq(got, "1!|2[]B=2|");
        ck_assert_int_eq(ini_parse("x.conf", "nonsense", 8, on_assign, NULL, NULL), 0);
}
END_TEST

static int on_section(void *userdata, const char *file, unsigned line, const char *section, const char *key,
                      const char *value)
{
        size_t n = strlen(got);

        if (!key)
                (void)snprintf(got + n, sizeof got - n, "%u[%s]%s|", line, section, value ? "!" : "");
        return str_eq(section, "Stop") ? -ECANCELED : 0;
}

START_TEST(test_sections)
{
        static const char text[] = "A=1\n[S]\n\n[T x]\nB=1\n[S]\n[\n[Stop]\n[U]\n";

        got[0] = 0;
        ck_assert_int_eq(ini_parse("x.conf", text, strlen(text), on_section, NULL, NULL), -ECANCELED);
        ck_assert_str_eq(got, "2[S]|4[T x]|6[S]|8[Stop]|");
}
END_TEST

START_TEST(test_size_limit)
{
        _cleanup_free_ char *text = malloc(INI_FILE_MAX + 1);

        memset(text, '#', INI_FILE_MAX + 1);
        ck_assert_int_eq(ini_parse("x.conf", text, INI_FILE_MAX, on_assign, on_complain, NULL), 0);
        ck_assert_int_eq(ini_parse("x.conf", text, INI_FILE_MAX + 1, on_assign, on_complain, NULL), -EFBIG);
}
END_TEST

START_TEST(test_drop_ins)
{
        char dir[] = "/tmp/vmferry-ini-XXXXXX", command[1024], a[64], b[64], none[64];
        char **files = NULL;

        ck_assert_ptr_nonnull(mkdtemp(dir));
        (void)snprintf(a, sizeof a, "%s/a", dir);
        (void)snprintf(b, sizeof b, "%s/b", dir);
        (void)snprintf(none, sizeof none, "%s/none", dir);
        (void)snprintf(
                command, sizeof command,
                "cd %s && mkdir a b && echo X=1 >a/10.conf && echo X=1 >a/20.conf && echo X=1 >a/30.conf && "
                "echo X=1 >a/40.conf && echo X=2 >b/20.conf && : >b/30.conf && ln -s /dev/null b/40.conf && "
                "echo X=3 >b/05.conf && echo X >b/.hidden.conf && echo X >b/other && echo X >b/.conf",
                dir);
        ck_assert_int_eq(system(command), 0);
        ck_assert_int_eq(ini_list_files((const char *const[]){ a, none, b, NULL }, ".conf", &files), 0);
        ck_assert_ptr_nonnull(files[0]);
        ck_assert(strstr(files[0], "/b/05.conf"));
        ck_assert(strstr(files[1], "/a/10.conf"));
        ck_assert(strstr(files[2], "/b/20.conf"));
        ck_assert_ptr_null(files[3]);
        got[0] = 0;
        ck_assert_int_eq(ini_read(files[2], on_assign, NULL, NULL), 0);
        ck_assert_str_eq(got, "1[]X=2|");
        ck_assert_int_eq(ini_read(none, on_assign, NULL, NULL), -ENOENT);
        files = ini_files_free(files);
        ck_assert_int_eq(ini_list_files((const char *const[]){ NULL }, ".conf", &files), 0);
        ck_assert_ptr_null(files[0]);
        files = ini_files_free(files);
        (void)snprintf(command, sizeof command, "rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(test_values)
{
        static const struct {
                const char *text;
                int r;
                uint64_t v;
        } times[] = {
                { "5", 0, 5000000 },        { "30s", 0, 30000000 },       { "5min 20s", 0, 320000000 },
                { "2h", 0, 7200000000 },    { "100ms", 0, 100000 },       { "10us", 0, 10 },
                { "7d", 0, 604800000000 },  { "infinity", 0, USEC_INFINITY }, { "0", 0, 0 },
                { "1min20", 0, 80000000 },  { "2 h", 0, 7200000000 },     { "", -EINVAL, 0 },
                { "-1", -EINVAL, 0 },       { "5 parsecs", -EINVAL, 0 },  { "s", -EINVAL, 0 },
                { "1.5s", -EINVAL, 0 },     { "infinity 1", -EINVAL, 0 },
                { "99999999999999999999", -ERANGE, 0 },
                { "18446744073709w", -ERANGE, 0 }, { "18446744073709551615us", -ERANGE, 0 },
        }, sizes[] = {
                { "0", 0, 0 },              { "17", 0, 17 },              { "64K", 0, 65536 },
                { "3G", 0, 3221225472 },    { "1T", 0, 1099511627776 },
                { "18446744073709551615", 0, UINT64_MAX },
                { "", -EINVAL, 0 },         { "K", -EINVAL, 0 },          { "1k", -EINVAL, 0 },
                { "1KB", -EINVAL, 0 },      { "-1", -EINVAL, 0 },         { "99999999T", -ERANGE, 0 },
        };
        uint64_t v;
        bool b;

        for (size_t i = 0; i < ELEMENTSOF(times); i++) {
                v = 1234;
                ck_assert_msg(ini_usec(times[i].text, &v) == times[i].r, "%s", times[i].text);
                ck_assert_uint_eq(v, times[i].r < 0 ? 1234 : times[i].v);
        }
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                v = 1234;
                ck_assert_msg(ini_size(sizes[i].text, &v) == sizes[i].r, "%s", sizes[i].text);
                ck_assert_uint_eq(v, sizes[i].r < 0 ? 1234 : sizes[i].v);
        }
        ck_assert_int_eq(ini_bool("yes", &b), 0);
        ck_assert(b);
        ck_assert_int_eq(ini_bool("Off", &b), 0);
        ck_assert(!b);
        ck_assert_int_eq(ini_bool("perhaps", &b), -EINVAL);
        ck_assert_int_eq(ini_bool("", &b), -EINVAL);
}
END_TEST

SUITE("ini",
      { test_lines },
      { test_sections },
      { test_size_limit },
      { test_drop_ins },
      { test_values })
