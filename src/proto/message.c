/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * JSON at the border. What json-c lets pass and we don't: text behind the object, escaped NULs, UTF-8 that
 * sd-bus would refuse. A payload is copied once, the text not at all.
 */

#include "proto/message.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/base.h"
#include "proto/name.h"

#define ERROR_TEXT_MAX 1024u

static json_tokener *tokener_free(json_tokener *t)
{
        json_tokener_free(t);
        return NULL;
}
DEFINE_CLEANUP(json_tokener *, tokener_free);

static json_object *object_put(json_object *o)
{
        (void)json_object_put(o);
        return NULL;
}
DEFINE_CLEANUP(json_object *, object_put);

/* json-c cuts keys at a NUL, and every reader of a C string cuts values: nobody may mean two things with one
 * text. */
static bool has_escaped_nul(const char *text, size_t n)
{
        static const char needle[] = "\\u0000";
        const char *end = text + n, *at = text;

        while ((at = memmem(at, (size_t)(end - at), needle, sizeof(needle) - 1))) {
                size_t n_before = 0;

                while (at - n_before > text && at[-1 - (ssize_t)n_before] == '\\')
                        n_before++;
                if (n_before % 2 == 0)
                        return true;
                at++;
        }
        return false;
}

static int parse_object(const char *text, size_t n, json_object **ret)
{
        _cleanup_(tokener_freep) json_tokener *t = NULL;
        _cleanup_(object_putp) json_object *o = NULL;

        if (n == 0 || !name_is_utf8(text, n) || has_escaped_nul(text, n))
                return -EBADMSG;
        /* json-c counts the scalar in the innermost object as one more */
        t = json_tokener_new_ex(MESSAGE_DEPTH_MAX + 1);
        if (!t)
                return -ENOMEM;
        json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        o = json_tokener_parse_ex(t, text, (int)n);
        if (json_tokener_get_error(t) != json_tokener_success || json_tokener_get_parse_end(t) != n)
                return -EBADMSG;
        if (!json_object_is_type(o, json_type_object))
                return -EBADMSG;
        *ret = TAKE(o);
        return 0;
}

int message_parse(const uint8_t *untrusted_data, size_t n, Message *ret)
{
        _cleanup_(object_putp) json_object *json = NULL;
        const uint8_t *nul = n > 0 ? memchr(untrusted_data, 0, n) : NULL;
        size_t n_text = nul ? (size_t)(nul - untrusted_data) : n, n_payload = 0;
        uint8_t *raw = NULL;
        int r;

        if (n_text > MESSAGE_JSON_MAX)
                return -E2BIG;
        if (nul)
                n_payload = n - n_text - 1;
        if (n_payload > PAYLOAD_MAX)
                return -E2BIG;
        r = parse_object((const char *)untrusted_data, n_text, &json);
        if (r < 0)
                return r;
        if (nul) {
                raw = malloc(n_payload + 1);
                if (!raw)
                        return -ENOMEM;
                memcpy(raw, nul + 1, n_payload);
                raw[n_payload] = 0;
        }
        *ret = (Message){ .json = TAKE(json), .payload = raw, .n_payload = n_payload, .raw = raw };
        return 0;
}

void message_done(Message *m)
{
        if (m->json)
                (void)json_object_put(m->json);
        free(m->raw);
        *m = (Message){ 0 };
}

int message_format(json_object *json, const void *payload, size_t n_payload, uint8_t **ret_body,
                   size_t *ret_n)
{
        const char *text;
        size_t n_text;
        uint8_t *body;

        text = json_object_to_json_string_length(
                json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n_text);
        if (!text)
                return -ENOMEM;
        if (n_text > MESSAGE_JSON_MAX || n_payload > PAYLOAD_MAX)
                return -E2BIG;
        /* the peer would end the session over it */
        if (!name_is_utf8(text, n_text) || has_escaped_nul(text, n_text))
                return -EILSEQ;
        body = malloc(n_text + 1 + n_payload);
        if (!body)
                return -ENOMEM;
        memcpy(body, text, n_text);
        if (payload) {
                body[n_text++] = 0;
                memcpy(body + n_text, payload, n_payload);
                n_text += n_payload;
        }
        *ret_body = body;
        *ret_n = n_text;
        return 0;
}

const char *message_str(json_object *o, const char *key, const char *otherwise)
{
        json_object *v;

        if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
                return otherwise;
        return json_object_get_string(v);
}

int64_t message_int(json_object *o, const char *key, int64_t otherwise)
{
        json_object *v;

        if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int))
                return otherwise;
        return json_object_get_int64(v);
}

bool message_bool(json_object *o, const char *key, bool otherwise)
{
        json_object *v;

        if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_boolean))
                return otherwise;
        return json_object_get_boolean(v);
}

json_object *message_obj(json_object *o, const char *key)
{
        json_object *v;

        return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

int message_strv(json_object *o, const char *key, size_t max, char ***ret)
{
        json_object *array;
        char **strv;
        size_t n;

        if (!json_object_object_get_ex(o, key, &array))
                return -ENOENT;
        if (!json_object_is_type(array, json_type_array))
                return -EBADMSG;
        n = json_object_array_length(array);
        if (n > max)
                return -E2BIG;
        strv = calloc(n + 1, sizeof(*strv));
        if (!strv)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                json_object *v = json_object_array_get_idx(array, i);
                const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;

                if (!s || strlen(s) != (size_t)json_object_get_string_len(v)) {
                        (void)message_strv_free(strv);
                        return -EBADMSG;
                }
                strv[i] = strdup(s);
                if (!strv[i]) {
                        (void)message_strv_free(strv);
                        return -ENOMEM;
                }
        }
        *ret = strv;
        return 0;
}

char **message_strv_free(char **strv)
{
        if (strv)
                for (size_t i = 0; strv[i]; i++)
                        free(strv[i]);
        free(strv);
        return NULL;
}

/* Paths and strerror() texts find their way into sentences: what is no UTF-8 in them must not cost the
 * session. */
static void text_make_utf8(char *text)
{
        size_t n = strlen(text);

        while (n > 0) {
                size_t length = MIN(n, (size_t)4);

                while (length > 0 && !name_is_utf8(text, length))
                        length--;
                /* several whole characters may have stood in the four bytes, and that is as good */
                if (length == 0) {
                        *text = '?';
                        length = 1;
                }
                text += length;
                n -= length;
        }
}

json_object *message_error(WireError error, const char *format, ...)
{
        _cleanup_(object_putp) json_object *o = NULL;
        char text[ERROR_TEXT_MAX];
        json_object *v;
        va_list args;

        va_start(args, format);
        (void)vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        text_make_utf8(text);

        o = json_object_new_object();
        if (!o)
                return NULL;
        v = json_object_new_string(wire_error_to_string(error));
        if (!v || json_object_object_add(o, "error", v) < 0) {
                (void)object_put(v);
                return NULL;
        }
        v = json_object_new_string(text);
        if (!v || json_object_object_add(o, "message", v) < 0) {
                (void)object_put(v);
                return NULL;
        }
        return TAKE(o);
}

WireError message_get_error(json_object *o, const char **ret_text)
{
        json_object *v;

        *ret_text = message_str(o, "message", "");
        if (!json_object_object_get_ex(o, "error", &v))
                return WIRE_OK;
        return wire_error_from_string(json_object_is_type(v, json_type_string) ? json_object_get_string(v)
                                                                               : NULL);
}
