/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One guest: the domain that it lives in, its control connection, its state, its requests. The trust border:
 * nothing that a guest said passes beyond this file unchecked. Main thread only.
 */

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

#include "hostd/discovery.h"
#include "hostd/domain.h"
#include "proto/message.h"
#include "proto/session.h"
#include "proto/wire-error.h"

typedef struct Guest Guest;

typedef enum GuestState {
        GUEST_OFF,
        GUEST_PAUSED,
        GUEST_NO_CHANNEL,
        GUEST_BUSY,
        GUEST_WAITING,
        GUEST_CONNECTING,
        GUEST_READY,
        GUEST_UNRESPONSIVE,
        GUEST_INCOMPATIBLE,
} GuestState;
const char *guest_state_to_string(GuestState s); /* as in the contract: "no-channel" */

typedef struct GuestFacts { /* checked: valid UTF-8, bounded; empty strings until first ready of this boot */
        char *agent_version, *build, *boot_id, *instance, *hostname, *kernel;
        char **capabilities; /* NULL-terminated */
        char **os_release;   /* key, value, key, value, NULL */
} GuestFacts;

typedef struct GuestCounters {
        uint64_t n_bytes_sent, n_bytes_received; /* both ports */
        uint64_t n_sessions, n_reconnects, n_resyncs, n_frames_dropped, n_requests_refused;
        uint64_t n_silences;  /* times that a session was given up since nothing was heard any more */
        uint64_t n_held_back; /* times that it was read from more slowly */
        uint64_t last_rtt_usec;
} GuestCounters;

/* None of these may free the guest. */
typedef struct GuestOps {
        void (*state_changed)(void *userdata, Guest *g,
                              GuestState old); /* old == new: the reason, the name or a socket has changed */
        void (*facts_changed)(void *userdata, Guest *g);
        void (*notify)(void *userdata, Guest *g, const Message *m); /* checked to have a "method" string */
        /* Answer by guest_reply(), now or later; the id is dead after the session ends. */
        void (*request)(void *userdata, Guest *g, uint32_t id, const Message *m);
} GuestOps;

Guest *guest_new(const Domain *d, const GuestOps *ops, void *userdata);
void guest_set_keepalive(uint64_t usec); /* of all guests: an idle one is asked that often; 0: never */
void guest_set_max_messages(uint32_t per_second); /* of each guest: faster ones are read more slowly */
Guest *guest_free(Guest *g);                      /* all requests end with Interrupted */
void guest_update(Guest *g, const Domain *d);
void guest_hint(Guest *g, DomainHint hint);

const Domain *guest_domain(const Guest *g);
const char *guest_uuid(const Guest *g);
const char *guest_name(const Guest *g); /* valid UTF-8, always */
GuestState guest_state(const Guest *g);
const char *guest_state_reason(const Guest *g); /* a sentence, never NULL */
uint64_t guest_ready_since(const Guest *g);     /* µs since the epoch; 0 */
const GuestFacts *guest_facts(const Guest *g);
bool guest_has_capability(const Guest *g, const char *name);
const GuestCounters *guest_counters(const Guest *g);

/* Requests. Ends exactly once, by `done`: never from within the call that started it. error WIRE_OK: m is
 * the reply (borrowed); otherwise text is a sentence that names the guest (and m is what the guest said with
 * its error, or NULL). timeout_usec USEC_INFINITY: until the session ends. */
typedef void (*GuestReply)(void *userdata, WireError error, const char *text, const Message *m);
/* Takes json over. Returns an id for guest_cancel(), never 0; errors too arrive by `done`. */
uint64_t guest_request(Guest *g, json_object *json, const void *payload, size_t n_payload,
                       uint64_t timeout_usec, GuestReply done, void *userdata);
void guest_cancel(Guest *g, uint64_t request); /* `done` is not called any more; unknown ids are ignored */
typedef void (*GuestPong)(void *userdata, WireError error, const char *text, uint64_t rtt_usec);
uint64_t guest_ping(Guest *g, uint64_t timeout_usec, GuestPong done, void *userdata);
/* Both take json over. -ENOTCONN, -ENOENT (no such request), -ENOBUFS, -E2BIG, -ENOMEM. */
int guest_reply(Guest *g, uint32_t id, json_object *json, const void *payload, size_t n_payload);
int guest_notify(Guest *g, json_object *json);

/* Streams over the data port, opened for as long as it takes; see hostd/dataport.h. Callbacks on the main
 * thread. */
typedef struct GuestStream GuestStream;
typedef struct GuestStreamConfig {
        json_object *params; /* taken over */
        int in_fd, out_fd; /* host → guest bytes are read from in_fd, guest → host bytes written to out_fd;
                              taken over; -1 */
        void (*opened)(void *userdata, json_object *reply); /* borrowed */
        /* All that the guest sent is in out_fd's pipe, its half is over. If this is given, a reader of
         * out_fd that leaves ends the stream (Cancelled): the process there is to notice. NULL: what nobody
         * reads is dropped. */
        void (*ended)(void *userdata);
        /* Last call; the stream is freed behind it. */
        void (*closed)(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out);
        void *userdata;
} GuestStreamConfig;
GuestStream *guest_stream_open(Guest *g,
                               const GuestStreamConfig *config); /* errors arrive by `closed`, later */
void guest_stream_cancel(GuestStream *s, WireError error, const char *text); /* `closed` still comes */
