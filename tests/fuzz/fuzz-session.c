/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A session, either role, either port, against a peer that knows the wire and follows the input: it
 * completes the handshake, then seals what the input says, or sends it as it is, while the application
 * answers, opens, ends and forgets.
 *
 * First byte: bit 0 guest, bit 1 data port. Then operations, a byte each with what it needs behind it.
 */

#include "fuzz.h"

#include <stdio.h>

#include "base/base.h"
#include "proto/digest.h"
#include "proto/session.h"

typedef struct Fuzz {
        const uint8_t *data;
        size_t n;
        Session *session;
        bool is_guest, is_data;
        uint64_t epoch, now_usec;
        uint32_t seq;
        uint8_t nonce[16]; /* the session's, from its HELLO or HELLO_ACK */
        uint32_t ids[8];   /* what the application heard of */
        size_t n_ids;
} Fuzz;

#define PEER_NONCE "00000000000000000000000000000000"

static uint8_t frame[FRAME_MAX];

static uint8_t take(Fuzz *f)
{
        return f->n > 0 ? (f->n--, *f->data++) : 0;
}

static void on_random(void *userdata, void *buf, size_t n)
{
        Fuzz *f = userdata;

        memset(buf, (int)++f->now_usec, n);
        memcpy(f->nonce, buf, MIN(n, sizeof(f->nonce)));
}

static void on_events(Fuzz *f)
{
        json_object *o;
        SessionEvent e;

        while (session_next_event(f->session, &e)) {
                if (e.type == SESSION_EVENT_UP) {
                        f->seq = f->is_guest ? 1 : 0;
                        f->epoch = session_epoch(f->session);
                }
                if (e.type == SESSION_EVENT_DOWN && !e.text)
                        abort();
                if (e.message && !e.message->json)
                        abort();
                if (e.id)
                        f->ids[f->n_ids++ % ELEMENTSOF(f->ids)] = e.id;
                if (e.type == SESSION_EVENT_REQUEST && e.id % 3) {
                        o = json_object_new_object();
                        (void)session_reply(f->session, e.id, o, e.message->payload, e.message->n_payload);
                        json_object_put(o);
                }
                if (e.type == SESSION_EVENT_STREAM_OPEN && e.id % 3)
                        (void)session_stream_accept(f->session, e.id, NULL);
                if (e.type == SESSION_EVENT_STREAM_DATA) {
                        volatile uint8_t last = e.data[e.n_data - 1];

                        (void)last;
                        if (e.id % 2)
                                session_stream_taken(f->session, e.id, e.n_data);
                }
        }
}

static void give(Fuzz *f, const uint8_t *data, size_t n)
{
        while (n > 0) {
                size_t room, m;
                uint8_t *to;

                session_input_space(f->session, &to, &room);
                if (room == 0)
                        abort();
                m = MIN(room, n);
                memcpy(to, data, m);
                session_input_commit(f->session, m, f->now_usec);
                data += m, n -= m;
                on_events(f);
        }
}

static void give_frame(Fuzz *f, FrameHeader h, const void *body)
{
        if (h.length > 0)
                memcpy(frame + FRAME_HEADER_SIZE, body, h.length);
        give(f, frame, frame_seal(frame, &h));
}

static void give_text(Fuzz *f, uint8_t type, uint64_t session, const char *text)
{
        give_frame(f, (FrameHeader){ .type = type, .length = (uint32_t)strlen(text), .session = session },
                   text);
}

static void read_all(Fuzz *f)
{
        const uint8_t *data;
        size_t n;

        while (session_output_next(f->session, &data, &n))
                if (n > FRAME_MAX || n < 48)
                        abort();
}

static uint64_t epoch_of(const uint8_t host[16], const uint8_t guest[16])
{
        uint8_t both[32];
        uint64_t epoch;

        memcpy(both, host, 16);
        memcpy(both + 16, guest, 16);
        epoch = digest_of(both, sizeof(both), 0);
        return epoch ? epoch : 1;
}

