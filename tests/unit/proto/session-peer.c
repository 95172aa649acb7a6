/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "session-peer.h"

#include <stdio.h>

#include "base/base.h"
#include "proto/digest.h"

Session *session;
SessionEvent e;
static uint8_t frame[FRAME_MAX];
uint64_t epoch;
uint32_t seq; /* of our next frame to the session */
static uint8_t random_byte;

void on_random(void *userdata, void *buf, size_t n)
{
        memset(buf, ++random_byte, n);
}

void inject(const void *data, size_t n)
{
        while (n > 0) {
                size_t room, piece;
                uint8_t *to;

                session_input_space(session, &to, &room);
                piece = MIN(room, n);
                memcpy(to, data, piece);
                session_input_commit(session, piece, 1000);
                data = (const uint8_t *)data + piece;
                n -= piece;
        }
}

void say_raw(FrameHeader h, const void *body)
{
        if (h.length > 0)
                memcpy(frame + FRAME_HEADER_SIZE, body, h.length);
        inject(frame, frame_seal(frame, &h));
}

/* A frame of the session, in its place. */
void say(uint8_t type, uint32_t stream, const void *body, size_t n)
{
        say_raw((FrameHeader){ .type = type,
                               .stream = stream,
                               .seq = seq++,
                               .length = (uint32_t)n,
                               .session = epoch },
                body);
}

void say_text(uint8_t type, uint32_t stream, const char *text)
{
        if (frame_type_is_handshake(type))
                say_raw((FrameHeader){ .type = type, .length = (uint32_t)strlen(text) }, text);
        else
                say(type, stream, text, strlen(text));
}

/* The next frame that the session has to write; its body is JSON or not. */
FrameHeader hear(const uint8_t **ret_body)
{
        const uint8_t *data;
        FrameHeader h;
        size_t n;

        ck_assert_int_eq(session_output_next(session, &data, &n), 1);
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

Message hear_message(uint8_t type, uint32_t stream)
{
        const uint8_t *body;
        FrameHeader h = hear(&body);
        Message m;

        ck_assert_uint_eq(h.type, type);
        ck_assert_uint_eq(h.stream, stream);
        ck_assert_int_eq(message_parse(body, h.length, &m), 0);
        return m;
}

void hear_nothing(void)
{
        const uint8_t *data;
        size_t n;

        ck_assert(!session_output_pending(session));
        ck_assert_int_eq(session_output_next(session, &data, &n), 0);
}

void expect(SessionEventType type)
{
        ck_assert_int_eq(session_next_event(session, &e), 1);
        ck_assert_msg(e.type == type, "event %d, not %d: %s", (int)e.type, (int)type, e.text ? e.text : "");
}

void expect_nothing(void)
{
        ck_assert_int_eq(session_next_event(session, &e), 0);
}

void begin(SessionRole role, SessionPort port)
{
        SessionConfig config = { .role = role, .port = port, .random = on_random };

        ck_assert_int_eq(session_new(&config, &session), 0);
        ck_assert_int_eq(session_state(session), SESSION_CLOSED);
        expect_nothing();
        session_open(session, 1);
        seq = 0;
}

void end(void)
{
        session = session_free(session);
}

uint64_t epoch_of(const char *host, const char *guest)
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

/* We are the guest: the answer to the host's HELLO that waits. */
void answer_hello(const char *version)
{
        Message hello = hear_message(FRAME_HELLO, 0);
        char ack[512];

        epoch = epoch_of(message_str(hello.json, "nonce", ""), GUEST_NONCE);
        snprintf(ack, sizeof(ack), "{\"version\":%s,\"nonce\":\"%s\",\"echo\":\"%s\",\"agent\":\"x\"}",
                 version, GUEST_NONCE, message_str(hello.json, "nonce", ""));
        message_done(&hello);
        say_text(FRAME_HELLO_ACK, 0, ack);
}

void begin_host(SessionPort port)
{
        Message m;

        begin(SESSION_HOST, port);
        answer_hello("1");
        expect(SESSION_EVENT_UP);
        ck_assert_str_eq(message_str(e.message->json, "agent", "-"), "x");
        ck_assert(session_is_up(session) && session_epoch(session) == epoch);
        m = hear_message(FRAME_START, 0);
        ck_assert_str_eq(message_str(m.json, "echo", ""), GUEST_NONCE);
        message_done(&m);
        seq = 0;
}

static const char *port_text(SessionPort port)
{
        return port == SESSION_CONTROL ? "control" : "data";
}

void say_hello(SessionPort port, const char *version)
{
        char hello[256];

        snprintf(hello, sizeof(hello), "{\"port\":\"%s\",\"version\":%s,\"nonce\":\"%s\"}", port_text(port),
                 version, HOST_NONCE);
        say_text(FRAME_HELLO, 0, hello);
}

/* We are the host: START in answer to the HELLO_ACK that waits. */
void start(void)
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

void begin_guest(SessionPort port)
{
        Message req;

        begin(SESSION_GUEST, port);
        req = hear_message(FRAME_HELLO_REQ, 0);
        message_done(&req);
        say_hello(port, "[1,1]");
        expect(SESSION_EVENT_HEARD);
        ck_assert_int_eq(session_state(session), SESSION_ACK_SENT);
        start();
}

/* The session ended by the peer's fault, and the next handshake has begun. */
void expect_broken(SessionRole role)
{
        Message m;

        expect(SESSION_EVENT_DOWN);
        ck_assert_uint_gt(strlen(e.text), 5);
        ck_assert(!session_is_up(session));
        ck_assert_uint_eq(session_n_streams(session), 0);
        m = hear_message(role == SESSION_HOST ? FRAME_HELLO : FRAME_HELLO_REQ, 0);
        message_done(&m);
        hear_nothing();
}
