/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/message.h"

#include <stdio.h>

#include "base/base.h"
#include "../suite.h"

static int parse(const char *text, size_t n)
{
        Message m;
        int r = message_parse((const uint8_t *)text, n, &m);

        if (r == 0)
                message_done(&m);
        return r;
}

START_TEST(test_good)
{
        Message m;

        ck_assert_int_eq(message_parse((const uint8_t *)"{\"a\":\"b\",\"n\":-5,\"t\":true}", 25, &m), 0);
        ck_assert_ptr_null(m.payload);
        ck_assert_str_eq(message_str(m.json, "a", "-"), "b");
        ck_assert_str_eq(message_str(m.json, "n", "-"), "-");
        ck_assert_str_eq(message_str(m.json, "absent", "-"), "-");
        ck_assert_int_eq(message_int(m.json, "n", 1), -5);
        ck_assert_int_eq(message_int(m.json, "a", 1), 1);
        ck_assert(message_bool(m.json, "t", false));
        ck_assert(message_bool(m.json, "n", true));
        ck_assert_ptr_null(message_obj(m.json, "absent"));
        message_done(&m);
        message_done(&m);

        ck_assert_int_eq(message_parse((const uint8_t *)"{}\0x\0y", 6, &m), 0);
        ck_assert_uint_eq(m.n_payload, 3);
        ck_assert_mem_eq(m.payload, "x\0y", 3);
        message_done(&m);

        ck_assert_int_eq(message_parse((const uint8_t *)"{}\0", 3, &m), 0);
        ck_assert_ptr_nonnull(m.payload);
        ck_assert_uint_eq(m.n_payload, 0);
        message_done(&m);
}
END_TEST

