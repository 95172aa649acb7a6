/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A session as its driver sees it: life, bytes in, events out, frames out. It leans on one promise, that
 * bytes of one direction arrive in order or not at all: the sequence number notices everything else, and
 * then the session ends and a new handshake begins.
 */

#include "proto/session.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "proto/session-private.h"

/* What must not be lost may go beyond OUTQ_BYTES_MAX; a peer that lets it grow so far does not read. */
#define OUTQ_HARD_MAX ((size_t)2 * OUTQ_BYTES_MAX)

int session_new(const SessionConfig *config, Session **ret)
{
        Session *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->config = *config;
        if (s->config.version_min == 0)
                s->config.version_min = PROTOCOL_VERSION_MIN;
        if (s->config.version_max == 0)
                s->config.version_max = PROTOCOL_VERSION_MAX;
        s->parser = frame_parser_new();
        s->out = malloc(FRAME_MAX);
        if (!s->parser || !s->out) {
                (void)session_free(s);
                return -ENOMEM;
        }
        /* A late answer to a request of before a restart must not meet a new request with its id. */
        s->config.random(s->config.userdata, &s->next_request, sizeof(s->next_request));
        *ret = s;
        return 0;
}

Session *session_free(Session *s)
{
        if (!s)
                return NULL;
        session_clear(s);
        session_hello_drop(s);
        message_done(&s->message);
        message_done(&s->hello);
        (void)frame_parser_free(s->parser);
        free(s->out);
        free(s);
        return NULL;
}

void session_clear(Session *s)
{
        uint32_t last_id = s->streams.last_id;

        fragments_done(&s->fragments);
        outq_done(&s->outq);
        idset_done(&s->own_requests);
        idset_done(&s->peer_requests);
        stream_table_done(&s->streams);
        /* The host's ids go on, so that nobody takes a stream for one of before. They would last for years.
         */
        if (s->config.role == SESSION_HOST && last_id < UINT32_MAX / 2)
                s->streams.last_id = last_id;
        s->window = (Window){ 0 };
        s->n_pings = 0;
        s->seq_in = s->seq_out = 0;
        s->epoch = 0;
        s->is_bye_sent = s->is_bye_received = false;
        s->doom = NULL;
}

int session_break(Session *s, SessionEvent *ret, const char *format, ...)
{
        char text[SESSION_TEXT_MAX];
        va_list args;

        /* an argument may be s->text itself */
        va_start(args, format);
        (void)vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        memcpy(s->text, text, sizeof(text));

        session_clear(s);
        session_hello_begin(s);
        *ret = (SessionEvent){ .type = SESSION_EVENT_DOWN, .text = s->text };
        return 1;
}

void session_open(Session *s, uint64_t now_usec)
{
        session_close(s);
        frame_parser_reset(s->parser);
        s->now_usec = s->input_usec = now_usec;
        s->heard_usec = 0;
        s->is_stall_judged = true;
        session_hello_begin(s);
}

void session_close(Session *s)
{
        session_clear(s);
        session_hello_drop(s);
        s->state = SESSION_CLOSED;
}

void session_rehello(Session *s, uint64_t now_usec)
{
        if (s->state == SESSION_CLOSED)
                return;
        s->now_usec = now_usec;
        session_clear(s);
        session_hello_begin(s);
}

SessionState session_state(const Session *s)
{
        return s->state;
}

bool session_is_up(const Session *s)
{
        return s->state == SESSION_UP;
}

uint64_t session_epoch(const Session *s)
{
        return session_is_up(s) ? s->epoch : 0;
}

uint64_t session_heard_usec(const Session *s)
{
        return s->heard_usec;
}

const SessionCounters *session_counters(const Session *s)
{
        return &s->counters;
}

void session_input_space(Session *s, uint8_t **ret_buf, size_t *ret_n)
{
        frame_parser_space(s->parser, ret_buf, ret_n);
}

void session_input_commit(Session *s, size_t n, uint64_t now_usec)
{
        frame_parser_commit(s->parser, n);
        s->now_usec = s->input_usec = now_usec;
        s->is_stall_judged = false;
}

uint64_t session_deadline(const Session *s)
{
        if (s->state == SESSION_CLOSED || s->is_stall_judged || !frame_parser_is_partial(s->parser))
                return USEC_INFINITY;
        return s->input_usec + STALL_USEC;
}

void session_tick(Session *s, uint64_t now_usec)
{
        s->now_usec = now_usec;
        if (now_usec < session_deadline(s))
                return;
        s->is_stall_judged = true;
        (void)frame_parser_unstall(s->parser);
}

static int session_ping_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        uint64_t cookie;

        if (f->header.length != sizeof(cookie))
                return session_break(s, ret, "the peer sent a ping of %u bytes", f->header.length);
        cookie = load_le64(f->body);
        if (f->header.type == FRAME_PONG) {
                *ret = (SessionEvent){ .type = SESSION_EVENT_PONG, .cookie = cookie };
                return 1;
        }
        if (s->n_pings >= PINGS_MAX)
                return session_drop(s);
        s->pings[(s->first_ping + s->n_pings++) % PINGS_MAX] =
                (Ping){ .type = FRAME_PONG, .cookie = cookie };
        s->window.is_pressed = true;
        return 0;
}

static int session_bye_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        if (f->header.type == FRAME_BYE_ACK) {
                if (!s->is_bye_sent)
                        return session_drop(s);
                *ret = (SessionEvent){ .type = SESSION_EVENT_BYE_ACK };
                return 1;
        }
        if (s->is_bye_received)
                return session_drop(s);
        s->is_bye_received = true;
        s->window.is_pressed = true;
        session_push(s, FRAME_BYE_ACK, 0, NULL, 0);
        *ret = (SessionEvent){ .type = SESSION_EVENT_BYE };
        return 1;
}

