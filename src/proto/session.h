/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One conversation on one port, either side of it: handshake, epoch, sequence, requests in fragments,
 * streams with credit. It owns no descriptor and no clock: the driver brings bytes and times and takes bytes
 * and events.
 *
 * Driver, reading:  session_input_space() → read(2) → session_input_commit() → session_next_event() until 0.
 * Driver, writing:  finish the frame begun; else session_output_next(); else for a stream whose
 *                   session_stream_room() is positive, fill a buffer at FRAME_HEADER_SIZE and seal it by
 *                   session_stream_seal().
 *
 * Frames are numbered when they are taken for writing: what has been taken must be written whole, in order.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/message.h"
#include "proto/wire-error.h"

#ifndef PROTOCOL_VERSION_MAX /* a test builds a peer that speaks another one */
#define PROTOCOL_VERSION_MIN 1
#define PROTOCOL_VERSION_MAX 1
#endif

typedef struct Session Session;

typedef enum SessionRole { SESSION_HOST, SESSION_GUEST } SessionRole;
typedef enum SessionPort { SESSION_CONTROL, SESSION_DATA } SessionPort;

typedef enum SessionState {
        SESSION_CLOSED,     /* not opened yet, or session_close() */
        SESSION_HELLO_SENT, /* host: HELLO is out; guest: HELLO_REQ is out */
        SESSION_ACK_SENT,   /* guest only: waits for START */
        SESSION_UP,
        SESSION_REFUSED, /* host only: the peer speaks no version of ours */
} SessionState;

typedef struct SessionConfig {
        SessionRole role;
        SessionPort port;
        json_object *hello; /* borrowed for the session's life: what this side says about itself: "agent",
                               "capabilities", and for guests "boot_id", "instance", "facts"; merged into
                               HELLO or HELLO_ACK */
        void (*random)(void *userdata, void *buf, size_t n); /* fresh unpredictable bytes for nonces */
        void *userdata;
        int version_min, version_max; /* 0: PROTOCOL_VERSION_MIN, PROTOCOL_VERSION_MAX */
} SessionConfig;

typedef enum SessionEventType {
        SESSION_EVENT_UP,   /* message: the peer's HELLO or HELLO_ACK (facts, unchecked beyond types) */
        SESSION_EVENT_DOWN, /* the session that was up has ended; text says why. Streams and requests are
                               gone. A new handshake is under way by itself (host) or awaited (guest). */
        SESSION_EVENT_INCOMPATIBLE, /* host: text names the versions */
        SESSION_EVENT_HEARD, /* a valid frame of the peer outside of a session (host: somebody is there) */
        SESSION_EVENT_PONG,  /* cookie */
        SESSION_EVENT_BYE,   /* the peer will send nothing more; BYE_ACK is queued */
        SESSION_EVENT_BYE_ACK,
        SESSION_EVENT_REQUEST,       /* id, message */
        SESSION_EVENT_REPLY,         /* id, message: only for an id that this side has open */
        SESSION_EVENT_NOTIFY,        /* message */
        SESSION_EVENT_STREAM_OPEN,   /* guest: id, message: accept or reset it */
        SESSION_EVENT_STREAM_OPENED, /* host: id, message */
        SESSION_EVENT_STREAM_DATA,   /* id, data, n_data: take it now; give the credit back by
                                        session_stream_taken() */
        SESSION_EVENT_STREAM_EOF,    /* id: the peer's half has ended */
        SESSION_EVENT_STREAM_RESET,  /* id, message {"error","message"}: the stream is gone */
        SESSION_EVENT_STREAM_ROOM, /* id: session_stream_room() has become positive. id 0: the port's window
                                      has */
} SessionEventType;

typedef struct SessionEvent {
        SessionEventType type;
        uint32_t id;
        uint64_t cookie;
        Message *message; /* borrowed, valid until the next call on the session */
        const uint8_t *data;
        size_t n_data;
        const char *text; /* borrowed likewise; never the peer's own words unescaped */
} SessionEvent;

typedef struct SessionCounters {
        FrameCounters frames;
        uint64_t n_frames_sent, n_frames_dropped; /* dropped: of another session, or not for this state */
        uint64_t n_sessions;
        uint64_t n_bytes_sent, n_bytes_received; /* whole frames */
} SessionCounters;

