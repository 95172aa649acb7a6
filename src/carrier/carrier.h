/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The data port's pump: one port, one Session in its data role, many streams, each with an endpoint. A
 * poll(2) loop of its own: in hostd it has a thread per guest, in guestd a process. Round-robin between
 * streams, one frame each. It never does file I/O itself: endpoints do.
 */

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/session.h"

typedef struct Carrier Carrier;

/* One stream's end on this side. Each function is called only from the carrier's loop. */
typedef struct EndpointOps {
        /* Bytes for the peer, n is at least FRAME_BODY_MAX / 2: > 0; 0: none now; -EAGAIN: none now, but it
         * has work to go on with: call again soon; -ENODATA: no more, ever (EOF is sent); another negative
         * errno: the stream is reset with *ret_error and *ret_text (static or owned by the endpoint; NULL:
         * the errno's words). */
        ssize_t (*fill)(void *userdata, uint8_t *buf, size_t n, WireError *ret_error, const char **ret_text);
        /* Bytes of the peer: how many were used (the rest is kept and offered again); negative: as above.
         * -EPIPE: nobody reads them any more; they are dropped from then on, and the stream goes on. */
        ssize_t (*drain)(void *userdata, const uint8_t *data, size_t n, WireError *ret_error,
                         const char **ret_text);
        /* The peer's half has ended, and all of it was drained. */
        void (*end)(void *userdata);
        /* What to wait for: *ret_fill_fd for POLLIN after fill gave 0, *ret_drain_fd for POLLOUT after drain
         * took fewer; -1: no descriptor (ask again after any event of this stream). May be NULL: always
         * ready. */
        void (*wait_on)(void *userdata, int *ret_fill_fd, int *ret_drain_fd);
        /* Host: the peer accepted the stream; the object is borrowed. May be NULL. */
        void (*opened)(void *userdata, json_object *reply);
        /* Last call: WIRE_OK when both halves ended in order, else why not; `local`: this side reset it, or
         * lost the session; otherwise text is the peer's, unescaped. text is never NULL. Frees userdata. */
        void (*closed)(void *userdata, WireError error, const char *text, bool local);
} EndpointOps;

typedef struct CarrierOps {
        /* Guest: the host asks for a stream. Fill *ret_ops and *ret_userdata and return WIRE_OK (*ret_reply:
         * optional object for OPENED, taken over), or an error and a sentence (malloc'ed). */
        WireError (*open)(void *userdata, json_object *params, const EndpointOps **ret_ops,
                          void **ret_stream, json_object **ret_reply, char **ret_text);
        /* The session is up (host: streams can be opened; message: the peer's hello). */
        void (*up)(void *userdata);
        /* The session was lost, all streams were closed with WIRE_INTERRUPTED. Host: the loop ends after
         * this. */
        void (*lost)(void *userdata, const char *text);
        /* Called each turn of the loop, for commands from outside; `woken`: wake_fd is readable. Cheap
         * otherwise: a turn may carry no more than one frame. May be NULL. */
        void (*turn)(void *userdata, bool woken);
        /* Streams are open, and CARRIER_PINGS_MAX pings went unanswered; asked again after each further one.
         * True: give the session up. May be NULL: true. */
        bool (*silent)(void *userdata);
} CarrierOps;

#define CARRIER_PING_USEC                                                                                   \
        (5u * 1000 * 1000)    /* a peer with streams that says nothing is asked that often                  \
                               */
#define CARRIER_PINGS_MAX 12u /* its loop may be in a long fsync(2), so patience is due */

typedef struct CarrierConfig {
        Session *session;    /* taken over, also when carrier_new() fails */
        bool is_host;        /* the session's role */
        int port_fd;         /* nonblocking; taken over likewise */
        bool port_is_device; /* guest: a character device (read()=0 is no end, HUP is level): waited for
                                edge-triggered through an epoll descriptor */
        int wake_fd; /* POLLIN wakes the loop, then `turn` is called (which must drain it); -1; borrowed */
        uint64_t linger_usec; /* without a stream for that long, says BYE and waits for BYE_ACK; the host's
                                 is the shorter one. Guest: also the patience without a session */
        const CarrierOps *ops;
        void *userdata;
} CarrierConfig;

int carrier_new(const CarrierConfig *config, Carrier **ret); /* 0, -ENOMEM, -errno */
Carrier *carrier_free(Carrier *c);
/* Runs until the port is lost, the peers said BYE, or carrier_stop(). 0: orderly end; -ECONNRESET: lost;
 * -ECANCELED; -ETIMEDOUT: the host's HELLO was not answered, or nobody answered a BYE, or the guest waited
 * for a host in vain. */
int carrier_run(Carrier *c);
void carrier_stop(Carrier *c); /* from a callback */
/* From `turn`: somebody will need the port soon; lingering starts anew. -ENOTCONN: too late, it is about to
 * close. */
int carrier_keep(Carrier *c);
/* Host, from `turn` or `up`: opens a stream with this endpoint. 0 and *ret_id; -ENOTCONN: no session, or it
 * is about to end; -ENOBUFS, -ENOMEM. On failure ops are not called. params are borrowed. */
int carrier_open_stream(Carrier *c, json_object *params, const EndpointOps *ops, void *userdata,
                        uint32_t *ret_id);
/* Resets a stream; its `closed` is called with `local`. -ENOENT: it is gone already. */
int carrier_reset_stream(Carrier *c, uint32_t id, WireError error, const char *text);
const SessionCounters *carrier_counters(const Carrier *c);

/* An endpoint of plain descriptors: in_fd is read for the peer, out_fd is written with the peer's bytes;
 * either -1; they may be the same. Both are taken over and made nonblocking. on_closed is told the stream's
 * end once, with the bytes moved each way; either callback may be NULL. 0, -ENOMEM (the descriptors are
 * closed). */
typedef void (*EndpointFdOpened)(void *userdata, json_object *reply);
typedef void (*EndpointFdEnded)(void *userdata);
typedef void (*EndpointFdClosed)(void *userdata, WireError error, const char *text, bool local,
                                 uint64_t n_in, uint64_t n_out);
int endpoint_fd_new(int in_fd, int out_fd, EndpointFdOpened on_opened, EndpointFdClosed on_closed,
                    void *userdata, const EndpointOps **ret_ops, void **ret_stream);
/* Before the carrier has it: on_ended is told that all of the peer's half was written; and when nobody reads
 * out_fd any more, the stream is reset with Cancelled, as a writer would be told by SIGPIPE. Otherwise what
 * nobody reads is dropped, and the other half goes on. */
void endpoint_fd_watch(void *stream, EndpointFdEnded on_ended);
