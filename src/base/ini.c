/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The key=value reader: lines, continuations, sections; drop-in directories; and the three kinds of values
 * that both daemons have. Syntax follows systemd.syntax(7): a comment has a line of its own, also between
 * continued lines.
 */

#include "base/ini.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/escape.h"
#include "base/fs.h"

#define BLANK " \t\r\v\f"

static char *trim(char *s)
{
        size_t n;

        s += strspn(s, BLANK);
        n = strlen(s);
        while (n > 0 && strchr(BLANK, s[n - 1]))
                s[--n] = 0;
        return s;
}

static bool is_utf8(const char *s, size_t n)
{
        while (n > 0) {
                size_t k = escape_utf8_length(s, n);

                if (k == 0)
                        return false;
                s += k;
                n -= k;
        }
        return true;
}

static bool is_key(const char *s)
{
        return *s &&
               strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(s);
}

typedef struct Reader {
        const char *file;
        IniAssign assign;
        IniComplain complain;
        void *userdata;
        char *section;
        bool section_broken; /* assignments of a section without a name belong nowhere */
} Reader;

static void complain(Reader *r, unsigned line, const char *why)
{
        if (r->complain)
                r->complain(r->userdata, r->file, line, why);
}

/* One logical line, already trimmed, neither empty nor a comment. */
static int take_line(Reader *r, unsigned line, char *s)
{
        char *equals;

        if (*s == '[') {
                size_t n = strlen(s);
                char *section;

                r->section_broken = true;
                if (s[n - 1] != ']' || n < 3) {
                        complain(r, line,
                                 "A section header is [NAME] on a line of its own; skipping to the next.");
                        return 0;
                }
                s[n - 1] = 0;
                section = strdup(trim(s + 1));
                if (!section)
                        return -ENOMEM;
                free(r->section);
                r->section = section;
                r->section_broken = false;
                return r->assign(r->userdata, r->file, line, section, NULL, NULL);
        }
        equals = strchr(s, '=');
        if (!equals) {
                complain(r, line, "This is neither [Section] nor Key=value");
                return 0;
        }
        *equals = 0;
        s = trim(s);
        if (!is_key(s)) {
                complain(r, line, "A key is made of letters, digits, '-' and '_'");
                return 0;
        }
        if (r->section_broken)
                return 0;
        return r->assign(r->userdata, r->file, line, r->section ? r->section : "", s, trim(equals + 1));
}

int ini_parse(const char *file, const char *text, size_t n, IniAssign assign, IniComplain on_complain,
              void *userdata)
{
        Reader reader = { .file = file, .assign = assign, .complain = on_complain, .userdata = userdata };
        _cleanup_free_ char *joined = NULL;
        size_t n_joined = 0, at = 0;
        unsigned line = 0, first = 0;
        bool continued = false, broken = false;
        int r = 0;

        if (n > INI_FILE_MAX)
                return -EFBIG;
        if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
                at = 3;
        joined = malloc(n + 2);
        if (!joined)
                return -ENOMEM;

        while (r >= 0 && (at < n || continued)) {
                const char *start = text + at, *end = at < n ? memchr(start, '\n', n - at) : NULL;
                size_t len = at >= n ? 0 : end ? (size_t)(end - start) : n - at, blank = 0;
                bool last = at + len >= n;

                at += len + 1;
                line++;
                while (len > 0 && strchr(BLANK, start[len - 1]) && start[len - 1])
                        len--;
                while (blank < len && strchr(BLANK, start[blank]) && start[blank])
                        blank++;
                if (blank < len && (start[blank] == '#' || start[blank] == ';')) {
                        if (!continued || !last)
                                continue;
                        len = 0;
                }
                if (!continued) {
                        n_joined = 0;
                        first = line;
                        broken = false;
                }
                if (memchr(start, 0, len) || !is_utf8(start, len)) {
                        complain(&reader, line, "This is not valid UTF-8 text");
                        broken = true;
                }
                continued = len > 0 && start[len - 1] == '\\' && !last;
                if (len > 0 && start[len - 1] == '\\')
                        len--;
                if (!broken) {
                        memcpy(joined + n_joined, start, len);
                        n_joined += len;
                        if (continued)
                                joined[n_joined++] = ' ';
                }
                if (!continued && !broken) {
                        char *s;

                        joined[n_joined] = 0;
                        s = trim(joined);
                        if (*s)
                                r = take_line(&reader, first, s);
                }
        }
        free(reader.section);
        return r < 0 ? r : 0;
}

int ini_read(const char *file, IniAssign assign, IniComplain on_complain, void *userdata)
{
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        r = fs_read_file(file, INI_FILE_MAX, &text, &n);
        if (r < 0)
                return r;
        return ini_parse(file, text, n, assign, on_complain, userdata);
}

static const char *base_name(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(base_name(*(char *const *)a), base_name(*(char *const *)b));
}

char **ini_files_free(char **files)
{
        if (files)
                for (char **f = files; *f; f++)
                        free(*f);
        free(files);
        return NULL;
}
DEFINE_CLEANUP(char **, ini_files_free);

/* Puts path into the list, in the place of one of the same file name. Takes path. */
static int put_file(char ***files, size_t *n, char *path)
{
        char **p;

        for (size_t i = 0; i < *n; i++)
                if (str_eq(base_name((*files)[i]), base_name(path))) {
                        free((*files)[i]);
                        (*files)[i] = path;
                        return 0;
                }
        p = reallocarray(*files, *n + 2, sizeof *p);
        if (!p) {
                free(path);
                return -ENOMEM;
        }
        *files = p;
        p[(*n)++] = path;
        p[*n] = NULL;
        return 0;
}

