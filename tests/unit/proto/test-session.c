/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * One session against a peer made by hand: the handshake and the control port, and each thing that may be
 * got wrong there. Whole conversations are in tests/pair.
 */

#include "session-peer.h"

#include <stdio.h>

#include "base/base.h"

START_TEST(test_host_handshake)
{
        begin_host(SESSION_CONTROL);
        expect_nothing();
        hear_nothing();
        ck_assert_uint_eq(session_counters(session)->n_sessions, 1);
        ck_assert(session_heard_usec(session) == 1000);
        session_close(session);
        ck_assert_int_eq(session_state(session), SESSION_CLOSED);
        end();
}
END_TEST

START_TEST(test_stale_ack)
{
        Message m;

        begin(SESSION_HOST, SESSION_CONTROL);
        m = hear_message(FRAME_HELLO, 0);
        ck_assert_str_eq(message_str(m.json, "port", ""), "control");
        message_done(&m);
        say_text(FRAME_HELLO_ACK, 0,
                 "{\"version\":1,\"nonce\":\"" GUEST_NONCE "\",\"echo\":\"" GUEST_NONCE "\"}");
        expect(SESSION_EVENT_HEARD);
        say_text(FRAME_HELLO_ACK, 0, "{\"version\":1}");
        expect(SESSION_EVENT_HEARD);
        say_text(FRAME_HELLO_ACK, 0, "[");
        expect(SESSION_EVENT_HEARD);
        hear_nothing();
        ck_assert_uint_eq(session_counters(session)->n_frames_dropped, 3);
        session_rehello(session, 2);
        answer_hello("1");
        expect(SESSION_EVENT_UP);
        end();
}
END_TEST

START_TEST(test_hello_req)
{
        Message m;

        begin(SESSION_HOST, SESSION_CONTROL);
        /* our HELLO is not even written yet: it will do */
        say_text(FRAME_HELLO_REQ, 0, "{}");
        expect(SESSION_EVENT_HEARD);
        m = hear_message(FRAME_HELLO, 0);
        message_done(&m);
        hear_nothing();
        /* written, and perhaps lost */
        say_text(FRAME_HELLO_REQ, 0, "{}");
        expect(SESSION_EVENT_HEARD);
        answer_hello("1");
        expect(SESSION_EVENT_UP);
        say_text(FRAME_HELLO_REQ, 0, "{}");
        expect_broken(SESSION_HOST);
        end();
}
END_TEST

START_TEST(test_refused)
{
        static const char *const versions[] = { "0",    "0,\"range\":[2,3]", "0,\"range\":[3,2]", "2", "-1",
                                                "\"1\"" };

        for (size_t i = 0; i < ELEMENTSOF(versions); i++) {
                begin(SESSION_HOST, SESSION_CONTROL);
                answer_hello(versions[i]);
                expect(SESSION_EVENT_INCOMPATIBLE);
                ck_assert_uint_gt(strlen(e.text), 5);
                ck_assert_int_eq(session_state(session), SESSION_REFUSED);
                hear_nothing();
                say_text(FRAME_HELLO_REQ, 0, "{}");
                expect(SESSION_EVENT_HEARD);
                answer_hello("1");
                expect(SESSION_EVENT_UP);
                end();
        }
}
END_TEST

START_TEST(test_guest_handshake)
{
        Message m;

        begin_guest(SESSION_DATA);
        /* again, from any state */
        say_hello(SESSION_DATA, "[1,9]");
        expect(SESSION_EVENT_DOWN);
        say_hello(SESSION_DATA, "[1,9]");
        expect(SESSION_EVENT_HEARD);
        start();
        /* for the other port, or no HELLO at all */
        say_hello(SESSION_CONTROL, "[1,1]");
        say_hello(SESSION_DATA, "[0,1]");
        say_hello(SESSION_DATA, "[1]");
        say_hello(SESSION_DATA, "1");
        say_text(FRAME_HELLO, 0, "{\"port\":\"data\",\"version\":[1,1],\"nonce\":\"0\"}");
        say_text(FRAME_HELLO, 0, "{}");
        say_text(FRAME_HELLO, 0, "");
        say_text(FRAME_HELLO_REQ, 0, "{}");
        expect_nothing();
        ck_assert_uint_eq(session_counters(session)->n_frames_dropped, 8);
        ck_assert(session_is_up(session));
        /* a version that we don't speak */
        say_hello(SESSION_DATA, "[2,3]");
        expect(SESSION_EVENT_DOWN);
        m = hear_message(FRAME_HELLO_ACK, 0);
        ck_assert_int_eq(message_int(m.json, "version", -1), 0);
        ck_assert_ptr_nonnull(message_obj(m.json, "range"));
        message_done(&m);
        end();
}
END_TEST

