/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a carrier does because time has passed: greets again, leaves an idle port, asks a silent peer, looks
 * whether an absent client has come.
 */

#include "carrier/carrier-private.h"

#define REHELLO_USEC (HELLO_TIMEOUT_USEC / 2) /* the first HELLO may have met foreign bytes */
#define SHUTDOWN_TIMEOUT_USEC (500 * USEC_PER_MSEC)
#define ABSENT_USEC (5 * USEC_PER_SEC) /* the guest sees no client for that long: the host has left */
/* "Client connected" may get lost: VIRTIO's control queue has 32 entries. */
#define ABSENT_LOOK_USEC (1 * USEC_PER_SEC)

void carrier_start_clock(Carrier *c)
{
        c->idle_usec = c->now;
        c->hello_usec = c->now + HELLO_TIMEOUT_USEC;
        c->rehello_usec = c->now + REHELLO_USEC;
        c->look_usec = c->absent_usec = USEC_INFINITY;
}

/* A peer with streams that says nothing. One ping counts once, however far the clock has jumped: this may be
 * a VM. */
static void carrier_listen(Carrier *c)
{
        uint64_t heard = session_heard_usec(c->session);

        if (heard != c->heard_usec || carrier_n_live(c) == 0) {
                c->heard_usec = heard;
                c->n_pings = 0;
                c->ping_usec = c->now + CARRIER_PING_USEC;
                return;
        }
        if (c->now < c->ping_usec)
                return;
        c->ping_usec = c->now + CARRIER_PING_USEC;
        if (c->n_pings < CARRIER_PINGS_MAX || (c->ops->silent && !c->ops->silent(c->userdata))) {
                c->n_pings++;
                (void)session_ping(c->session, c->now);
        } else if (c->is_host)
                carrier_lose(c, false, "the guest's data port has stopped answering");
        else
                carrier_forget_host(c, "the host has stopped answering");
}

static void carrier_leave(Carrier *c)
{
        if (session_bye(c->session) < 0) {
                carrier_end(c, -ENOTCONN);
                return;
        }
        c->phase = CARRIER_LEAVING;
        c->bye_usec = c->now + BYE_TIMEOUT_USEC;
}

static void carrier_phase_tick(Carrier *c)
{
        switch (c->phase) {
        case CARRIER_GREETING:
                if (c->is_host && c->now >= c->rehello_usec) {
                        c->rehello_usec = USEC_INFINITY;
                        session_rehello(c->session, c->now);
                }
                if (c->now >= (c->is_host ? c->hello_usec : c->idle_usec + c->linger_usec))
                        carrier_end(c, -ETIMEDOUT);
                break;
        case CARRIER_CARRYING:
                carrier_listen(c);
                if (c->phase == CARRIER_CARRYING && carrier_n_live(c) == 0 &&
                    c->now >= c->idle_usec + c->linger_usec)
                        carrier_leave(c);
                break;
        case CARRIER_LEAVING:
                if (c->now < c->bye_usec)
                        break;
                /* Without BYE_ACK nobody knows what has arrived; with it, hanging up loses nothing. */
                line_shutdown(&c->line, SHUTDOWN_TIMEOUT_USEC);
                carrier_end(c, -ETIMEDOUT);
                break;
        case CARRIER_LEFT:
                if ((c->n_out == 0 && !session_output_pending(c->session)) || c->now >= c->bye_usec)
                        carrier_end(c, 0);
                break;
        case CARRIER_ENDED:
                break;
        }
}

void carrier_tick(Carrier *c)
{
        if (c->now >= session_deadline(c->session))
                session_tick(c->session, c->now);
        if (!c->line.is_absent)
                c->absent_usec = c->look_usec = USEC_INFINITY;
        else if (c->absent_usec == USEC_INFINITY) {
                c->absent_usec = c->now + ABSENT_USEC;
                c->look_usec = c->now + ABSENT_LOOK_USEC;
        } else if (c->now >= c->look_usec) {
                c->line.readable = c->line.writable = true;
                c->look_usec = c->now + ABSENT_LOOK_USEC;
        }
        if (c->now >= c->absent_usec && c->phase == CARRIER_CARRYING && carrier_n_live(c) > 0) {
                c->absent_usec = c->now + ABSENT_USEC;
                carrier_forget_host(c, "the host has closed the port");
        }
        carrier_phase_tick(c);
}

uint64_t carrier_deadline(const Carrier *c)
{
        uint64_t d = MIN(session_deadline(c->session), c->look_usec);

        switch (c->phase) {
        case CARRIER_GREETING:
                return MIN(d,
                           c->is_host ? MIN(c->hello_usec, c->rehello_usec) : c->idle_usec + c->linger_usec);
        case CARRIER_CARRYING:
                return MIN(d, carrier_n_live(c) > 0 ? c->ping_usec : c->idle_usec + c->linger_usec);
        case CARRIER_LEAVING:
        case CARRIER_LEFT:
                return MIN(d, c->bye_usec);
        case CARRIER_ENDED:
                break;
        }
        return d;
}
