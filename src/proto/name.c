/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The judge of names. Pure, no locale: what is a letter here is one in every guest. UTF-8 is judged as
 * sd-bus judges it (Unicode 15, table 3-7, and no noncharacters), so that what passes here never makes it
 * refuse a message.
 */

#include "proto/name.h"

#include "base/base.h"
#include "proto/limits.h"

static bool is_alnum(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool name_is_topic(const char *untrusted)
{
        size_t n;

        if (!untrusted || untrusted[0] == '.')
                return false;
        for (n = 0; untrusted[n]; n++) {
                char c = untrusted[n];

                if (n >= TOPIC_MAX || !(is_alnum(c) || c == '.' || c == '_' || c == '-'))
                        return false;
        }
        return n > 0;
}

/* One component of n bytes. */
static bool is_component(const char *s, size_t n)
{
        if (n == 0 || n > NAME_BYTES_MAX)
                return false;
        return !(s[0] == '.' && (n == 1 || (n == 2 && s[1] == '.')));
}

/* Components with one slash between each; n is not 0. */
static bool are_components(const char *s, size_t n)
{
        for (;;) {
                const char *slash = memchr(s, '/', n);
                size_t n_component = slash ? (size_t)(slash - s) : n;

                if (!is_component(s, n_component))
                        return false;
                if (!slash)
                        return true;
                s += n_component + 1;
                n -= n_component + 1;
        }
}

bool name_is_absolute_path(const char *untrusted)
{
        size_t n;

        if (!untrusted || untrusted[0] != '/')
                return false;
        n = strnlen(untrusted, PATH_BYTES_MAX + 1);
        if (n > PATH_BYTES_MAX)
                return false;
        if (n == 1)
                return true;
        if (untrusted[n - 1] == '/')
                n--;
        return are_components(untrusted + 1, n - 1);
}

bool name_is_rooted(const char *untrusted)
{
        return untrusted && untrusted[0] == '/' && strnlen(untrusted, PATH_BYTES_MAX + 1) <= PATH_BYTES_MAX;
}

bool name_is_tree_path(const char *untrusted, size_t n)
{
        if (!untrusted || n == 0 || n > PATH_BYTES_MAX || memchr(untrusted, 0, n))
                return false;
        return are_components(untrusted, n);
}

bool name_is_id(const char *untrusted)
{
        size_t n;

        if (!untrusted)
                return false;
        for (n = 0; untrusted[n]; n++) {
                char c = untrusted[n];

                if (n >= 32 || !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
                        return false;
        }
        return n > 0;
}

bool name_is_text(const char *untrusted, size_t max)
{
        size_t n;

        if (!untrusted)
                return false;
        for (n = 0; untrusted[n]; n++) {
                unsigned char c = (unsigned char)untrusted[n];

                if (n >= max || (c < 0x20 && c != '\t' && c != '\n'))
                        return false;
        }
        return name_is_utf8(untrusted, n);
}

bool name_is_variable(const char *untrusted)
{
        return untrusted && untrusted[0] && !strchr(untrusted, '=');
}

/* The length of the character at s, which has n > 0 bytes; 0: it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
        uint32_t c;
        size_t length;

        if (s[0] < 0x80)
                return s[0] ? 1 : 0;
        if (s[0] < 0xc2 || s[0] > 0xf4)
                return 0;
        length = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
        if (length > n)
                return 0;
        c = s[0] & (0x7fu >> length);
        for (size_t i = 1; i < length; i++) {
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (s[i] & 0x3f);
        }
        /* overlong, surrogate, past the end, noncharacter */
        if ((length == 3 && c < 0x800) || (length == 4 && c < 0x10000) || (c >= 0xd800 && c <= 0xdfff) ||
            c > 0x10ffff || (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
                return 0;
        return length;
}

bool name_is_utf8(const char *untrusted, size_t n)
{
        const unsigned char *s = (const unsigned char *)untrusted;

        while (n > 0) {
                size_t length = utf8_length(s, n);

                if (length == 0)
                        return false;
                s += length;
                n -= length;
        }
        return true;
}
