/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * How long a guest is waited for. After some pauses and restores QEMU leaves the guest's half of the first
 * connection dead, so that is left early. A peer that is deaf on the next is asked again there, then on one
 * more, then at growing intervals. What QEMU holds back
 * unread says that nobody has the port open: then nothing is repeated, since all of it would be read later.
 * While the vCPUs stand, time does not count, and no connection is made or closed: QEMU would not tell the
 * guest.
 */

#include "base/fs.h"
#include "hostd/guest-private.h"

#define SILENCE_USEC (2 * USEC_PER_SEC)
#define FIRST_HELLO_USEC (500 * USEC_PER_MSEC) /* whoever reads it answers within milliseconds */

static uint64_t keepalive_usec = 30 * USEC_PER_SEC;

void guest_set_keepalive(uint64_t usec)
{
        keepalive_usec = usec;
}

/* Dense at first, since QEMU accepts soon or not at all. */
static uint64_t queued_check_at(const GuestLink *l)
{
        return l->n_checks < 10 ? l->queued_at + (USEC_PER_MSEC << l->n_checks) : l->retry_at;
}

static bool is_first_hello(const GuestLink *l)
{
        return l->n_deaf == 0 && l->n_hellos <= 1 && !l->is_resting && !l->is_unread && !l->has_peer;
}

static uint64_t hello_deadline(const GuestLink *l)
{
        return l->hello_at + (l->is_resting       ? l->backoff_usec
                              : is_first_hello(l) ? FIRST_HELLO_USEC
                                                  : HELLO_TIMEOUT_USEC);
}

static void tick_hello(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;
        bool is_first = is_first_hello(l);

        if (now < hello_deadline(l))
                return;
        if (channel_has_input(l->channel)) {
                l->hello_at = now; /* we are late ourselves: a thousand guests have come at once */
                return;
        }
        l->has_peer = false;
        if (l->is_resting && l->refusal) {
                link_rehello(g, "", now);
                return;
        }
        if (channel_has_unread(l->channel)) {
                /* Nobody has the port open; look again whether that is still so. */
                l->is_unread = true;
                l->hello_at = now;
                guest_refresh(g);
                return;
        }
        l->is_unread = false;
        if (!l->is_resting && !is_first && l->n_hellos < 2) {
                link_rehello(g, "", now);
                return;
        }
        if (l->is_resting || l->n_deaf < LINK_DEAF_MAX) {
                l->n_deaf++;
                link_reconnect(g, "", now);
                return;
        }
        l->is_resting = true;
        l->hello_at = now;
        (void)link_next_backoff(l);
        guest_refresh(g);
}

void link_probe(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;

        if (l->probe_at > 0)
                return;
        /* If there is no room for it, as much is unanswered as it could prove. */
        (void)session_ping(l->session, LINK_PROBE_COOKIE);
        l->probe_at = now;
        link_flush(g);
}

static uint64_t heard_at(const GuestLink *l)
{
        return MAX(l->up_at, session_heard_usec(l->session));
}

/* Counts from the oldest question since the last sign of life, or a steady asker would hide a dead guest. */
void link_asked(Guest *g)
{
        GuestLink *l = &g->link;

        if (l->asked_at <= heard_at(l))
                l->asked_at = fs_now_usec();
}

static bool is_answer_due(const Guest *g)
{
        return request_is_any(g) || g->link.is_resuming;
}

/* Each guest has its own interval, so that a thousand that connected at once spread by and by. */
static uint64_t keepalive_of(const Guest *g)
{
        return keepalive_usec - keepalive_usec / 256 * (g_str_hash(g->domain->uuid) % 64);
}

static uint64_t up_deadline(const Guest *g)
{
        const GuestLink *l = &g->link;
        uint64_t heard = heard_at(l);

        if (l->probe_at > 0 && heard < l->probe_at)
                return l->probe_at + SILENCE_USEC;
        if (is_answer_due(g))
                return MAX(heard, l->asked_at) + SILENCE_USEC;
        if (keepalive_usec == 0 || keepalive_usec == USEC_INFINITY)
                return USEC_INFINITY;
        return usec_add(heard, keepalive_of(g));
}

static void tick_up(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;

        if (l->probe_at > 0 && heard_at(l) >= l->probe_at)
                l->probe_at = 0;
        if (now < up_deadline(g))
                return;
        if (l->probe_at == 0) {
                link_probe(g, now);
                return;
        }
        if (channel_has_input(l->channel)) {
                l->probe_at = now; /* we are late ourselves, and have not read what it says */
                return;
        }
        g->counters.n_silences++;
        if (channel_has_unread(l->channel)) {
                l->n_deaf = LINK_DEAF_MAX; /* no deafness that reconnecting could heal */
                l->has_peer = false;
                link_rehello(g, "has stopped answering", now);
                l->is_unread = true;
                guest_refresh(g);
        } else {
                l->n_deaf = 1;
                link_reconnect(g, "has stopped answering", now);
        }
}

void link_tick(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;

        if (l->broken != 0)
                link_lost(g, now);
        if (l->is_frozen)
                return;
        if ((l->phase == LINK_HELLO || l->phase == LINK_UP) && now >= session_deadline(l->session)) {
                session_tick(l->session, now);
                (void)link_events(g, now);
                link_flush(g);
        }
        switch (l->phase) {
        case LINK_NONE:
                break;
        case LINK_DOWN:
                if (now >= l->retry_at)
                        link_connect(g, now);
                break;
        case LINK_QUEUED:
                link_check_accepted(g, now);
                break;
        case LINK_HELLO:
                tick_hello(g, now);
                break;
        case LINK_UP:
                tick_up(g, now);
                break;
        }
}

uint64_t link_deadline(const Guest *g)
{
        const GuestLink *l = &g->link;

        if (l->broken != 0)
                return 0;
        if (l->is_frozen)
                return USEC_INFINITY;
        switch (l->phase) {
        case LINK_NONE:
                break;
        case LINK_DOWN:
                return l->retry_at;
        case LINK_QUEUED:
                return queued_check_at(l);
        case LINK_HELLO:
                return MIN(hello_deadline(l), session_deadline(l->session));
        case LINK_UP:
                return MIN(up_deadline(g), session_deadline(l->session));
        }
        return USEC_INFINITY;
}
