/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * One session against frames made by hand: each thing that a peer may get wrong, and what comes of it. Whole
 * conversations are in tests/pair.
 */

#include "proto/session.h"

#include <stdio.h>

#include "base/base.h"
#include "proto/digest.h"
#include "suite.h"

static Session *s;
static SessionEvent e;
static uint8_t frame[FRAME_MAX];
static uint64_t epoch;
static uint32_t seq; /* of our next frame to the session */
static uint8_t random_byte;

static void on_random(void *userdata, void *buf, size_t n)
{
        memset(buf, ++random_byte, n);
}

static void inject(const void *data, size_t n)
{
        while (n > 0) {
                size_t room, piece;
                uint8_t *to;

                session_input_space(s, &to, &room);
                piece = MIN(room, n);
                memcpy(to, data, piece);
                session_input_commit(s, piece, 1000);
                data = (const uint8_t *)data + piece;
                n -= piece;
        }
}

static void say_raw(FrameHeader h, const void *body)
{
        if (h.length > 0)
                memcpy(frame + FRAME_HEADER_SIZE, body, h.length);
        inject(frame, frame_seal(frame, &h));
}

/* A frame of the session, in its place. */
static void say(uint8_t type, uint32_t stream, const void *body, size_t n)
{
        say_raw((FrameHeader){ .type = type,
                               .stream = stream,
                               .seq = seq++,
                               .length = (uint32_t)n,
                               .session = epoch },
                body);
}

static void say_text(uint8_t type, uint32_t stream, const char *text)
{
        if (frame_type_is_handshake(type))
                say_raw((FrameHeader){ .type = type, .length = (uint32_t)strlen(text) }, text);
        else
                say(type, stream, text, strlen(text));
}

/* The next frame that the session has to write; its body is JSON or not. */
static FrameHeader hear(const uint8_t **ret_body)
{
        const uint8_t *data;
        FrameHeader h;
        size_t n;

        ck_assert_int_eq(session_output_next(s, &data, &n), 1);
        h = (FrameHeader){ .type = data[9],
                           .flags = load_le16(data + 10),
                           .stream = load_le32(data + 12),
                           .seq = load_le32(data + 16),
                           .length = load_le32(data + 20),
                           .session = load_le64(data + 24) };
        ck_assert_uint_eq(n, h.length + 48);
        *ret_body = data + FRAME_HEADER_SIZE;
        return h;
}

static Message hear_message(uint8_t type, uint32_t stream)
{
        const uint8_t *body;
        FrameHeader h = hear(&body);
        Message m;

        ck_assert_uint_eq(h.type, type);
        ck_assert_uint_eq(h.stream, stream);
        ck_assert_int_eq(message_parse(body, h.length, &m), 0);
        return m;
}

static void hear_nothing(void)
{
        const uint8_t *data;
        size_t n;

        ck_assert(!session_output_pending(s));
        ck_assert_int_eq(session_output_next(s, &data, &n), 0);
}

static void expect(SessionEventType type)
{
        ck_assert_int_eq(session_next_event(s, &e), 1);
        ck_assert_msg(e.type == type, "event %d, not %d: %s", (int)e.type, (int)type, e.text ? e.text : "");
}

static void expect_nothing(void)
{
        ck_assert_int_eq(session_next_event(s, &e), 0);
}

static void begin(SessionRole role, SessionPort port)
{
        SessionConfig config = { .role = role, .port = port, .random = on_random };

        ck_assert_int_eq(session_new(&config, &s), 0);
        ck_assert_int_eq(session_state(s), SESSION_CLOSED);
        expect_nothing();
        session_open(s, 1);
        seq = 0;
}

static void end(void)
{
        s = session_free(s);
}

static uint64_t epoch_of(const char *host, const char *guest)
{
        uint8_t both[32];

        for (size_t i = 0; i < 16; i++) {
                unsigned h, g;

                sscanf(host + 2 * i, "%2x", &h);
                sscanf(guest + 2 * i, "%2x", &g);
                both[i] = (uint8_t)h;
                both[16 + i] = (uint8_t)g;
        }
        return digest_of(both, sizeof(both), 0);
}

