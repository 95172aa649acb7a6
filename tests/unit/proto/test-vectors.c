/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The canonical bytes of tests/vectors, which were not made by our code: each good frame is what we would
 * write and read, no bad one is read, and in a conversation a session says what it must, byte for byte.
 */

#include <stdio.h>

#include "base/base.h"
#include "proto/session.h"
#include "../suite.h"

#define LINE_MAX_BYTES ((size_t)256 * 1024)

static size_t unhex(const char *text, uint8_t *ret)
{
        size_t n = 0;

        if (str_eq(text, "-"))
                return 0;
        for (; text[0] && text[1]; text += 2) {
                unsigned byte;

                ck_assert_int_eq(sscanf(text, "%2x", &byte), 1);
                ret[n++] = (uint8_t)byte;
        }
        return n;
}

static FILE *vectors_open(const char *name)
{
        char path[4096];
        FILE *f;

        snprintf(path, sizeof(path), "%s/%s", VECTORS_DIR, name);
        f = fopen(path, "re");
        ck_assert_msg(f != NULL, "%s", path);
        return f;
}

static int parse(const uint8_t *data, size_t n, Frame *ret, FrameParser *p)
{
        size_t room;
        uint8_t *to;

        frame_parser_reset(p);
        frame_parser_space(p, &to, &room);
        ck_assert_uint_ge(room, n);
        memcpy(to, data, n);
        frame_parser_commit(p, n);
        return frame_parser_next(p, ret);
}

START_TEST(test_frames)
{
        static char line[LINE_MAX_BYTES];
        static uint8_t data[FRAME_MAX * 2], body[FRAME_MAX], made[FRAME_MAX];
        FrameParser *p = frame_parser_new();
        FILE *f = vectors_open("frames.txt");
        unsigned n_good = 0, n_bad = 0;
        Frame got;

        while (fgets(line, sizeof(line), f)) {
                char *save, *verdict = strtok_r(line, " \n", &save), *name = strtok_r(NULL, " \n", &save);
                FrameHeader h;
                size_t n;

                if (str_eq(verdict, "bad")) {
                        n = unhex(strtok_r(NULL, " \n", &save), data);
                        ck_assert_msg(parse(data, n, &got, p) == 0, "%s", name);
                        n_bad++;
                        continue;
                }
                h.type = (uint8_t)strtoul(strtok_r(NULL, " \n", &save), NULL, 10);
                h.flags = (uint16_t)strtoul(strtok_r(NULL, " \n", &save), NULL, 10);
                h.stream = (uint32_t)strtoul(strtok_r(NULL, " \n", &save), NULL, 10);
                h.seq = (uint32_t)strtoul(strtok_r(NULL, " \n", &save), NULL, 10);
                h.session = strtoull(strtok_r(NULL, " \n", &save), NULL, 10);
                h.length = (uint32_t)unhex(strtok_r(NULL, " \n", &save), body);
                n = unhex(strtok_r(NULL, " \n", &save), data);
                memcpy(made + FRAME_HEADER_SIZE, body, h.length);
                ck_assert_uint_eq(frame_seal(made, &h), n);
                ck_assert_msg(memcmp(made, data, n) == 0, "%s", name);
                ck_assert_msg(parse(data, n, &got, p) == 1, "%s", name);
                ck_assert_uint_eq(got.header.type, h.type);
                ck_assert_uint_eq(got.header.flags, h.flags);
                ck_assert_uint_eq(got.header.stream, h.stream);
                ck_assert_uint_eq(got.header.seq, h.seq);
                ck_assert(got.header.session == h.session);
                ck_assert_uint_eq(got.header.length, h.length);
                if (h.length > 0)
                        ck_assert_mem_eq(got.body, body, h.length);
                n_good++;
        }
        ck_assert_uint_ge(n_good, 13);
        ck_assert_uint_ge(n_bad, 11);
        fclose(f);
        frame_parser_free(p);
}
END_TEST

static uint8_t random_byte;

static void on_random(void *userdata, void *buf, size_t n)
{
        memset(buf, random_byte, n);
}

static void converse(const char *name, SessionRole role, SessionPort port)
{
        static char line[LINE_MAX_BYTES];
        static uint8_t data[FRAME_MAX];
        SessionConfig config = { .role = role, .port = port, .random = on_random };
        FILE *f = vectors_open(name);
        const uint8_t *said;
        SessionEvent e;
        Session *s = NULL;
        size_t n;

        while (fgets(line, sizeof(line), f)) {
                char *save, *what = strtok_r(line, " \n", &save);

                if (str_eq(what, "versions")) {
                        config.version_min = atoi(strtok_r(NULL, " \n", &save));
                        config.version_max = atoi(strtok_r(NULL, " \n", &save));
                        ck_assert_int_eq(session_new(&config, &s), 0);
                        continue;
                }
                n = unhex(strtok_r(NULL, " \n", &save), data);
                if (str_eq(what, "random")) {
                        random_byte = data[0];
                        session_open(s, 1);
                } else if (str_eq(what, ">")) {
                        size_t room;
                        uint8_t *to;

                        session_input_space(s, &to, &room);
                        ck_assert_uint_ge(room, n);
                        memcpy(to, data, n);
                        session_input_commit(s, n, 2);
                        while (session_next_event(s, &e))
                                ck_assert_int_ne(e.type, SESSION_EVENT_DOWN);
                } else {
                        size_t n_said;

                        ck_assert_int_eq(session_output_next(s, &said, &n_said), 1);
                        ck_assert_uint_eq(n_said, n);
                        ck_assert_mem_eq(said, data, n);
                }
        }
        ck_assert_int_eq(session_output_next(s, &said, &n), 0);
        ck_assert(session_is_up(s));
        session_free(s);
        fclose(f);
}

START_TEST(test_conversations)
{
        converse("conversation-host-1.txt", SESSION_HOST, SESSION_CONTROL);
        converse("conversation-guest-1.txt", SESSION_GUEST, SESSION_DATA);
        /* Programs of two versions later meet those of the first. */
        converse("conversation-host-1-of-3.txt", SESSION_HOST, SESSION_CONTROL);
        converse("conversation-guest-1-of-3.txt", SESSION_GUEST, SESSION_DATA);
}
END_TEST

SUITE("vectors",
      { test_frames },
      { test_conversations })
