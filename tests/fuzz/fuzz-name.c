/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The judge of names, beside other judges of the same: GLib's of UTF-8, and a plain walk over a path. And
 * the escaper, whose output must pass.
 */

#include "fuzz.h"

#include <glib.h>

#include "base/base.h"
#include "base/escape.h"
#include "proto/limits.h"
#include "proto/name.h"

/* GLib takes the noncharacters, which sd-bus does not. */
static bool is_utf8(const char *s, size_t n)
{
        if (memchr(s, 0, n) || !g_utf8_validate(s, (gssize)n, NULL))
                return false;
        for (const char *p = s; p < s + n; p = g_utf8_next_char(p)) {
                gunichar c = g_utf8_get_char(p);

                if ((c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
                        return false;
        }
        return true;
}

/* A component at a time; a path is good if none is empty, ".", ".." or too long. */
static bool is_walk(const char *path)
{
        g_auto(GStrv) parts = g_strsplit(path, "/", -1);

        if (!*path || strlen(path) > PATH_BYTES_MAX)
                return false;
        for (char **p = parts; *p; p++)
                if (!**p || str_eq(*p, ".") || str_eq(*p, "..") || strlen(*p) > NAME_BYTES_MAX)
                        return false;
        return true;
}

static bool is_absolute(const char *s)
{
        size_t n = strlen(s);
        _cleanup_free_ char *inner = NULL;

        if (*s != '/' || n > PATH_BYTES_MAX)
                return false;
        if (n == 1)
                return true;
        inner = strndup(s + 1, n - 1 - (s[n - 1] == '/'));
        return is_walk(inner);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        const char *raw = (const char *)data;
        _cleanup_free_ char *s = strndup(raw, n), *shown = NULL, *cut = NULL;
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
        size_t length = strlen(s);

        if (name_is_utf8(raw, n) != is_utf8(raw, n))
                abort();
        if (name_is_tree_path(raw, n) != (n == length && is_walk(s)))
                abort();
        if (name_is_absolute_path(s) != is_absolute(s))
                abort();
        if (name_is_topic(s) !=
            (length > 0 && length <= TOPIC_MAX && *s != '.' && strspn(s, letters) == length))
                abort();
        if (name_is_id(s) != (length > 0 && length <= 32 && strspn(s, "0123456789abcdef") == length))
                abort();
        if (name_is_text(s, 64) && (length > 64 || !is_utf8(s, length)))
                abort();
        if (name_is_variable(s) && (!*s || strchr(s, '=')))
                abort();
        shown = escape_text(raw, n, SIZE_MAX);
        cut = escape_text(raw, n, n / 2);
        if (!shown || !name_is_text(shown, SIZE_MAX) || strpbrk(shown, "\t\n\x7f"))
                abort();
        if (!cut || strlen(cut) > n / 2 || !name_is_text(cut, SIZE_MAX))
                abort();
        return 0;
}