#define GUEST_NONCE "000102030405060708090a0b0c0d0e0f"
#define HOST_NONCE "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"

/* We are the guest: the answer to the host's HELLO that waits. */
static void answer_hello(const char *version)
{
        Message hello = hear_message(FRAME_HELLO, 0);
        char ack[512];

        epoch = epoch_of(message_str(hello.json, "nonce", ""), GUEST_NONCE);
        snprintf(ack, sizeof(ack), "{\"version\":%s,\"nonce\":\"%s\",\"echo\":\"%s\",\"agent\":\"x\"}",
                 version, GUEST_NONCE, message_str(hello.json, "nonce", ""));
        message_done(&hello);
        say_text(FRAME_HELLO_ACK, 0, ack);
}

static void begin_host(SessionPort port)
{
        Message m;

        begin(SESSION_HOST, port);
        answer_hello("1");
        expect(SESSION_EVENT_UP);
        ck_assert_str_eq(message_str(e.message->json, "agent", "-"), "x");
        ck_assert(session_is_up(s) && session_epoch(s) == epoch);
        m = hear_message(FRAME_START, 0);
        ck_assert_str_eq(message_str(m.json, "echo", ""), GUEST_NONCE);
        message_done(&m);
        seq = 0;
}

static const char *port_text(SessionPort port)
{
        return port == SESSION_CONTROL ? "control" : "data";
}

static void say_hello(SessionPort port, const char *version)
{
        char hello[256];

        snprintf(hello, sizeof(hello), "{\"port\":\"%s\",\"version\":%s,\"nonce\":\"%s\"}", port_text(port),
                 version, HOST_NONCE);
        say_text(FRAME_HELLO, 0, hello);
}

/* We are the host: START in answer to the HELLO_ACK that waits. */
static void start(void)
{
        Message ack = hear_message(FRAME_HELLO_ACK, 0);
        char text[128];

        ck_assert_str_eq(message_str(ack.json, "echo", ""), HOST_NONCE);
        ck_assert_int_eq(message_int(ack.json, "version", -1), 1);
        epoch = epoch_of(HOST_NONCE, message_str(ack.json, "nonce", ""));
        snprintf(text, sizeof(text), "{\"echo\":\"%s\"}", message_str(ack.json, "nonce", ""));
        message_done(&ack);
        seq = 0;
        say_text(FRAME_START, 0, text);
        expect(SESSION_EVENT_UP);
}

static void begin_guest(SessionPort port)
{
        Message req;

        begin(SESSION_GUEST, port);
        req = hear_message(FRAME_HELLO_REQ, 0);
        message_done(&req);
        say_hello(port, "[1,1]");
        expect(SESSION_EVENT_HEARD);
        ck_assert_int_eq(session_state(s), SESSION_ACK_SENT);
        start();
}

/* The session ended by the peer's fault, and the next handshake has begun. */
static void expect_broken(SessionRole role)
{
        Message m;

        expect(SESSION_EVENT_DOWN);
        ck_assert_uint_gt(strlen(e.text), 5);
        ck_assert(!session_is_up(s));
        ck_assert_uint_eq(session_n_streams(s), 0);
        m = hear_message(role == SESSION_HOST ? FRAME_HELLO : FRAME_HELLO_REQ, 0);
        message_done(&m);
        hear_nothing();
}

