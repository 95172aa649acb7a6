/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The data port: the frames of streams. DATA is framed in the driver's buffer and handed out in the
 * parser's: no byte of it is copied here.
 */

#include "proto/session-private.h"

#include <assert.h>

#define CREDIT_BODY_SIZE 4u
#define ACK_BODY_SIZE 12u

/* Tells the peer that a stream is gone. -ENOMEM. */
static int reset_push(Session *s, uint32_t id, WireError error, const char *message)
{
        json_object *o = message_error(error, "%s", message);
        int r;

        if (!o)
                return -ENOMEM;
        r = session_push_json(s, FRAME_RESET, id, o);
        (void)json_object_put(o);
        return r;
}

static int open_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        uint32_t id = f->header.stream;
        Stream *st;
        bool is_whole;
        int r;

        if (s->config.role == SESSION_HOST)
                return session_break(s, ret, "the guest tried to open a stream");
        r = session_message_gather(s, f, ret, &is_whole);
        if (!is_whole)
                return r;
        if (id <= s->streams.last_id)
                return session_break(s, ret, "the host opened stream %u after %u", id, s->streams.last_id);
        if (s->streams.n_live >= STREAMS_MAX)
                return session_break(s, ret, "the host opened more than %u streams", STREAMS_MAX);
        r = stream_table_add(&s->streams, id, &st);
        if (r == -ENOBUFS) {
                /* halves that both ended, and readers of ours that are behind: no fault of the host */
                s->streams.last_id = id;
                message_done(&s->message);
                if (reset_push(s, id, WIRE_LIMITS_EXCEEDED, "too many streams wait for their readers") < 0)
                        s->doom = "out of memory";
                return 0;
        }
        if (r < 0)
                return session_break(s, ret, "out of memory");
        *ret = (SessionEvent){ .type = SESSION_EVENT_STREAM_OPEN, .id = id, .message = &s->message };
        return 1;
}

static int opened_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        Stream *st;
        bool is_whole;
        int r;

        if (s->config.role == SESSION_GUEST)
                return session_break(s, ret, "the host accepted a stream of its own");
        r = session_message_gather(s, f, ret, &is_whole);
        if (!is_whole)
                return r;
        st = stream_table_find(&s->streams, f->header.stream);
        if (!st) {
                message_done(&s->message);
                return session_drop(s);
        }
        if (st->is_accepted)
                return session_break(s, ret, "the guest accepted stream %u twice", st->id);
        st->is_accepted = true;
        *ret = (SessionEvent){ .type = SESSION_EVENT_STREAM_OPENED, .id = st->id, .message = &s->message };
        return 1;
}

static int data_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        size_t n = f->header.length;
        Stream *st;

        if (!window_received(&s->window, n))
                return session_break(s, ret, "the peer sent more than the port's window");
        st = stream_table_find(&s->streams, f->header.stream);
        if (!st)
                return session_drop(s); /* it was reset while this was on its way */
        if (!st->is_accepted || st->peer_eof)
                return session_break(s, ret, "the peer sent data on stream %u, which is not open", st->id);
        if (!stream_received(st, n))
                return session_break(s, ret, "the peer sent more than the credit of stream %u", st->id);
        if (n == 0)
                return 0;
        *ret = (SessionEvent){
                .type = SESSION_EVENT_STREAM_DATA, .id = st->id, .data = f->body, .n_data = n
        };
        return 1;
}

static int eof_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        Stream *st = stream_table_find(&s->streams, f->header.stream);

        s->window.is_pressed = true;
        if (!st)
                return session_drop(s);
        if (st->peer_eof)
                return session_break(s, ret, "the peer ended stream %u twice", st->id);
        st->peer_eof = true;
        *ret = (SessionEvent){ .type = SESSION_EVENT_STREAM_EOF, .id = st->id };
        (void)stream_table_settle(&s->streams, st);
        return 1;
}

static int reset_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        Stream *st;
        bool is_whole;
        int r;

        s->window.is_pressed = true;
        r = session_message_gather(s, f, ret, &is_whole);
        if (!is_whole)
                return r;
        st = stream_table_find(&s->streams, f->header.stream);
        if (!st) {
                message_done(&s->message);
                return session_drop(s);
        }
        *ret = (SessionEvent){ .type = SESSION_EVENT_STREAM_RESET, .id = st->id, .message = &s->message };
        stream_table_remove(&s->streams, st);
        return 1;
}

static int credit_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        Stream *st;
        bool was_writable;

        if (f->header.length != CREDIT_BODY_SIZE)
                return session_break(s, ret, "the peer sent a credit of %u bytes", f->header.length);
        st = stream_table_find(&s->streams, f->header.stream);
        if (!st)
                return 0; /* of a stream that has just ended: nobody's fault */
        was_writable = stream_is_writable(st);
        if (!stream_credited(st, load_le32(f->body)))
                return session_break(s, ret, "the peer gave back credit of stream %u that was not used",
                                     st->id);
        if (was_writable || !stream_is_writable(st) || !window_is_open(&s->window))
                return 0;
        *ret = (SessionEvent){ .type = SESSION_EVENT_STREAM_ROOM, .id = st->id };
        return 1;
}

static int ack_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        bool was_open = window_is_open(&s->window);
        WindowTotal total;

        if (f->header.length != ACK_BODY_SIZE)
                return session_break(s, ret, "the peer sent an acknowledgement of %u bytes",
                                     f->header.length);
        total = (WindowTotal){ .n_bytes = load_le64(f->body), .n_frames = load_le32(f->body + 8) };
        if (!window_acked(&s->window, &total))
                return session_break(s, ret, "the peer acknowledged data that was not sent");
        if (was_open || !window_is_open(&s->window))
                return 0;
        *ret = (SessionEvent){ .type = SESSION_EVENT_STREAM_ROOM };
        return 1;
}