static void handshake(Fuzz *f)
{
        static const uint8_t zero[16];
        char text[256], hex[33];

        read_all(f);
        if (!f->is_guest) {
                for (size_t i = 0; i < 16; i++)
                        snprintf(hex + 2 * i, 3, "%02x", f->nonce[i]);
                snprintf(text, sizeof(text), "{\"version\":1,\"nonce\":\"" PEER_NONCE "\",\"echo\":\"%s\"}",
                         hex);
                give_text(f, FRAME_HELLO_ACK, 0, text);
        } else {
                snprintf(text, sizeof(text),
                         "{\"port\":\"%s\",\"version\":[1,2],\"nonce\":\"" PEER_NONCE "\"}",
                         f->is_data ? "data" : "control");
                give_text(f, FRAME_HELLO, 0, text);
                for (size_t i = 0; i < 16; i++)
                        snprintf(hex + 2 * i, 3, "%02x", f->nonce[i]);
                snprintf(text, sizeof(text), "{\"echo\":\"%s\"}", hex);
                give_text(f, FRAME_START, epoch_of(zero, f->nonce), text);
        }
        read_all(f);
}

/* A whole frame of the session; type, stream, flags and body are the input's. */
static void sealed(Fuzz *f, bool is_big)
{
        static uint8_t body[FRAME_BODY_MAX];
        FrameHeader h = { .session = f->epoch, .seq = f->seq++ };
        size_t n;

        h.type = take(f) % 40;
        h.stream = take(f) % 16;
        h.flags = take(f) & 1;
        n = take(f);
        if (is_big) {
                n = n << 7 | 0x7f;
        } else {
                n = MIN(n, f->n);
                memcpy(body, f->data, n);
                f->data += n, f->n -= n;
        }
        h.length = (uint32_t)MIN(n, sizeof(body));
        give_frame(f, h, body);
}

static void application(Fuzz *f, uint8_t what)
{
        uint32_t id = f->ids[what % ELEMENTSOF(f->ids)], other;
        json_object *o = json_object_new_object();
        size_t room;

        switch (what / 8 % 8) {
        case 0:
                (void)session_request(f->session, o, "x", 1, &other);
                break;
        case 1:
                session_forget(f->session, id);
                (void)session_reply(f->session, id, o, NULL, 0);
                break;
        case 2:
                (void)session_notify(f->session, o, NULL, 0);
                (void)session_ping(f->session, 1);
                break;
        case 3:
                if (session_stream_open(f->session, o, &other) == 0)
                        f->ids[f->n_ids++ % ELEMENTSOF(f->ids)] = other;
                break;
        case 4:
                (void)session_stream_accept(f->session, id, o);
                room = session_stream_room(f->session, id);
                if (room > 0)
                        (void)session_stream_seal(f->session, id, frame, room);
                break;
        case 5:
                (void)session_stream_eof(f->session, id);
                break;
        case 6:
                (void)session_stream_reset(f->session, id, WIRE_CANCELLED, "no");
                break;
        case 7:
                if (what & 1)
                        (void)session_bye(f->session);
                else
                        session_rehello(f->session, f->now_usec);
                break;
        }
        json_object_put(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        Fuzz f = { .data = data, .n = n, .now_usec = 1 };
        SessionConfig config = { .random = on_random, .userdata = &f };
        uint8_t first = take(&f);

        f.is_guest = first & 1;
        f.is_data = first & 2;
        config.role = f.is_guest ? SESSION_GUEST : SESSION_HOST;
        config.port = f.is_data ? SESSION_DATA : SESSION_CONTROL;
        if (session_new(&config, &f.session) < 0)
                return 0;
        session_open(f.session, f.now_usec);
        handshake(&f);
        if (!session_is_up(f.session))
                abort();
        while (f.n > 0) {
                uint8_t what = take(&f);

                switch (what % 8) {
                case 0:
                case 1:
                case 2:
                        sealed(&f, false);
                        break;
                case 3:
                        sealed(&f, true);
                        break;
                case 4: {
                        size_t m = take(&f);

                        m = MIN(m, f.n);
                        give(&f, f.data, m);
                        f.data += m, f.n -= m;
                        break;
                }
                case 5:
                        application(&f, take(&f));
                        break;
                case 6:
                        f.now_usec += STALL_USEC;
                        session_tick(f.session, f.now_usec);
                        on_events(&f);
                        break;
                case 7:
                        if (!session_is_up(f.session))
                                handshake(&f);
                        else
                                read_all(&f);
                        break;
                }
                on_events(&f);
        }
        (void)session_free(f.session);
        return 0;
}