START_TEST(test_host_handshake)
{
        begin_host(SESSION_CONTROL);
        expect_nothing();
        hear_nothing();
        ck_assert_uint_eq(session_counters(s)->n_sessions, 1);
        ck_assert(session_heard_usec(s) == 1000);
        session_close(s);
        ck_assert_int_eq(session_state(s), SESSION_CLOSED);
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
        ck_assert_uint_eq(session_counters(s)->n_frames_dropped, 3);
        session_rehello(s, 2);
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
                ck_assert_int_eq(session_state(s), SESSION_REFUSED);
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
        ck_assert_uint_eq(session_counters(s)->n_frames_dropped, 8);
        ck_assert(session_is_up(s));
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
        ck_assert(!session_is_up(s));
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
        ck_assert_int_eq(session_new(&config, &s), 0);
        session_open(s, 1);
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
        ck_assert_uint_eq(session_counters(s)->n_frames_dropped, 3);
        /* of a later version, and of the other port: each has its number */
        say_text(99, 0, "whatever");
        say_text(FRAME_OPEN, 1, "{}");
        say_text(FRAME_NOTIFY, 0, "{}");
        expect(SESSION_EVENT_NOTIFY);
        ck_assert_uint_eq(session_counters(s)->n_frames_dropped, 5);
        end();
}
END_TEST

START_TEST(test_ping)
{
        const uint8_t *body;
        FrameHeader h;

        begin_guest(SESSION_CONTROL);
        ck_assert_int_eq(session_ping(s, 77), 0);
        h = hear(&body);
        ck_assert(h.type == FRAME_PING && h.seq == 0 && h.session == epoch && load_le64(body) == 77);
        say(FRAME_PONG, 0, "\1\0\0\0\0\0\0\0", 8);
        expect(SESSION_EVENT_PONG);
        ck_assert(e.cookie == 1);
        for (unsigned i = 0; i < 40; i++)
                say(FRAME_PING, 0, "abcdefgh", 8);
        expect_nothing();
        ck_assert_int_eq(session_ping(s, 1), -ENOBUFS);
        for (unsigned i = 0; i < 16; i++) {
                h = hear(&body);
                ck_assert(h.type == FRAME_PONG && h.seq == i + 1 && memcmp(body, "abcdefgh", 8) == 0);
        }
        hear_nothing();
        say(FRAME_PING, 0, "abcdefg", 7);
        expect_broken(SESSION_GUEST);
        ck_assert_int_eq(session_ping(s, 1), -ENOTCONN);
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
        ck_assert_int_eq(session_notify(s, o, NULL, 0), 0);
        say(FRAME_BYE, 0, NULL, 0);
        expect(SESSION_EVENT_BYE);
        say(FRAME_BYE, 0, NULL, 0);
        expect_nothing();
        ck_assert_uint_eq(hear(&body).type, FRAME_NOTIFY);
        ck_assert_uint_eq(hear(&body).type, FRAME_BYE_ACK);
        hear_nothing();
        ck_assert_int_eq(session_bye(s), 0);
        ck_assert_int_eq(session_bye(s), 0);
        ck_assert_int_eq(session_notify(s, o, NULL, 0), -ENOTCONN);
        ck_assert_int_eq(session_request(s, o, NULL, 0, &id), -ENOTCONN);
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
        ck_assert_int_eq(session_request(s, o, "x", 1, &first), 0);
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
                ck_assert_int_eq(session_request(s, o, NULL, 0, &id), 0);
        ck_assert_int_eq(session_request(s, o, NULL, 0, &first), -ENOBUFS);
        session_forget(s, id);
        say_text(FRAME_REPLY, id, "{}");
        expect_nothing();
        ck_assert_int_eq(session_request(s, o, NULL, 0, &first), 0);
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
        ck_assert_int_eq(session_reply(s, 5000, o, NULL, 0), -ENOENT);
        ck_assert_int_eq(session_reply(s, 3, o, NULL, 0), -ENOENT);
        ck_assert_int_eq(session_reply(s, 4, o, NULL, 0), 0);
        ck_assert_int_eq(session_reply(s, 4, o, NULL, 0), -ENOENT);
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
        while (session_notify(s, o, payload, sizeof(payload)) == 0)
                n++;
        ck_assert_uint_eq(n, OUTQ_BYTES_MAX / (PAYLOAD_MAX + FRAME_HEADER_SIZE + 3));
        ck_assert_int_eq(session_notify(s, o, payload, sizeof(payload)), -ENOBUFS);
        ck_assert_int_eq(session_notify(s, o, payload, sizeof(payload) + 1), -E2BIG);
        ck_assert(session_is_up(s));
        end();
        json_object_put(o);
}
END_TEST

