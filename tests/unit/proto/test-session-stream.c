/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The data port against a peer made by hand: streams, credit, window, and each thing that may be got wrong
 * there.
 */

#include "session-peer.h"

#include "base/base.h"

static uint8_t bulk[FRAME_MAX];

/* A guest that is made to answer, by a host that never reads. */
START_TEST(test_forced_queue_is_bounded)
{
        begin_guest(SESSION_DATA);
        for (uint32_t i = 1; i < 200000; i++) {
                say_text(FRAME_OPEN, i, "{}");
                if (session_next_event(session, &e) == 0)
                        continue;
                if (e.type == SESSION_EVENT_DOWN)
                        break;
                ck_assert_int_eq(e.type, SESSION_EVENT_STREAM_OPEN);
                (void)session_stream_reset(session, i, WIRE_PERMISSION_DENIED, "no");
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
        ck_assert_uint_eq(session_stream_room(session, id), 0);
        ck_assert_int_eq(session_stream_accept(session, id, NULL), 0);
        ck_assert_int_eq(session_stream_accept(session, id, NULL), -EALREADY);
        ck_assert_uint_eq(session_stream_room(session, id), FRAME_BODY_MAX);
        m = hear_message(FRAME_OPENED, id);
        message_done(&m);
}

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
        ck_assert_uint_eq(session_counters(session)->n_frames_dropped, 1);
        hear_nothing();
        say(FRAME_EOF, 5, NULL, 0);
        expect(SESSION_EVENT_STREAM_EOF);
        /* the sender may wait for this word, also about what nobody wanted */
        h = hear(&body);
        ck_assert(h.type == FRAME_ACK && load_le64(body) == 7 && load_le32(body + 8) == 3);
        ck_assert_int_eq(session_stream_eof(session, 5), 0);
        ck_assert_int_eq(session_stream_eof(session, 5), 0);
        ck_assert_uint_eq(hear(&body).type, FRAME_EOF);
        ck_assert(session_stream_is_open(session, 5));
        session_stream_taken(session, 5, 3);
        ck_assert(!session_stream_is_open(session, 5));
        session_stream_taken(session, 5, 3);
        ck_assert_int_eq(session_stream_eof(session, 5), -ENOENT);
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
        ck_assert_int_eq(session_stream_open(session, o, &id), 0);
        m = hear_message(FRAME_OPEN, id);
        message_done(&m);
        ck_assert_uint_eq(session_stream_room(session, id), 0);
        say_text(FRAME_OPENED, id, "{\"a\":1}");
        expect(SESSION_EVENT_STREAM_OPENED);
        ck_assert_int_eq(message_int(e.message->json, "a", 0), 1);
        while (session_stream_room(session, id)) {
                ck_assert_uint_eq(session_stream_seal(session, id, bulk, FRAME_BODY_MAX), FRAME_MAX);
                n++;
        }
        ck_assert_uint_eq(n, STREAM_CREDIT / FRAME_BODY_MAX);
        ck_assert_uint_eq(session_unacked_bytes(session), n * FRAME_BODY_MAX);
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
        ck_assert_uint_eq(session_unacked_bytes(session), 0);

        say_text(FRAME_RESET, id, "{\"error\":\"NoSpace\",\"message\":\"full\"}");
        expect(SESSION_EVENT_STREAM_RESET);
        ck_assert_str_eq(message_str(e.message->json, "error", ""), "NoSpace");
        ck_assert(!session_stream_is_open(session, id));
        ck_assert_int_eq(session_stream_open(session, o, &other), 0);
        ck_assert_uint_gt(other, id);
        ck_assert_int_eq(session_stream_reset(session, other, WIRE_CANCELLED, "no more"), 0);
        ck_assert_int_eq(session_stream_reset(session, other, WIRE_CANCELLED, "no more"), -ENOENT);
        ck_assert_uint_eq(hear(&body).type, FRAME_OPEN);
        ck_assert_uint_eq(hear(&body).type, FRAME_RESET);
        /* the guest had not seen it yet */
        say_text(FRAME_OPENED, other, "{}");
        expect_nothing();
        ck_assert(session_is_up(session));
        for (unsigned i = 0; i < STREAMS_MAX; i++)
                ck_assert_int_eq(session_stream_open(session, o, &other), 0);
        ck_assert_int_eq(session_stream_open(session, o, &other), -ENOBUFS);
        ck_assert_uint_eq(session_n_streams(session), STREAMS_MAX);
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
                ck_assert_int_eq(session_stream_open(session, o, &ids[i]), 0);
                say_text(FRAME_OPENED, ids[i], "{}");
                expect(SESSION_EVENT_STREAM_OPENED);
        }
        for (size_t i = 0; i < 3; i++)
                while (session_stream_room(session, ids[i])) {
                        (void)session_stream_seal(session, ids[i], bulk, FRAME_BODY_MAX);
                        n++;
                }
        ck_assert_uint_eq(n, PORT_WINDOW_BYTES / FRAME_BODY_MAX);
        store_le64(ack, 5 * FRAME_BODY_MAX);
        store_le32(ack + 8, 5);
        say(FRAME_ACK, 0, ack, 12);
        expect(SESSION_EVENT_STREAM_ROOM);
        ck_assert_uint_eq(e.id, 0);
        ck_assert_uint_gt(session_stream_room(session, ids[2]), 0);
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
        session_stream_taken(session, 1, (STREAM_CREDIT / 4) - 1);
        hear_nothing();
        session_stream_taken(session, 1, 2);
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
        ck_assert_int_eq(session_stream_open(session, o, &id), 0);
        say_text(FRAME_OPENED, id, "{}");
        expect(SESSION_EVENT_STREAM_OPENED);
        say_text(FRAME_OPENED, id, "{}");
        expect_broken(SESSION_HOST);
        ck_assert_int_eq(session_stream_open(session, o, &id), -ENOTCONN);
        ck_assert_int_eq(session_stream_eof(session, id), -ENOTCONN);
        end();

        begin_host(SESSION_DATA);
        ck_assert_int_eq(session_stream_open(session, o, &id), 0);
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
                ck_assert_int_eq(session_stream_eof(session, id), 0);
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
        session_stream_taken(session, 3, 1);
        open_guest_stream(id + 1);
        end();
}
END_TEST

SUITE("session-stream",
      { test_forced_queue_is_bounded },
      { test_stream_of_guest },
      { test_stream_of_host },
      { test_port_window },
      { test_credit_is_given_back },
      { test_bad_host_streams },
      { test_bad_guest_streams },
      { test_lagging_readers })
