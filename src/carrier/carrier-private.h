/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The inside of a Carrier, for carrier.c (the pump) and carrier-clock.c (its patience) only.
 */

#include "base/base.h"
#include "carrier/carrier.h"
#include "carrier/lane.h"
#include "carrier/line.h"

#define BYE_TIMEOUT_USEC (1 * USEC_PER_SEC)

typedef enum CarrierPhase {
        CARRIER_GREETING, /* no session yet, or none any more */
        CARRIER_CARRYING,
        CARRIER_LEAVING, /* our BYE is out */
        CARRIER_LEFT,    /* the peer said BYE: what is queued goes out, then it ends */
        CARRIER_ENDED,
} CarrierPhase;

struct Carrier {
        Session *session;
        Line line;
        const CarrierOps *ops;
        void *userdata;
        bool is_host;
        int wake_fd;
        bool woken;
        uint64_t linger_usec;

        CarrierPhase phase;
        int result;
        uint64_t now, hello_usec, rehello_usec, idle_usec, bye_usec, ping_usec, absent_usec, look_usec;
        uint64_t heard_usec;
        unsigned n_pings;

        Lane *lanes[STREAMS_MAX];
        size_t n_lanes, n_dead, cursor;

        uint8_t *frame;     /* of DATA being written, or a batch of small ones */
        const uint8_t *out; /* what is left of the frame begun: in `frame`, or the session's */
        size_t n_out;
        struct pollfd polls[2 + 2 * STREAMS_MAX];
};

/* carrier.c */

size_t carrier_n_live(const Carrier *c);
void carrier_end(Carrier *c, int result);
/* The session is no more, and the host has nothing to wait for then; the guest waits for the next, if the
 * port is there. */
void carrier_lose(Carrier *c, bool port_is_gone, const char *text);
/* The guest gives up a host that it no longer hears. */
void carrier_forget_host(Carrier *c, const char *text);

/* carrier-clock.c */

void carrier_start_clock(Carrier *c);
void carrier_tick(Carrier *c);               /* does what is due at c->now */
uint64_t carrier_deadline(const Carrier *c); /* when the next thing will be; USEC_INFINITY */