/* A guest that is made to answer, by a host that never reads. */
START_TEST(test_forced_queue_is_bounded)
{
        begin_guest(SESSION_DATA);
        for (uint32_t i = 1; i < 200000; i++) {
                say_text(FRAME_OPEN, i, "{}");
                if (session_next_event(s, &e) == 0)
                        continue;
                if (e.type == SESSION_EVENT_DOWN)
                        break;
                ck_assert_int_eq(e.type, SESSION_EVENT_STREAM_OPEN);
                (void)session_stream_reset(s, i, WIRE_PERMISSION_DENIED, "no");
        }
        ck_assert_int_eq(e.type, SESSION_EVENT_DOWN);
        end();
}
END_TEST

static void open_guest_stream(uint32_t id)
{
        Message m;

        say_text(FRAME_OPEN, id, "{\"kind\":\"push\"}");
        expect(SESSION_EVENT_STREAM_OPEN);
        ck_assert_uint_eq(e.id, id);
        ck_assert_uint_eq(session_stream_room(s, id), 0);
        ck_assert_int_eq(session_stream_accept(s, id, NULL), 0);
        ck_assert_int_eq(session_stream_accept(s, id, NULL), -EALREADY);
        ck_assert_uint_eq(session_stream_room(s, id), FRAME_BODY_MAX);
        m = hear_message(FRAME_OPENED, id);
        message_done(&m);
}

static uint8_t bulk[FRAME_MAX];

START_TEST(test_stream_of_guest)
{
        const uint8_t *body;
        FrameHeader h;

        begin_guest(SESSION_DATA);
        open_guest_stream(5);
        say(FRAME_DATA, 5, "abc", 3);
        expect(SESSION_EVENT_STREAM_DATA);
        ck_assert_mem_eq(e.data, "abc", 3);
        say(FRAME_DATA, 5, NULL, 0);
        say(FRAME_DATA, 4, "late", 4);
        expect_nothing();
        ck_assert_uint_eq(session_counters(s)->n_frames_dropped, 1);
        hear_nothing();
        say(FRAME_EOF, 5, NULL, 0);
        expect(SESSION_EVENT_STREAM_EOF);
        /* the sender may wait for this word, also about what nobody wanted */
        h = hear(&body);
        ck_assert(h.type == FRAME_ACK && load_le64(body) == 7 && load_le32(body + 8) == 3);
        ck_assert_int_eq(session_stream_eof(s, 5), 0);
        ck_assert_int_eq(session_stream_eof(s, 5), 0);
        ck_assert_uint_eq(hear(&body).type, FRAME_EOF);
        ck_assert(session_stream_is_open(s, 5));
        session_stream_taken(s, 5, 3);
        ck_assert(!session_stream_is_open(s, 5));
        session_stream_taken(s, 5, 3);
        ck_assert_int_eq(session_stream_eof(s, 5), -ENOENT);
        hear_nothing();
        end();
}
END_TEST

