/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The inside of a Guest, for guest.c (what others see, and the state), guest-link.c (the control
 * connection), guest-patience.c (its time), guest-domain.c (its domain), guest-request.c (what is asked and
 * answered), guest-share.c (how much of the loop it gets) and guest-facts.c (what it says about itself).
 */

#include <glib.h>

#include "hostd/channel.h"
#include "hostd/dataport.h"
#include "hostd/guest.h"
#include "hostd/holder.h"
#include "hostd/loop.h"

#define LINK_RECONNECT_USEC (100 * USEC_PER_MSEC) /* never faster than 10 a second */
#define LINK_RETRY_USEC                                                                                     \
        (1 * USEC_PER_SEC) /* after a connect that failed, or while somebody else is served */
#define LINK_QUEUED_USEC (1 * USEC_PER_SEC) /* QEMU's main loop accepts within milliseconds */
#define LINK_DEAF_MAX 2u                    /* new connections before a deaf peer is called unresponsive */
#define LINK_PROBE_COOKIE (1ULL << 63)      /* of our own pings; a request's id is never so large */

typedef enum LinkPhase {
        LINK_NONE,   /* no connection is wanted */
        LINK_DOWN,   /* to be connected at retry_at */
        LINK_QUEUED, /* connected, but QEMU has not accepted it */
        LINK_HELLO,  /* HELLO is out */
        LINK_UP,     /* in session */
} LinkPhase;

typedef struct GuestLink {
        LinkPhase phase;
        Channel *channel;
        Session *session;
        const uint8_t *out; /* the frame begun: session's, until its next */
        size_t n_out, n_out_done;
        int broken; /* -errno of a write; handled by the next tick */

        uint64_t retry_at, connected_at, queued_at;
        int connect_error; /* of the last connect, negative; 0 */
        unsigned n_checks; /* QUEUED: looks at whether it was accepted */
        Holder *holder;    /* QUEUED: being looked for, or found */
        char *held_by;
        uint64_t hello_at; /* patience counts from here */
        unsigned n_hellos; /* on this connection, without an answer */
        unsigned n_deaf;   /* connections in a row on which the peer was deaf */
        uint64_t backoff_usec;
        bool is_resting;  /* HELLO: patience is over; again at hello_at + backoff_usec */
        bool is_unread;   /* HELLO: QEMU holds it back, nobody has the port open */
        bool has_peer;    /* HELLO: something valid was heard */
        bool was_ready;   /* in this boot */
        bool has_left;    /* guestd has said BYE */
        bool is_lost;     /* the connection was closed by the other side, and no session has been since */
        bool is_resuming; /* UP: no answer yet since the vCPUs run again */
        bool is_frozen;   /* the vCPUs stand: time does not count */
        uint64_t up_at, asked_at, probe_at; /* UP: asked_at: something that wants an answer was sent last */
        unsigned n_flaps;                   /* sessions in a row that broke within a second */
        char *refusal;                      /* why the versions do not meet */
} GuestLink;

typedef struct GuestShare {
        uint64_t paid_until, paused_until;
        uint64_t n_frames, n_sessions; /* charged so far */
        uint64_t n_units, n_free;      /* since the last charge */
        uint64_t logged_at;
} GuestShare;

struct Guest {
        Domain *domain;
        char *name, *reason;
        const GuestOps *ops;
        void *userdata;
        GuestState state;
        GuestState logged_state; /* what the journal was told last */
        uint64_t ready_since, state_at, state_logged_at;
        GuestFacts facts;
        GuestCounters counters, shown; /* of sessions that are over, of all */
        bool is_ending;                /* nobody is told of states any more */
        uint64_t logged_at;
        LoopTimer *timer;
        GuestLink link;
        GuestShare share;
        Dataport *dataport;

        GHashTable *requests; /* id → Request* */
        GHashTable *by_wire;  /* id of the session → Request* */
        GQueue *failed;       /* ids whose `done` is due */
        uint64_t next_request;
};

/* guest.c */
void guest_refresh(Guest *g); /* works out the state and tells it, if it changed */
void guest_arm(Guest *g);     /* sets the timer for whatever comes next */
void guest_session_ended(Guest *g,
                         const char *why); /* requests and streams end with Interrupted; why: "… has …" */
void guest_log(Guest *g, int level, const char *format, ...)
        _printf_(3, 4); /* at most one line in five seconds */

/* guest-link.c */
void link_connect(Guest *g, uint64_t now);
void link_check_accepted(Guest *g, uint64_t now); /* QUEUED: and begins the conversation */
bool link_events(Guest *g, uint64_t now);         /* false: the connection was given up on the way */
void link_flush(Guest *g); /* writes what can be written; errors wait for the next tick */
void link_rehello(Guest *g, const char *why, uint64_t now);
void link_reconnect(Guest *g, const char *why, uint64_t at);
void link_lost(Guest *g, uint64_t now);             /* the other end was closed */
void link_encourage(Guest *g);                      /* an answer is likely: patience starts anew */
bool link_leave_session(Guest *g, const char *why); /* whether there was one */
void link_drop_channel(Guest *g);
uint64_t link_next_backoff(GuestLink *l);
void link_count(const Guest *g, GuestCounters *c); /* adds the present session's */

/* guest-patience.c */
void link_tick(Guest *g, uint64_t now);
uint64_t link_deadline(const Guest *g);
void link_probe(Guest *g, uint64_t now); /* UP: asks for a sign of life */
void link_asked(Guest *g);               /* something that wants an answer was just sent */

/* guest-domain.c */
void link_done(Guest *g);
void link_follow_domain(Guest *g, bool is_same); /* is_same: the socket is the one of before */
void link_hint(Guest *g, DomainHint hint);
const char *link_describe(const Guest *g, GuestState *ret_state,
                          char **ret_text); /* text or *ret_text is the reason */

/* guest-request.c */
void request_init(Guest *g);
void request_done(Guest *g);
void request_tick(Guest *g, uint64_t now);
uint64_t request_deadline(const Guest *g);
void request_fail_all(Guest *g, const char *why);
void request_on_reply(Guest *g, uint32_t wire_id, const Message *m);
void request_on_pong(Guest *g, uint64_t cookie, uint64_t now);
void request_on_request(Guest *g, uint32_t wire_id, const Message *m);
void request_on_notify(Guest *g, const Message *m);
static inline bool request_is_any(const Guest *g)
{
        return g_hash_table_size(g->requests) > 0;
}

/* guest-share.c */
void share_asked(Guest *g);                                /* the guest began something that is work */
void share_answered(Guest *g, size_t n_payload);           /* what came was waited for */
void share_charge(Guest *g, size_t n_bytes, uint64_t now); /* behind each turn of reading */
void share_forget(Guest *g); /* the session was freed, and its counters with it */
void share_tick(Guest *g, uint64_t now);
uint64_t share_deadline(const Guest *g);

/* guest-facts.c */
void facts_init(GuestFacts *f);
void facts_done(GuestFacts *f);
GuestFacts facts_parse(json_object *untrusted_hello);
bool facts_equal(const GuestFacts *a, const GuestFacts *b);