static DIR *closedir_null(DIR *d)
{
        (void)closedir(d);
        return NULL;
}
DEFINE_CLEANUP(DIR *, closedir_null);

static int list_directory(const char *dir, const char *suffix, char ***files, size_t *n)
{
        _cleanup_(closedir_nullp) DIR *d = opendir(dir);
        size_t n_suffix = strlen(suffix);
        struct dirent *de;

        if (!d)
                return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
        while ((errno = 0, de = readdir(d))) {
                size_t len = strlen(de->d_name);
                char *path;
                int r;

                if (de->d_name[0] == '.' || len <= n_suffix || !str_eq(de->d_name + len - n_suffix, suffix))
                        continue;
                if (asprintf(&path, "%s/%s", dir, de->d_name) < 0)
                        return -ENOMEM;
                r = put_file(files, n, path);
                if (r < 0)
                        return r;
        }
        return errno > 0 ? -errno : 0;
}

static bool is_mask(const char *path)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return false; /* who reads it will say why it can't */
        return S_ISCHR(st.st_mode) || (S_ISREG(st.st_mode) && st.st_size == 0);
}

int ini_list_files(const char *const *dirs, const char *suffix, char ***ret)
{
        _cleanup_(ini_files_freep) char **files = NULL;
        size_t n = 0, kept = 0;

        files = calloc(1, sizeof *files);
        if (!files)
                return -ENOMEM;
        for (; *dirs; dirs++) {
                int r = list_directory(*dirs, suffix, &files, &n);

                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < n; i++) {
                if (is_mask(files[i]))
                        free(files[i]);
                else
                        files[kept++] = files[i];
        }
        files[kept] = NULL;
        qsort(files, kept, sizeof *files, compare_names);
        *ret = TAKE(files);
        return 0;
}

int ini_bool(const char *value, bool *ret)
{
        static const char *const yes[] = { "yes", "true", "on", "1" }, *const no[] = { "no", "false", "off",
                                                                                       "0" };

        for (size_t i = 0; i < ELEMENTSOF(yes); i++) {
                if (strcasecmp(value, yes[i]) == 0)
                        return *ret = true, 0;
                if (strcasecmp(value, no[i]) == 0)
                        return *ret = false, 0;
        }
        return -EINVAL;
}

static int parse_number(const char **p, uint64_t *ret)
{
        uint64_t v = 0;

        if (**p < '0' || **p > '9')
                return -EINVAL;
        for (; **p >= '0' && **p <= '9'; (*p)++)
                if (__builtin_mul_overflow(v, 10, &v) ||
                    __builtin_add_overflow(v, (uint64_t)(**p - '0'), &v))
                        return -ERANGE;
        *ret = v;
        return 0;
}

int ini_usec(const char *value, uint64_t *ret)
{
        static const struct {
                const char *name;
                uint64_t usec;
        } units[] = {
                { "us", 1 },
                { "usec", 1 },
                { "ms", USEC_PER_MSEC },
                { "msec", USEC_PER_MSEC },
                { "s", USEC_PER_SEC },
                { "sec", USEC_PER_SEC },
                { "second", USEC_PER_SEC },
                { "seconds", USEC_PER_SEC },
                { "m", 60 * USEC_PER_SEC },
                { "min", 60 * USEC_PER_SEC },
                { "minute", 60 * USEC_PER_SEC },
                { "minutes", 60 * USEC_PER_SEC },
                { "h", 3600 * USEC_PER_SEC },
                { "hour", 3600 * USEC_PER_SEC },
                { "hours", 3600 * USEC_PER_SEC },
                { "d", 86400 * USEC_PER_SEC },
                { "day", 86400 * USEC_PER_SEC },
                { "days", 86400 * USEC_PER_SEC },
                { "w", 7 * 86400 * USEC_PER_SEC },
                { "week", 7 * 86400 * USEC_PER_SEC },
                { "weeks", 7 * 86400 * USEC_PER_SEC },
        };
        const char *p = value + strspn(value, BLANK);
        uint64_t sum = 0;

        if (str_eq(p, "infinity"))
                return *ret = USEC_INFINITY, 0;
        do {
                uint64_t v, unit = USEC_PER_SEC;
                size_t n;
                int r;

                r = parse_number(&p, &v);
                if (r < 0)
                        return r;
                p += strspn(p, BLANK);
                n = strspn(p, "abcdefghijklmnopqrstuvwxyz");
                if (n > 0) {
                        unit = 0;
                        for (size_t i = 0; i < ELEMENTSOF(units); i++)
                                if (strlen(units[i].name) == n && memcmp(units[i].name, p, n) == 0)
                                        unit = units[i].usec;
                        if (unit == 0)
                                return -EINVAL;
                        p += n;
                        p += strspn(p, BLANK);
                }
                if (__builtin_mul_overflow(v, unit, &v) || __builtin_add_overflow(sum, v, &sum))
                        return -ERANGE;
        } while (*p);
        if (sum == USEC_INFINITY)
                return -ERANGE;
        *ret = sum;
        return 0;
}

int ini_size(const char *value, uint64_t *ret)
{
        static const char suffixes[] = "KMGT";
        const char *p = value, *s;
        uint64_t v;
        int r;

        r = parse_number(&p, &v);
        if (r < 0)
                return r;
        if (*p && (s = strchr(suffixes, *p))) {
                for (const char *q = suffixes; q <= s; q++)
                        if (__builtin_mul_overflow(v, 1024, &v))
                                return -ERANGE;
                p++;
        }
        if (*p)
                return -EINVAL;
        *ret = v;
        return 0;
}