START_TEST(test_false_start)
{
        Message m;

        begin(SESSION_GUEST, SESSION_CONTROL);
        say_hello(SESSION_CONTROL, "[1,1]");
        expect(SESSION_EVENT_HEARD);
        m = hear_message(FRAME_HELLO_ACK, 0);
        epoch = epoch_of(HOST_NONCE, message_str(m.json, "nonce", ""));
        message_done(&m);
        seq = 0;
        say_text(FRAME_START, 0, "{\"echo\":\"" HOST_NONCE "\"}");
        say_text(FRAME_NOTIFY, 0, "{}");
        seq = 0;
        say_text(FRAME_START, 0, "");
        expect_nothing();
        ck_assert(!session_is_up(session));
        end();
}
END_TEST

START_TEST(test_hello_says_who_we_are)
{
        SessionConfig config = { .role = SESSION_HOST, .port = SESSION_CONTROL, .random = on_random };
        char *big = malloc(FRAME_MAX + 1);
        Message m;

        memset(big, 'x', FRAME_MAX);
        big[FRAME_MAX] = 0;
        config.hello = json_object_new_object();
        json_object_object_add(config.hello, "big", json_object_new_string(big));
        json_object_object_add(config.hello, "agent", json_object_new_string("1.2"));
        json_object_object_add(config.hello, "nonce", json_object_new_string("mine"));
        ck_assert_int_eq(session_new(&config, &session), 0);
        session_open(session, 1);
        m = hear_message(FRAME_HELLO, 0);
        ck_assert_str_eq(message_str(m.json, "agent", ""), "1.2");
        ck_assert_str_ne(message_str(m.json, "nonce", ""), "mine");
        ck_assert_ptr_null(message_obj(m.json, "big"));
        message_done(&m);
        end();
        json_object_put(config.hello);
        free(big);
}
END_TEST

START_TEST(test_sequence)
{
        begin_guest(SESSION_CONTROL);
        say_text(FRAME_NOTIFY, 0, "{\"a\":1}");
        expect(SESSION_EVENT_NOTIFY);
        ck_assert_int_eq(message_int(e.message->json, "a", 0), 1);
        seq++;
        say_text(FRAME_NOTIFY, 0, "{}");
        expect_broken(SESSION_GUEST);
        end();

        begin_host(SESSION_CONTROL);
        say_text(FRAME_NOTIFY, 0, "{}");
        expect(SESSION_EVENT_NOTIFY);
        seq--;
        say_text(FRAME_NOTIFY, 0, "{}");
        expect_broken(SESSION_HOST);
        end();
}
END_TEST

START_TEST(test_foreign_frames)
{
        begin_guest(SESSION_CONTROL);
        say_raw((FrameHeader){ .type = FRAME_NOTIFY, .session = epoch + 1, .seq = 1, .length = 2 }, "{}");
        say_raw((FrameHeader){ .type = FRAME_NOTIFY, .seq = 1, .length = 2 }, "{}");
        say_raw((FrameHeader){ .type = FRAME_HELLO, .session = epoch, .seq = 1, .length = 2 }, "{}");
        expect_nothing();
        ck_assert_uint_eq(session_counters(session)->n_frames_dropped, 3);
        /* of a later version, and of the other port: each has its number */
        say_text(99, 0, "whatever");
        say_text(FRAME_OPEN, 1, "{}");
        say_text(FRAME_NOTIFY, 0, "{}");
        expect(SESSION_EVENT_NOTIFY);
        ck_assert_uint_eq(session_counters(session)->n_frames_dropped, 5);
        end();
}
END_TEST