START_TEST(test_stream_of_host)
{
        json_object *o = json_object_new_object();
        uint8_t ack[12] = { 0 }, credit[4];
        const uint8_t *body;
        uint32_t id, other;
        unsigned n = 0;
        Message m;

        begin_host(SESSION_DATA);
        ck_assert_int_eq(session_stream_open(s, o, &id), 0);
        m = hear_message(FRAME_OPEN, id);
        message_done(&m);
        ck_assert_uint_eq(session_stream_room(s, id), 0);
        say_text(FRAME_OPENED, id, "{\"a\":1}");
        expect(SESSION_EVENT_STREAM_OPENED);
        ck_assert_int_eq(message_int(e.message->json, "a", 0), 1);
        while (session_stream_room(s, id)) {
                ck_assert_uint_eq(session_stream_seal(s, id, bulk, FRAME_BODY_MAX), FRAME_MAX);
                n++;
        }
        ck_assert_uint_eq(n, STREAM_CREDIT / FRAME_BODY_MAX);
        ck_assert_uint_eq(session_unacked_bytes(s), n * FRAME_BODY_MAX);
        store_le32(credit, 1000);
        say(FRAME_CREDIT, 77, credit, 4);
        say(FRAME_CREDIT, id, credit, 4);
        expect_nothing();
        store_le32(credit, (STREAM_CREDIT / 4));
        say(FRAME_CREDIT, id, credit, 4);
        expect(SESSION_EVENT_STREAM_ROOM);
        ck_assert_uint_eq(e.id, id);
        store_le64(ack, n * FRAME_BODY_MAX);
        store_le32(ack + 8, n);
        say(FRAME_ACK, 0, ack, 12);
        expect_nothing();
        ck_assert_uint_eq(session_unacked_bytes(s), 0);

        say_text(FRAME_RESET, id, "{\"error\":\"NoSpace\",\"message\":\"full\"}");
        expect(SESSION_EVENT_STREAM_RESET);
        ck_assert_str_eq(message_str(e.message->json, "error", ""), "NoSpace");
        ck_assert(!session_stream_is_open(s, id));
        ck_assert_int_eq(session_stream_open(s, o, &other), 0);
        ck_assert_uint_gt(other, id);
        ck_assert_int_eq(session_stream_reset(s, other, WIRE_CANCELLED, "no more"), 0);
        ck_assert_int_eq(session_stream_reset(s, other, WIRE_CANCELLED, "no more"), -ENOENT);
        ck_assert_uint_eq(hear(&body).type, FRAME_OPEN);
        ck_assert_uint_eq(hear(&body).type, FRAME_RESET);
        /* the guest had not seen it yet */
        say_text(FRAME_OPENED, other, "{}");
        expect_nothing();
        ck_assert(session_is_up(s));
        for (unsigned i = 0; i < STREAMS_MAX; i++)
                ck_assert_int_eq(session_stream_open(s, o, &other), 0);
        ck_assert_int_eq(session_stream_open(s, o, &other), -ENOBUFS);
        ck_assert_uint_eq(session_n_streams(s), STREAMS_MAX);
        end();
        json_object_put(o);
}
END_TEST

START_TEST(test_port_window)
{
        json_object *o = json_object_new_object();
        uint8_t ack[12] = { 0 };
        uint32_t ids[3];
        unsigned n = 0;

        begin_host(SESSION_DATA);
        for (size_t i = 0; i < 3; i++) {
                ck_assert_int_eq(session_stream_open(s, o, &ids[i]), 0);
                say_text(FRAME_OPENED, ids[i], "{}");
                expect(SESSION_EVENT_STREAM_OPENED);
        }
        for (size_t i = 0; i < 3; i++)
                while (session_stream_room(s, ids[i])) {
                        (void)session_stream_seal(s, ids[i], bulk, FRAME_BODY_MAX);
                        n++;
                }
        ck_assert_uint_eq(n, PORT_WINDOW_BYTES / FRAME_BODY_MAX);
        store_le64(ack, 5 * FRAME_BODY_MAX);
        store_le32(ack + 8, 5);
        say(FRAME_ACK, 0, ack, 12);
        expect(SESSION_EVENT_STREAM_ROOM);
        ck_assert_uint_eq(e.id, 0);
        ck_assert_uint_gt(session_stream_room(s, ids[2]), 0);
        store_le64(ack, 4 * FRAME_BODY_MAX);
        say(FRAME_ACK, 0, ack, 12);
        expect_broken(SESSION_HOST);
        end();
        json_object_put(o);
}
END_TEST

