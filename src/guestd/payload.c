/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/payload.h"

#include "base/base.h"
#include "proto/limits.h"
#include "proto/name.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static json_object *base64_format(const uint8_t *data, size_t n)
{
        size_t n_text = (n + 2) / 3 * 4, k = 0;
        _cleanup_free_ char *text = malloc(n_text + 1);
        if (!text)
                return NULL;
        for (size_t i = 0; i < n; i += 3) {
                uint32_t v = (uint32_t)data[i] << 16 | (uint32_t)(i + 1 < n ? data[i + 1] : 0) << 8 |
                             (i + 2 < n ? data[i + 2] : 0);
                for (int j = 0; j < 4; j++)
                        text[k++] = i + (size_t)j > n ? '=' : digits[v >> (18 - 6 * j) & 63];
        }
        return json_object_new_string_len(text, (int)n_text);
}

static int base64_parse(const char *text, size_t n, uint8_t **ret, size_t *ret_n)
{
        if (n % 4 != 0)
                return -EBADMSG;
        if (n / 4 * 3 > PAYLOAD_MAX + 2)
                return -E2BIG;
        _cleanup_free_ uint8_t *data = malloc(n / 4 * 3 + 1);
        if (!data)
                return -ENOMEM;
        size_t n_pad = n && text[n - 1] == '=' ? 1 + (text[n - 2] == '=') : 0, k = 0;
        uint32_t v = 0;
        for (size_t i = 0; i < n; i++) {
                const char *digit = i >= n - n_pad ? digits : memchr(digits, text[i], sizeof(digits) - 1);
                if (!digit)
                        return -EBADMSG;
                v = v << 6 | (uint32_t)(digit - digits);
                if (i % 4 == 3) {
                        data[k++] = (uint8_t)(v >> 16);
                        data[k++] = (uint8_t)(v >> 8);
                        data[k++] = (uint8_t)v;
                        v = 0;
                }
        }
        k -= n_pad;
        if (k > PAYLOAD_MAX)
                return -E2BIG;
        data[k] = 0;
        *ret_n = k;
        *ret = TAKE(data);
        return 0;
}

int payload_put(json_object *o, const void *data, size_t n)
{
        bool is_text = n == 0 || (!memchr(data, 0, n) && name_is_utf8(data, n));
        json_object *value =
                is_text ? json_object_new_string_len(n ? data : "", (int)n) : base64_format(data, n);
        if (!value)
                return -ENOMEM;
        if (json_object_object_add(o, is_text ? "text" : "data64", value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

int payload_get(json_object *untrusted_o, uint8_t **ret_data, size_t *ret_n)
{
        json_object *text = NULL, *data64 = NULL;
        bool has_text = json_object_object_get_ex(untrusted_o, "text", &text);
        bool has_data64 = json_object_object_get_ex(untrusted_o, "data64", &data64);
        json_object *value = has_text ? text : data64;
        if ((has_text && has_data64) ||
            ((has_text || has_data64) && !json_object_is_type(value, json_type_string)))
                return -EBADMSG;
        const char *s = value ? json_object_get_string(value) : "";
        size_t n = value ? (size_t)json_object_get_string_len(value) : 0;
        if (has_data64)
                return base64_parse(s, n, ret_data, ret_n);
        if (n > PAYLOAD_MAX)
                return -E2BIG;
        uint8_t *copy = malloc(n + 1);
        if (!copy)
                return -ENOMEM;
        memcpy(copy, s, n);
        copy[n] = 0;
        *ret_data = copy;
        *ret_n = n;
        return 0;
}
