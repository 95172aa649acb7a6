/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Escaping of foreign text. What could move a cursor, reorder a line or break a D-Bus string is written out
 * as \xNN: C0, DEL and C1 controls, the bidirectional overrides, line separators, Unicode's noncharacters
 * (sd-bus refuses a message with one), and bytes that are no UTF-8.
 */

#include "base/escape.h"

#include "base/base.h"

#define ELLIPSIS "\xe2\x80\xa6"

size_t escape_utf8_length(const char *s, size_t n)
{
        const uint8_t *b = (const uint8_t *)s;
        uint32_t min, c;
        size_t len;

        if (n == 0)
                return 0;
        if (b[0] < 0x80)
                return 1;
        if ((b[0] & 0xe0) == 0xc0)
                len = 2, min = 0x80, c = b[0] & 0x1f;
        else if ((b[0] & 0xf0) == 0xe0)
                len = 3, min = 0x800, c = b[0] & 0x0f;
        else if ((b[0] & 0xf8) == 0xf0)
                len = 4, min = 0x10000, c = b[0] & 0x07;
        else
                return 0;
        if (n < len)
                return 0;
        for (size_t i = 1; i < len; i++) {
                if ((b[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (b[i] & 0x3f);
        }
        if (c < min || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
                return 0;
        return len;
}

static bool is_unfit(const uint8_t *b, size_t len)
{
        if (len == 1)
                return b[0] < 0x20 || b[0] == 0x7f;
        if (len == 2)
                return b[0] == 0xc2 && b[1] < 0xa0;
        if (len == 3 && b[0] == 0xe2)
                return (b[1] == 0x80 && b[2] >= 0xa8 && b[2] <= 0xae) ||
                       (b[1] == 0x81 && b[2] >= 0xa6 && b[2] <= 0xa9);
        if (len == 3 && b[0] == 0xef) /* U+FDD0 to U+FDEF, U+FFFE, U+FFFF */
                return (b[1] == 0xb7 && b[2] >= 0x90 && b[2] <= 0xaf) || (b[1] == 0xbf && b[2] >= 0xbe);
        if (len == 4) /* the last two of each plane */
                return (b[1] & 0x0f) == 0x0f && b[2] == 0xbf && b[3] >= 0xbe;
        return false;
}

char *escape_text(const char *untrusted, size_t n, size_t max)
{
        static const char hex[] = "0123456789abcdef";
        const size_t n_ellipsis = sizeof(ELLIPSIS) - 1;
        size_t allocated, o = 0, fits = 0;
        bool cut = false;
        char *out;

        if (!size_mul(n, 4, &allocated))
                return NULL;
        allocated = MIN(allocated, max) + 1;
        out = malloc(allocated);
        if (!out)
                return NULL;

        for (size_t i = 0; i < n && !cut;) {
                const uint8_t *b = (const uint8_t *)untrusted + i;
                size_t len = escape_utf8_length(untrusted + i, n - i), width;
                bool raw = len > 0 && !is_unfit(b, len);

                if (len == 0)
                        len = 1;
                width = !raw ? 4 * len : b[0] == '\\' ? 2 : len;
                if (max - o < width) {
                        cut = true;
                        break;
                }
                if (!raw) {
                        for (size_t k = 0; k < len; k++) {
                                out[o++] = '\\';
                                out[o++] = 'x';
                                out[o++] = hex[b[k] >> 4];
                                out[o++] = hex[b[k] & 15];
                        }
                } else {
                        if (b[0] == '\\')
                                out[o++] = '\\';
                        memcpy(out + o, b, len);
                        o += len;
                }
                i += len;
                /* The last place from where the ellipsis still fits. */
                if (max - o >= n_ellipsis)
                        fits = o;
        }
        if (cut) {
                o = fits;
                if (max - o >= n_ellipsis) {
                        if (allocated < o + n_ellipsis + 1) {
                                char *p = realloc(out, o + n_ellipsis + 1);
                                if (!p) {
                                        free(out);
                                        return NULL;
                                }
                                out = p;
                        }
                        memcpy(out + o, ELLIPSIS, n_ellipsis);
                        o += n_ellipsis;
                }
        }
        out[o] = 0;
        return out;
}