int session_new(const SessionConfig *config, Session **ret); /* 0, -ENOMEM */
Session *session_free(Session *s);

/* The port is open: host queues HELLO with a fresh nonce, guest queues HELLO_REQ. Forgets everything of
 * before. */
void session_open(Session *s, uint64_t now_usec);
void session_close(Session *s);
/* Host: a new HELLO on the same connection (no answer in time, or a resume event). Ends a session that is
 * up, without an event. */
void session_rehello(Session *s, uint64_t now_usec);
SessionState session_state(const Session *s);
bool session_is_up(const Session *s);
uint64_t session_epoch(const Session *s); /* the session id; 0 when not up */

void session_input_space(Session *s, uint8_t **ret_buf, size_t *ret_n);
void session_input_commit(Session *s, size_t n, uint64_t now_usec);
int session_next_event(Session *s, SessionEvent *ret); /* 1: an event; 0: none */

/* The next whole control frame to write. 1; 0: none. Valid until the next call of this function. */
int session_output_next(Session *s, const uint8_t **ret_frame, size_t *ret_n);
bool session_output_pending(const Session *s);

/* When session_tick() wants to be called (USEC_INFINITY: never). Only a half frame that lies still needs it.
 * Ask for events after it. */
uint64_t session_deadline(const Session *s);
void session_tick(Session *s, uint64_t now_usec);
/* When anything valid of the present peer last arrived; 0: never. For the driver's own patience. */
uint64_t session_heard_usec(const Session *s);

/* In a session; -ENOTCONN otherwise and behind session_bye(), -ENOBUFS: OUTQ_BYTES_MAX or REQUESTS_MAX
 * reached (or 16 pings and pongs unwritten), -E2BIG, -EILSEQ (text that is no UTF-8), -ENOMEM. json is
 * borrowed. Request ids begin at random and go on from session to session. */
int session_ping(Session *s, uint64_t cookie);
int session_request(Session *s, json_object *json, const void *payload, size_t n_payload, uint32_t *ret_id);
void session_forget(Session *s, uint32_t id); /* a late reply to it will be dropped */
/* -ENOENT: no such request in this session. */
int session_reply(Session *s, uint32_t id, json_object *json, const void *payload, size_t n_payload);
int session_notify(Session *s, json_object *json, const void *payload, size_t n_payload);
int session_bye(Session *s); /* queued last; nothing may be begun behind it. Pings go on. */

/* Streams, on a data port. Ids are chosen by the host, count up, and are not used again in a session.
 * accept, reset and eof: -ENOENT: the id is gone, -ENOTCONN: the session is; a full queue is no reason to
 * refuse them (at twice OUTQ_BYTES_MAX the session ends). Room is there when a stream was accepted, then
 * when STREAM_ROOM says so. */
int session_stream_open(Session *s, json_object *params, uint32_t *ret_id); /* host */
int session_stream_accept(Session *s, uint32_t id, json_object *json);      /* guest; json may be NULL */
/* Either side; the id is gone then. */
int session_stream_reset(Session *s, uint32_t id, WireError error, const char *message);
int session_stream_eof(Session *s, uint32_t id); /* behind all DATA sealed before */
/* Bytes that one DATA frame may carry now: FRAME_BODY_MAX, or 0: not accepted yet, or wait for STREAM_ROOM.
 * Credit and window are not used up to the last scrap: that would only make small frames. */
size_t session_stream_room(const Session *s, uint32_t id);
/* Makes a DATA frame of n bytes (1..room, asserted) that stand at frame + FRAME_HEADER_SIZE; returns its
 * whole size, to be written next. */
size_t session_stream_seal(Session *s, uint32_t id, uint8_t *frame, size_t n);
/* The reader has done with n bytes of STREAM_DATA. */
void session_stream_taken(Session *s, uint32_t id, size_t n);
/* Both halves ended and all was taken: the id is released by itself; this tells whether it still lives. */
bool session_stream_is_open(const Session *s, uint32_t id);
size_t session_n_streams(const Session *s);
/* DATA sealed by us that the peer has not acknowledged yet. */
uint64_t session_unacked_bytes(const Session *s);

const SessionCounters *session_counters(const Session *s);
