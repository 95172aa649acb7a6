/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "base/base.h"
#include "guestd/payload.h"
#include "proto/limits.h"
#include "../suite.h"

START_TEST(there_and_back)
{
        static uint8_t data[PAYLOAD_MAX];
        static const size_t sizes[] = { 0, 1, 2, 3, 4, 5, 255, 256, PAYLOAD_MAX - 1, PAYLOAD_MAX };
        for (int is_text = 0; is_text < 2; is_text++)
                for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                        for (size_t k = 0; k < sizes[i]; k++)
                                data[k] = is_text ? (uint8_t)('a' + k % 26) : (uint8_t)(255 - k * 7);
                        json_object *o = json_object_new_object(), *value;
                        ck_assert_int_eq(payload_put(o, data, sizes[i]), 0);
                        ck_assert(json_object_object_get_ex(o, is_text || sizes[i] == 0 ? "text" : "data64",
                                                            &value));
                        uint8_t *back = NULL;
                        size_t n = 1;
                        ck_assert_int_eq(payload_get(o, &back, &n), 0);
                        ck_assert_uint_eq(n, sizes[i]);
                        ck_assert_int_eq(memcmp(back, data, n), 0);
                        free(back);
                        json_object_put(o);
                }
}
END_TEST

START_TEST(read_what_others_write)
{
        static const struct {
                const char *json;
                int r;
                const char *bytes;
                size_t n;
        } table[] = {
                { "{}", 0, "", 0 },
                { "{\"text\":\"\"}", 0, "", 0 },
                { "{\"text\":\"a\\u0000b\"}", 0, "a\0b", 3 },
                { "{\"data64\":\"\"}", 0, "", 0 },
                { "{\"data64\":\"AA==\"}", 0, "\0", 1 },
                { "{\"data64\":\"AP8=\"}", 0, "\0\377", 2 },
                { "{\"data64\":\"+/+/\"}", 0, "\373\377\277", 3 },
                { "{\"data64\":\"A\"}", -EBADMSG },
                { "{\"data64\":\"A===\"}", -EBADMSG },
                { "{\"data64\":\"====\"}", -EBADMSG },
                { "{\"data64\":\"A=BC\"}", -EBADMSG },
                { "{\"data64\":\"AAA\\u0000\"}", -EBADMSG },
                { "{\"data64\":\"-_-_\"}", -EBADMSG },
                { "{\"data64\":7}", -EBADMSG },
                { "{\"text\":null}", -EBADMSG },
                { "{\"text\":\"a\",\"data64\":\"\"}", -EBADMSG },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                json_object *o = json_tokener_parse(table[i].json);
                uint8_t *data = NULL;
                size_t n = 0;
                ck_assert_msg(payload_get(o, &data, &n) == table[i].r, "%s", table[i].json);
                ck_assert_msg(n == table[i].n, "%s", table[i].json);
                if (table[i].r == 0)
                        ck_assert_int_eq(memcmp(data, table[i].bytes, n), 0);
                free(data);
                json_object_put(o);
        }
}
END_TEST

START_TEST(one_too_many)
{
        static char text[PAYLOAD_MAX + 2], text64[(PAYLOAD_MAX + 3) / 3 * 4 + 5];
        memset(text, 'x', PAYLOAD_MAX + 1);
        memset(text64, 'A', (PAYLOAD_MAX + 3) / 3 * 4);
        const char *const pairs[][2] = { { "text", text }, { "data64", text64 } };
        for (size_t i = 0; i < 2; i++) {
                json_object *o = json_object_new_object();
                (void)json_object_object_add(o, pairs[i][0], json_object_new_string(pairs[i][1]));
                uint8_t *data;
                size_t n;
                ck_assert_int_eq(payload_get(o, &data, &n), -E2BIG);
                json_object_put(o);
        }
}
END_TEST

SUITE("payload",
      { there_and_back },
      { read_what_others_write },
      { one_too_many })
