/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The inside of a Session, for session.c (driver's side), session-hello.c (handshake), session-message.c
 * (control port) and session-stream.c (data port) only.
 */

#include "base/base.h"
#include "proto/fragments.h"
#include "proto/idset.h"
#include "proto/outq.h"
#include "proto/session.h"
#include "proto/stream.h"
#include "proto/window.h"

#define NONCE_SIZE 16u
#define NONCE_TEXT_SIZE (2 * NONCE_SIZE + 1)
#define PINGS_MAX 16u
#define SESSION_TEXT_MAX 160u

typedef struct Ping {
        uint8_t type; /* FRAME_PING or FRAME_PONG */
        uint64_t cookie;
} Ping;

struct Session {
        SessionConfig config;
        SessionState state;
        SessionCounters counters;
        char text[SESSION_TEXT_MAX];
        const char *doom; /* the next event is DOWN, for this reason */

        /* what comes in */
        FrameParser *parser;
        uint64_t now_usec, input_usec, heard_usec;
        bool is_stall_judged; /* nothing came since the last look at a half frame */
        uint32_t seq_in;
        Fragments fragments;
        Message message; /* of the last event */

        /* handshake */
        uint8_t nonce[NONCE_SIZE]; /* ours, of the handshake under way */
        uint64_t epoch;            /* of the session that is up, or that the guest expects */
        Message hello;             /* the peer's HELLO or HELLO_ACK */
        uint8_t hello_type;        /* of the handshake frame that waits to be written; 0: none */
        uint8_t *hello_body;
        size_t n_hello_body;

        /* what goes out */
        uint32_t seq_out;
        Ping pings[PINGS_MAX]; /* a ring: they overtake the queue */
        size_t first_ping, n_pings;
        Outq outq;
        uint8_t *out; /* FRAME_MAX bytes: the frame handed out last */
        bool is_bye_sent, is_bye_received;

        /* control port */
        Idset own_requests, peer_requests;
        uint32_t next_request;

        /* data port */
        StreamTable streams;
        Window window;
};

/* session.c */

/* Ends the session with an event and begins the next handshake. Returns 1. */
int session_break(Session *s, SessionEvent *ret, const char *format, ...) _printf_(3, 4);
/* Forgets all that belonged to the session: queue, streams, requests. */
void session_clear(Session *s);
/* A frame that is not for us: 0. */
static inline int session_drop(Session *s)
{
        s->counters.n_frames_dropped++;
        return 0;
}
/* A frame that must not be lost while the session is up (body taken over): if it can't be queued, the
 * session ends. */
void session_push(Session *s, uint8_t type, uint32_t stream, uint8_t *body, size_t n);
/* The same with a JSON body (borrowed); -E2BIG, -ENOMEM, -EILSEQ: it has no form, and nothing was queued. */
int session_push_json(Session *s, uint8_t type, uint32_t stream, json_object *json);
/* Whether new messages and streams may begin. */
static inline bool session_is_talking(const Session *s)
{
        return s->state == SESSION_UP && !s->is_bye_sent && !s->doom;
}

/* session-hello.c; frames as session_next_event() */

void session_hello_begin(Session *s); /* queues HELLO with a fresh nonce, or HELLO_REQ */
void session_hello_drop(Session *s);  /* no handshake frame waits any more */
int session_hello_frame(Session *s, const Frame *f, SessionEvent *ret);
int session_hello_start(Session *s, const Frame *f, SessionEvent *ret);

/* session-message.c */

int session_message_frame(Session *s, const Frame *f, SessionEvent *ret);
/* Puts a message together. Either it is whole and stands in s->message, or what to return is returned. */
int session_message_gather(Session *s, const Frame *f, SessionEvent *ret, bool *ret_is_whole);

/* session-stream.c */

int session_stream_frame(Session *s, const Frame *f, SessionEvent *ret);
/* The next ACK or CREDIT. Whether there was one; header and body are written. */
bool session_stream_output(Session *s, uint8_t *ret_body, FrameHeader *ret_header);
static inline bool session_stream_output_pending(const Session *s)
{
        return s->streams.first_owing || window_owes_ack(&s->window);
}