START_TEST(test_ping)
{
        const uint8_t *body;
        FrameHeader h;

        begin_guest(SESSION_CONTROL);
        ck_assert_int_eq(session_ping(session, 77), 0);
        h = hear(&body);
        ck_assert(h.type == FRAME_PING && h.seq == 0 && h.session == epoch && load_le64(body) == 77);
        say(FRAME_PONG, 0, "\1\0\0\0\0\0\0\0", 8);
        expect(SESSION_EVENT_PONG);
        ck_assert(e.cookie == 1);
        for (unsigned i = 0; i < 40; i++)
                say(FRAME_PING, 0, "abcdefgh", 8);
        expect_nothing();
        ck_assert_int_eq(session_ping(session, 1), -ENOBUFS);
        for (unsigned i = 0; i < 16; i++) {
                h = hear(&body);
                ck_assert(h.type == FRAME_PONG && h.seq == i + 1 && memcmp(body, "abcdefgh", 8) == 0);
        }
        hear_nothing();
        say(FRAME_PING, 0, "abcdefg", 7);
        expect_broken(SESSION_GUEST);
        ck_assert_int_eq(session_ping(session, 1), -ENOTCONN);
        end();
}
END_TEST

START_TEST(test_bye)
{
        json_object *o = json_object_new_object();
        const uint8_t *body;
        uint32_t id;

        begin_host(SESSION_CONTROL);
        say(FRAME_BYE_ACK, 0, NULL, 0);
        expect_nothing();
        ck_assert_int_eq(session_notify(session, o, NULL, 0), 0);
        say(FRAME_BYE, 0, NULL, 0);
        expect(SESSION_EVENT_BYE);
        say(FRAME_BYE, 0, NULL, 0);
        expect_nothing();
        ck_assert_uint_eq(hear(&body).type, FRAME_NOTIFY);
        ck_assert_uint_eq(hear(&body).type, FRAME_BYE_ACK);
        hear_nothing();
        ck_assert_int_eq(session_bye(session), 0);
        ck_assert_int_eq(session_bye(session), 0);
        ck_assert_int_eq(session_notify(session, o, NULL, 0), -ENOTCONN);
        ck_assert_int_eq(session_request(session, o, NULL, 0, &id), -ENOTCONN);
        ck_assert_uint_eq(hear(&body).type, FRAME_BYE);
        hear_nothing();
        say(FRAME_BYE_ACK, 0, NULL, 0);
        expect(SESSION_EVENT_BYE_ACK);
        end();
        json_object_put(o);
}
END_TEST

START_TEST(test_requests)
{
        json_object *o = json_object_new_object();
        uint32_t first, id = 0;
        Message m;

        begin_guest(SESSION_CONTROL);
        ck_assert_int_eq(session_request(session, o, "x", 1, &first), 0);
        m = hear_message(FRAME_REQUEST, first);
        ck_assert_uint_eq(m.n_payload, 1);
        message_done(&m);
        say_text(FRAME_REPLY, first + 1, "{}");
        expect_nothing();
        say_text(FRAME_REPLY, first, "{}");
        expect(SESSION_EVENT_REPLY);
        ck_assert_uint_eq(e.id, first);
        say_text(FRAME_REPLY, first, "{}");
        expect_nothing();

        for (unsigned i = 0; i < REQUESTS_MAX; i++)
                ck_assert_int_eq(session_request(session, o, NULL, 0, &id), 0);
        ck_assert_int_eq(session_request(session, o, NULL, 0, &first), -ENOBUFS);
        session_forget(session, id);
        say_text(FRAME_REPLY, id, "{}");
        expect_nothing();
        ck_assert_int_eq(session_request(session, o, NULL, 0, &first), 0);
        ck_assert_uint_eq(first, id + 1);
        end();
        json_object_put(o);
}
END_TEST

START_TEST(test_peer_requests)
{
        json_object *o = json_object_new_object();
        Message m;

        begin_guest(SESSION_CONTROL);
        for (uint32_t i = 1; i <= REQUESTS_MAX; i++) {
                say_text(FRAME_REQUEST, i * 2, "{}");
                expect(SESSION_EVENT_REQUEST);
                ck_assert_uint_eq(e.id, i * 2);
        }
        say_text(FRAME_REQUEST, 5000, "{}");
        expect_nothing();
        m = hear_message(FRAME_REPLY, 5000);
        ck_assert_str_eq(message_str(m.json, "error", ""), "LimitsExceeded");
        message_done(&m);
        ck_assert_int_eq(session_reply(session, 5000, o, NULL, 0), -ENOENT);
        ck_assert_int_eq(session_reply(session, 3, o, NULL, 0), -ENOENT);
        ck_assert_int_eq(session_reply(session, 4, o, NULL, 0), 0);
        ck_assert_int_eq(session_reply(session, 4, o, NULL, 0), -ENOENT);
        m = hear_message(FRAME_REPLY, 4);
        message_done(&m);
        say_text(FRAME_REQUEST, 5001, "{}");
        expect(SESSION_EVENT_REQUEST);
        say_text(FRAME_REQUEST, 5001, "{}");
        expect_broken(SESSION_GUEST);
        end();
        json_object_put(o);
}
END_TEST