START_TEST(test_credit_is_given_back)
{
        const uint8_t *body;
        size_t n_unread = 0;
        FrameHeader h;

        begin_guest(SESSION_DATA);
        open_guest_stream(1);
        for (unsigned i = 0; i < STREAM_CREDIT / FRAME_BODY_MAX; i++) {
                say(FRAME_DATA, 1, bulk, FRAME_BODY_MAX);
                expect(SESSION_EVENT_STREAM_DATA);
                n_unread += e.n_data;
        }
        h = hear(&body);
        ck_assert(h.type == FRAME_ACK && load_le64(body) == n_unread);
        hear_nothing();
        session_stream_taken(s, 1, (STREAM_CREDIT / 4) - 1);
        hear_nothing();
        session_stream_taken(s, 1, 2);
        h = hear(&body);
        ck_assert(h.type == FRAME_CREDIT && h.stream == 1 && load_le32(body) == (STREAM_CREDIT / 4) + 1);
        hear_nothing();
        end();
}
END_TEST

/* What a host may get wrong on the data port, each in a session of its own. */
START_TEST(test_bad_host_streams)
{
        for (int i = 0; i < 14; i++) {
                uint8_t body[12] = { 0 };

                begin_guest(SESSION_DATA);
                open_guest_stream(5);
                switch (i) {
                case 0: /* an id again */
                        say_text(FRAME_OPEN, 5, "{}");
                        break;
                case 1: /* one too many */
                        for (uint32_t id = 6; id < 6 + STREAMS_MAX - 1; id++) {
                                say_text(FRAME_OPEN, id, "{}");
                                expect(SESSION_EVENT_STREAM_OPEN);
                        }
                        say_text(FRAME_OPEN, 6 + STREAMS_MAX, "{}");
                        break;
                case 2:
                        say_text(FRAME_OPENED, 5, "{}");
                        break;
                case 3: /* data of a stream that was not accepted */
                        say_text(FRAME_OPEN, 6, "{}");
                        expect(SESSION_EVENT_STREAM_OPEN);
                        say(FRAME_DATA, 6, "a", 1);
                        break;
                case 4: /* behind EOF */
                        say(FRAME_EOF, 5, NULL, 0);
                        expect(SESSION_EVENT_STREAM_EOF);
                        say(FRAME_DATA, 5, "a", 1);
                        break;
                case 5:
                        say(FRAME_EOF, 5, NULL, 0);
                        expect(SESSION_EVENT_STREAM_EOF);
                        say(FRAME_EOF, 5, NULL, 0);
                        break;
                case 6: /* past the credit */
                        for (unsigned n = 0; n < STREAM_CREDIT / FRAME_BODY_MAX; n++) {
                                say(FRAME_DATA, 5, bulk, FRAME_BODY_MAX);
                                expect(SESSION_EVENT_STREAM_DATA);
                        }
                        say(FRAME_DATA, 5, bulk, STREAM_CREDIT % FRAME_BODY_MAX);
                        expect(SESSION_EVENT_STREAM_DATA);
                        say(FRAME_DATA, 5, bulk, 1);
                        break;
                case 7: /* past the window, on streams that nobody knows */
                        for (unsigned n = 0; n < PORT_WINDOW_FRAMES; n++)
                                say(FRAME_DATA, 4, "a", 1);
                        expect_nothing();
                        say(FRAME_DATA, 4, "a", 1);
                        break;
                case 8:
                        say(FRAME_CREDIT, 5, body, 4);
                        break;
                case 9:
                        body[0] = 1;
                        say(FRAME_CREDIT, 5, body, 4);
                        break;
                case 10:
                        say(FRAME_CREDIT, 5, body, 3);
                        break;
                case 11:
                        body[0] = 1;
                        say(FRAME_ACK, 0, body, 12);
                        break;
                case 12:
                        say(FRAME_ACK, 0, body, 11);
                        break;
                case 13:
                        say_text(FRAME_RESET, 5, "no JSON");
                        break;
                }
                expect_broken(SESSION_GUEST);
                end();
        }
}
END_TEST