START_TEST(test_bad)
{
        static const char *const bad[] = {
                "",
                "[]",
                "null",
                "1",
                "\"a\"",
                "{",
                "{}x",
                "{} {}",
                "{\"a\":01}",
                "{\"a\"}",
                "{a:1}",
                "{\"a\":1,}",
                "/**/",
                "{\"a\":\xff}",
                "{\"a\":\"\xff\"}",
                "{\"a\":\"\xed\xa0\x80\"}",
                "{\"\\u0000\":1}",
                "{\"a\":\"b\\u0000c\"}",
                "{\"a\":\"\\\\\\u0000\"}",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(parse(bad[i], strlen(bad[i])) == -EBADMSG, "%s", bad[i]);
        /* a backslash, then the letters u0000 */
        ck_assert_int_eq(parse("{\"a\":\"\\\\u0000\"}", 15), 0);
        ck_assert_int_eq(parse(NULL, 0), -EBADMSG);
}
END_TEST

START_TEST(test_depth)
{
        for (size_t depth = MESSAGE_DEPTH_MAX - 1; depth <= MESSAGE_DEPTH_MAX + 1; depth++) {
                char text[256] = "";

                for (size_t i = 0; i < depth; i++)
                        strcat(text, "{\"a\":");
                strcat(text, "1");
                for (size_t i = 0; i < depth; i++)
                        strcat(text, "}");
                ck_assert_int_eq(parse(text, strlen(text)), depth <= MESSAGE_DEPTH_MAX ? 0 : -EBADMSG);
        }
}
END_TEST

START_TEST(test_limits)
{
        char *text = malloc(MESSAGE_MAX + 2);

        for (size_t n = MESSAGE_JSON_MAX; n <= MESSAGE_JSON_MAX + 1; n++) {
                memset(text, ' ', n);
                memcpy(text, "{\"a\":\"", 6);
                memset(text + 6, 'x', n - 8);
                memcpy(text + n - 2, "\"}", 2);
                ck_assert_int_eq(parse(text, n), n <= MESSAGE_JSON_MAX ? 0 : -E2BIG);
        }
        memset(text, 0, MESSAGE_MAX + 2);
        memcpy(text, "{}", 2);
        ck_assert_int_eq(parse(text, 3 + PAYLOAD_MAX), 0);
        ck_assert_int_eq(parse(text, 3 + PAYLOAD_MAX + 1), -E2BIG);
        free(text);
}
END_TEST

START_TEST(test_format)
{
        _cleanup_free_ uint8_t *payload = calloc(1, PAYLOAD_MAX + 1);
        json_object *o = json_object_new_object();
        uint8_t *body;
        Message m;
        size_t n;

        json_object_object_add(o, "path", json_object_new_string("/a/b"));
        json_object_object_add(o, "id", json_object_new_int64(INT64_MAX));
        ck_assert_int_eq(message_format(o, NULL, 0, &body, &n), 0);
        ck_assert_uint_eq(n, strlen("{\"path\":\"/a/b\",\"id\":9223372036854775807}"));
        ck_assert_mem_eq(body, "{\"path\":\"/a/b\",\"id\":9223372036854775807}", n);
        free(body);

        ck_assert_int_eq(message_format(o, payload, PAYLOAD_MAX, &body, &n), 0);
        ck_assert_int_eq(message_parse(body, n, &m), 0);
        ck_assert_uint_eq(m.n_payload, PAYLOAD_MAX);
        ck_assert_int_eq(message_int(m.json, "id", 0), INT64_MAX);
        message_done(&m);
        free(body);
        ck_assert_int_eq(message_format(o, payload, PAYLOAD_MAX + 1, &body, &n), -E2BIG);

        ck_assert_int_eq(message_format(o, "", 0, &body, &n), 0);
        ck_assert_uint_eq(body[n - 1], 0);
        free(body);

        json_object_object_add(o, "bad", json_object_new_string("\xff"));
        ck_assert_int_eq(message_format(o, NULL, 0, &body, &n), -EILSEQ);
        json_object_object_add(o, "bad", json_object_new_string_len("a\0b", 3));
        ck_assert_int_eq(message_format(o, NULL, 0, &body, &n), -EILSEQ);
        memset(payload, 'x', PAYLOAD_MAX);
        json_object_object_del(o, "bad");
        for (int i = 0; i < 4; i++) {
                char key[16];

                snprintf(key, sizeof(key), "k%d", i);
                json_object_object_add(o, key, json_object_new_string_len((char *)payload, PAYLOAD_MAX));
        }
        ck_assert_int_eq(message_format(o, NULL, 0, &body, &n), -E2BIG);
        json_object_put(o);
}
END_TEST

START_TEST(test_strv)
{
        Message m;
        char **strv;

        ck_assert_int_eq(
                message_parse((const uint8_t *)"{\"a\":[\"x\",\"\"],\"b\":[],\"c\":[1],\"d\":\"x\"}", 37,
                              &m),
                0);
        ck_assert_int_eq(message_strv(m.json, "a", 2, &strv), 0);
        ck_assert_str_eq(strv[0], "x");
        ck_assert_str_eq(strv[1], "");
        ck_assert_ptr_null(strv[2]);
        ck_assert_ptr_null(message_strv_free(strv));
        ck_assert_int_eq(message_strv(m.json, "a", 1, &strv), -E2BIG);
        ck_assert_int_eq(message_strv(m.json, "b", 0, &strv), 0);
        ck_assert_ptr_null(strv[0]);
        message_strv_free(strv);
        ck_assert_int_eq(message_strv(m.json, "c", 9, &strv), -EBADMSG);
        ck_assert_int_eq(message_strv(m.json, "d", 9, &strv), -EBADMSG);
        ck_assert_int_eq(message_strv(m.json, "e", 9, &strv), -ENOENT);
        ck_assert_ptr_null(message_strv_free(NULL));
        message_done(&m);
}
END_TEST

START_TEST(test_error)
{
        const char *text;
        json_object *o;
        uint8_t *body;
        size_t n;

        o = message_error(WIRE_NOT_FOUND, "%s: \xff\xc3\xa4\xe2\x82 is not there", "x");
        ck_assert_int_eq(message_get_error(o, &text), WIRE_NOT_FOUND);
        ck_assert_str_eq(text, "x: ?\xc3\xa4?? is not there");
        ck_assert_int_eq(message_format(o, NULL, 0, &body, &n), 0);
        free(body);
        json_object_object_add(o, "error", json_object_new_int(5));
        ck_assert_int_eq(message_get_error(o, &text), WIRE_FAILED);
        json_object_object_del(o, "error");
        json_object_object_del(o, "message");
        ck_assert_int_eq(message_get_error(o, &text), WIRE_OK);
        ck_assert_str_eq(text, "");
        json_object_put(o);
}
END_TEST

SUITE("message",
      { test_good },
      { test_bad },
      { test_depth },
      { test_limits },
      { test_format },
      { test_strv },
      { test_error })