START_TEST(test_bad_messages)
{
        static const char *const bad[] = { "", "[]", "{", "{}x", "\"", "{\"a\":\"\xff\"}" };
        static uint8_t body[FRAME_BODY_MAX];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                begin_host(SESSION_CONTROL);
                say_text(FRAME_NOTIFY, 0, bad[i]);
                expect_broken(SESSION_HOST);
                end();
        }
        begin_host(SESSION_CONTROL);
        say_text(FRAME_REQUEST, 0, "{}");
        expect_broken(SESSION_HOST);
        end();

        /* fragments without end */
        begin_host(SESSION_CONTROL);
        memset(body, ' ', sizeof(body));
        for (unsigned i = 0; i < MESSAGE_MAX / FRAME_BODY_MAX + 1; i++) {
                expect_nothing();
                say_raw((FrameHeader){ .type = FRAME_NOTIFY,
                                       .flags = FRAME_MORE,
                                       .seq = seq++,
                                       .length = FRAME_BODY_MAX,
                                       .session = epoch },
                        body);
        }
        expect_broken(SESSION_HOST);
        end();

        /* too many at once */
        begin_host(SESSION_CONTROL);
        for (uint32_t i = 1; i <= MESSAGE_PARTIAL_MAX + 1; i++) {
                expect_nothing();
                say_raw((FrameHeader){ .type = FRAME_REQUEST,
                                       .flags = FRAME_MORE,
                                       .seq = seq++,
                                       .stream = i,
                                       .length = 1,
                                       .session = epoch },
                        body);
        }
        expect_broken(SESSION_HOST);
        end();
}
END_TEST

START_TEST(test_queue_is_bounded)
{
        static uint8_t payload[PAYLOAD_MAX];
        json_object *o = json_object_new_object();
        unsigned n = 0;

        begin_host(SESSION_CONTROL);
        while (session_notify(session, o, payload, sizeof(payload)) == 0)
                n++;
        ck_assert_uint_eq(n, OUTQ_BYTES_MAX / (PAYLOAD_MAX + FRAME_HEADER_SIZE + 3));
        ck_assert_int_eq(session_notify(session, o, payload, sizeof(payload)), -ENOBUFS);
        ck_assert_int_eq(session_notify(session, o, payload, sizeof(payload) + 1), -E2BIG);
        ck_assert(session_is_up(session));
        end();
        json_object_put(o);
}
END_TEST

static uint8_t bulk[FRAME_MAX];

START_TEST(test_stall)
{
        FrameHeader h = { .type = FRAME_NOTIFY, .seq = 1, .length = 20000 };

        begin_guest(SESSION_CONTROL);
        ck_assert(session_deadline(session) == USEC_INFINITY);
        h.session = epoch;
        (void)frame_seal(bulk, &h);
        inject(bulk, 10000);
        expect_nothing();
        ck_assert(session_deadline(session) == 1000 + STALL_USEC);
        session_tick(session, 1000 + STALL_USEC - 1);
        ck_assert(session_deadline(session) == 1000 + STALL_USEC);
        session_tick(session, 1000 + STALL_USEC);
        expect_nothing();
        ck_assert(session_deadline(session) == USEC_INFINITY);
        say_hello(SESSION_CONTROL, "[1,1]");
        expect_nothing();
        session_tick(session, session_deadline(session));
        expect(SESSION_EVENT_DOWN);
        start();
        end();
}
END_TEST

SUITE("session",
      { test_host_handshake },
      { test_stale_ack },
      { test_hello_req },
      { test_refused },
      { test_guest_handshake },
      { test_false_start },
      { test_hello_says_who_we_are },
      { test_sequence },
      { test_foreign_frames },
      { test_ping },
      { test_bye },
      { test_requests },
      { test_peer_requests },
      { test_bad_messages },
      { test_queue_is_bounded },
      { test_stall })