START_TEST(test_bad_guest_streams)
{
        json_object *o = json_object_new_object();
        uint32_t id;

        begin_host(SESSION_DATA);
        say_text(FRAME_OPEN, 1, "{}");
        expect_broken(SESSION_HOST);
        end();

        begin_host(SESSION_DATA);
        ck_assert_int_eq(session_stream_open(s, o, &id), 0);
        say_text(FRAME_OPENED, id, "{}");
        expect(SESSION_EVENT_STREAM_OPENED);
        say_text(FRAME_OPENED, id, "{}");
        expect_broken(SESSION_HOST);
        ck_assert_int_eq(session_stream_open(s, o, &id), -ENOTCONN);
        ck_assert_int_eq(session_stream_eof(s, id), -ENOTCONN);
        end();

        begin_host(SESSION_DATA);
        ck_assert_int_eq(session_stream_open(s, o, &id), 0);
        say(FRAME_DATA, id, "a", 1);
        expect_broken(SESSION_HOST);
        end();
        json_object_put(o);
}
END_TEST

/* Ended streams whose readers are behind: refused, for this is not the host's fault. */
START_TEST(test_lagging_readers)
{
        const uint8_t *body;
        uint32_t id;
        Message m;

        begin_guest(SESSION_DATA);
        for (id = 1; id <= 2 * STREAMS_MAX; id++) {
                FrameHeader h;

                open_guest_stream(id);
                say(FRAME_DATA, id, "a", 1);
                expect(SESSION_EVENT_STREAM_DATA);
                say(FRAME_EOF, id, NULL, 0);
                expect(SESSION_EVENT_STREAM_EOF);
                ck_assert_int_eq(session_stream_eof(s, id), 0);
                h = hear(&body);
                ck_assert_uint_eq(h.type, FRAME_ACK);
                h = hear(&body);
                ck_assert_uint_eq(h.type, FRAME_EOF);
        }
        say_text(FRAME_OPEN, id, "{}");
        expect_nothing();
        m = hear_message(FRAME_RESET, id);
        ck_assert_str_eq(message_str(m.json, "error", ""), "LimitsExceeded");
        message_done(&m);
        session_stream_taken(s, 3, 1);
        open_guest_stream(id + 1);
        end();
}
END_TEST

START_TEST(test_stall)
{
        FrameHeader h = { .type = FRAME_NOTIFY, .seq = 1, .length = 20000 };

        begin_guest(SESSION_CONTROL);
        ck_assert(session_deadline(s) == USEC_INFINITY);
        h.session = epoch;
        (void)frame_seal(bulk, &h);
        inject(bulk, 10000);
        expect_nothing();
        ck_assert(session_deadline(s) == 1000 + STALL_USEC);
        session_tick(s, 1000 + STALL_USEC - 1);
        ck_assert(session_deadline(s) == 1000 + STALL_USEC);
        session_tick(s, 1000 + STALL_USEC);
        expect_nothing();
        ck_assert(session_deadline(s) == USEC_INFINITY);
        say_hello(SESSION_CONTROL, "[1,1]");
        expect_nothing();
        session_tick(s, session_deadline(s));
        expect(SESSION_EVENT_DOWN);
        start();
        end();
}
END_TEST

SUITE("session", test_host_handshake, test_stale_ack, test_hello_req, test_refused, test_guest_handshake,
      test_false_start, test_hello_says_who_we_are, test_sequence, test_foreign_frames, test_ping, test_bye,
      test_requests, test_peer_requests, test_bad_messages, test_queue_is_bounded,
      test_forced_queue_is_bounded, test_stream_of_guest, test_stream_of_host, test_port_window,
      test_credit_is_given_back, test_bad_host_streams, test_bad_guest_streams, test_lagging_readers,
      test_stall)