/* A frame of the present session, in its place. */
static int session_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        bool is_control = s->config.port == SESSION_CONTROL;

        switch (f->header.type) {
        case FRAME_PING:
        case FRAME_PONG:
                return session_ping_frame(s, f, ret);
        case FRAME_BYE:
        case FRAME_BYE_ACK:
                return session_bye_frame(s, f, ret);
        case FRAME_REQUEST:
        case FRAME_REPLY:
        case FRAME_NOTIFY:
                return is_control ? session_message_frame(s, f, ret) : session_drop(s);
        case FRAME_OPEN:
        case FRAME_OPENED:
        case FRAME_DATA:
        case FRAME_EOF:
        case FRAME_RESET:
        case FRAME_CREDIT:
        case FRAME_ACK:
                return is_control ? session_drop(s) : session_stream_frame(s, f, ret);
        default:
                /* of a later version, which uses it only with those who know it; or a mistake, which is then
                 * harmless */
                return session_drop(s);
        }
}

static int session_dispatch(Session *s, const Frame *f, SessionEvent *ret)
{
        const FrameHeader *h = &f->header;

        if (frame_type_is_handshake(h->type))
                return h->session == 0 ? session_hello_frame(s, f, ret) : session_drop(s);
        if (h->session == 0 || h->session != s->epoch)
                return session_drop(s);
        if (s->state == SESSION_ACK_SENT)
                return h->type == FRAME_START ? session_hello_start(s, f, ret) : session_drop(s);
        if (s->state != SESSION_UP)
                return session_drop(s);
        if (h->seq != s->seq_in)
                return session_break(s, ret, "frame %u arrived where %u was due", h->seq, s->seq_in);
        s->seq_in++;
        s->heard_usec = s->now_usec;
        return session_frame(s, f, ret);
}

int session_next_event(Session *s, SessionEvent *ret)
{
        Frame f;
        int r = 0;

        message_done(&s->message);
        if (s->state == SESSION_CLOSED)
                return 0;
        if (s->doom)
                return session_break(s, ret, "%s", s->doom);
        while (r == 0 && frame_parser_next(s->parser, &f)) {
                s->counters.n_bytes_received +=
                        FRAME_HEADER_SIZE + (uint64_t)f.header.length + FRAME_SEAL_SIZE;
                r = session_dispatch(s, &f, ret);
        }
        s->counters.frames = *frame_parser_counters(s->parser);
        return r;
}

void session_push(Session *s, uint8_t type, uint32_t stream, uint8_t *body, size_t n)
{
        int r = outq_push(&s->outq, OUTQ_HARD_MAX, type, stream, body, n);

        if (r == -ENOBUFS)
                s->doom = "the peer does not read what it is sent";
        else if (r < 0)
                s->doom = "out of memory";
}

int session_push_json(Session *s, uint8_t type, uint32_t stream, json_object *json)
{
        uint8_t *body;
        size_t n;
        int r;

        r = message_format(json, NULL, 0, &body, &n);
        if (r < 0)
                return r;
        session_push(s, type, stream, body, n);
        return 0;
}

bool session_output_pending(const Session *s)
{
        if (s->hello_type)
                return true;
        return s->state == SESSION_UP && !s->doom &&
               (s->n_pings > 0 || session_stream_output_pending(s) || !outq_is_empty(&s->outq));
}

/* Header and body of what is to be written next; session and seq are the caller's. */
static bool session_output_pick(Session *s, uint8_t *ret_body, FrameHeader *ret)
{
        if (s->hello_type) {
                memcpy(ret_body, s->hello_body, s->n_hello_body);
                *ret = (FrameHeader){ .type = s->hello_type, .length = (uint32_t)s->n_hello_body };
                session_hello_drop(s);
                return true;
        }
        if (s->state != SESSION_UP || s->doom)
                return false;
        if (s->n_pings > 0) {
                const Ping *p = &s->pings[s->first_ping];

                store_le64(ret_body, p->cookie);
                *ret = (FrameHeader){ .type = p->type, .length = sizeof(p->cookie) };
                s->first_ping = (s->first_ping + 1) % PINGS_MAX;
                s->n_pings--;
                return true;
        }
        if (session_stream_output(s, ret_body, ret))
                return true;
        if (outq_is_empty(&s->outq))
                return false;
        outq_next(&s->outq, ret_body, ret);
        return true;
}

int session_output_next(Session *s, const uint8_t **ret_frame, size_t *ret_n)
{
        FrameHeader h;

        if (!session_output_pick(s, s->out + FRAME_HEADER_SIZE, &h))
                return 0;
        if (!frame_type_is_handshake(h.type)) {
                h.session = s->epoch;
                h.seq = s->seq_out++;
        }
        *ret_n = frame_seal(s->out, &h);
        *ret_frame = s->out;
        s->counters.n_frames_sent++;
        s->counters.n_bytes_sent += *ret_n;
        return 1;
}

int session_ping(Session *s, uint64_t cookie)
{
        if (s->state != SESSION_UP || s->doom)
                return -ENOTCONN;
        if (s->n_pings >= PINGS_MAX)
                return -ENOBUFS;
        s->pings[(s->first_ping + s->n_pings++) % PINGS_MAX] =
                (Ping){ .type = FRAME_PING, .cookie = cookie };
        return 0;
}

int session_bye(Session *s)
{
        if (s->state != SESSION_UP || s->doom)
                return -ENOTCONN;
        if (s->is_bye_sent)
                return 0;
        session_push(s, FRAME_BYE, 0, NULL, 0);
        s->is_bye_sent = true;
        return 0;
}