int session_stream_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        switch (f->header.type) {
        case FRAME_DATA:
                return data_frame(s, f, ret);
        case FRAME_OPEN:
                return open_frame(s, f, ret);
        case FRAME_OPENED:
                return opened_frame(s, f, ret);
        case FRAME_EOF:
                return eof_frame(s, f, ret);
        case FRAME_RESET:
                return reset_frame(s, f, ret);
        case FRAME_CREDIT:
                return credit_frame(s, f, ret);
        default:
                return ack_frame(s, f, ret);
        }
}

bool session_stream_output(Session *s, uint8_t *ret_body, FrameHeader *ret_header)
{
        Stream *st;

        /* What goes back goes together: a guest pays for each write, hardly for its bytes. */
        if (window_owes_ack(&s->window) || (s->streams.first_owing && window_has_news(&s->window))) {
                WindowTotal total;

                window_take_ack(&s->window, &total);
                store_le64(ret_body, total.n_bytes);
                store_le32(ret_body + 8, total.n_frames);
                *ret_header = (FrameHeader){ .type = FRAME_ACK, .length = ACK_BODY_SIZE };
                return true;
        }
        st = stream_table_take_owing(&s->streams);
        if (!st)
                return false;
        store_le32(ret_body, st->n_owed);
        st->n_owed = 0;
        *ret_header = (FrameHeader){ .type = FRAME_CREDIT, .stream = st->id, .length = CREDIT_BODY_SIZE };
        return true;
}

int session_stream_open(Session *s, json_object *params, uint32_t *ret_id)
{
        uint8_t *body;
        Stream *st;
        size_t n;
        int r;

        if (!session_is_talking(s) || s->config.port != SESSION_DATA || s->config.role != SESSION_HOST)
                return -ENOTCONN;
        if (s->streams.last_id == UINT32_MAX)
                return -ENOBUFS;
        r = message_format(params, NULL, 0, &body, &n);
        if (r < 0)
                return r;
        r = stream_table_add(&s->streams, s->streams.last_id + 1, &st);
        if (r < 0) {
                free(body);
                return r;
        }
        r = outq_push(&s->outq, OUTQ_BYTES_MAX, FRAME_OPEN, st->id, body, n);
        if (r < 0) {
                stream_table_remove(&s->streams, st);
                return r;
        }
        *ret_id = st->id;
        return 0;
}

/* The live stream of that id while the session is up. */
static Stream *find_stream(const Session *s, uint32_t id)
{
        if (s->state != SESSION_UP || s->doom)
                return NULL;
        /* looking up remembers, which nobody can see */
        return stream_table_find((StreamTable *)&s->streams, id);
}

static int no_stream(const Session *s)
{
        return s->state == SESSION_UP && !s->doom ? -ENOENT : -ENOTCONN;
}

int session_stream_accept(Session *s, uint32_t id, json_object *json)
{
        Stream *st = find_stream(s, id);
        json_object *o;
        int r;

        if (!st)
                return no_stream(s);
        if (s->config.role != SESSION_GUEST || st->is_accepted)
                return -EALREADY;
        o = json ? json_object_get(json) : json_object_new_object();
        if (!o)
                return -ENOMEM;
        r = session_push_json(s, FRAME_OPENED, id, o);
        (void)json_object_put(o);
        if (r < 0)
                return r;
        st->is_accepted = true;
        return 0;
}

int session_stream_reset(Session *s, uint32_t id, WireError error, const char *message)
{
        Stream *st = find_stream(s, id);
        int r;

        if (!st)
                return no_stream(s);
        stream_table_remove(&s->streams, st);
        r = reset_push(s, id, error, message);
        if (r < 0)
                s->doom = "out of memory";
        return r;
}

int session_stream_eof(Session *s, uint32_t id)
{
        Stream *st = find_stream(s, id);

        if (!st)
                return no_stream(s);
        if (st->own_eof)
                return 0;
        st->own_eof = true;
        session_push(s, FRAME_EOF, id, NULL, 0);
        (void)stream_table_settle(&s->streams, st);
        return 0;
}

size_t session_stream_room(const Session *s, uint32_t id)
{
        const Stream *st = find_stream(s, id);

        return st && stream_is_writable(st) && window_is_open(&s->window) ? FRAME_BODY_MAX : 0;
}

size_t session_stream_seal(Session *s, uint32_t id, uint8_t *frame, size_t n)
{
        Stream *st = find_stream(s, id);
        FrameHeader h;
        size_t n_frame;

        assert(st && n > 0 && n <= session_stream_room(s, id));
        h = (FrameHeader){ .type = FRAME_DATA,
                           .stream = id,
                           .seq = s->seq_out++,
                           .length = (uint32_t)n,
                           .session = s->epoch };
        st->credit -= (uint32_t)n;
        window_sent(&s->window, n);
        n_frame = frame_seal(frame, &h);
        s->counters.n_frames_sent++;
        s->counters.n_bytes_sent += n_frame;
        return n_frame;
}

void session_stream_taken(Session *s, uint32_t id, size_t n)
{
        Stream *st = find_stream(s, id);

        if (!st)
                return;
        stream_taken(&s->streams, st, n);
        (void)stream_table_settle(&s->streams, st);
}

bool session_stream_is_open(const Session *s, uint32_t id)
{
        return find_stream(s, id);
}

size_t session_n_streams(const Session *s)
{
        return s->streams.n;
}

uint64_t session_unacked_bytes(const Session *s)
{
        return s->window.sent.n_bytes - s->window.acked.n_bytes;
}
