/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A guest's connection and its domain: what becomes of it when the domain changes, what libvirt's hints are
 * worth, and how the whole looks to a person.
 */

#include "base/fs.h"
#include "hostd/guest-private.h"

static void link_forget(Guest *g)
{
        GuestLink *l = &g->link;

        (void)link_leave_session(g, "has stopped");
        link_drop_channel(g);
        link_count(g, &g->counters);
        l->session = session_free(l->session);
        share_forget(g);
        g_free(l->refusal);
        *l = (GuestLink){ .phase = LINK_NONE, .connected_at = l->connected_at };
}

void link_done(Guest *g)
{
        link_forget(g);
}

void link_follow_domain(Guest *g, bool is_same)
{
        const Domain *d = g->domain;
        GuestLink *l = &g->link;
        bool is_wanted = d->state != DOMAIN_OFF && d->control_socket && d->data_socket;
        bool was_frozen = l->is_frozen;
        uint64_t now = fs_now_usec();

        if (d->state == DOMAIN_RUNNING && !is_same && l->phase == LINK_UP && l->n_out_done == l->n_out)
                channel_finish(TAKE(l->channel));
        if (!is_wanted || !is_same)
                link_forget(g);
        if (!is_wanted)
                return;
        l->is_frozen = d->state == DOMAIN_PAUSED;
        if (l->phase == LINK_NONE) {
                l->phase = LINK_DOWN;
                l->retry_at = MAX(now, l->connected_at + LINK_RECONNECT_USEC);
        }
        if (was_frozen && !l->is_frozen)
                link_hint(g, DOMAIN_HINT_RESUMED);
}

void link_hint(Guest *g, DomainHint hint)
{
        GuestLink *l = &g->link;
        uint64_t now = fs_now_usec();
        bool is_talking = l->phase == LINK_HELLO || l->phase == LINK_UP;

        switch (hint) {
        case DOMAIN_HINT_REBOOTED:
                l->was_ready = l->has_left = l->has_peer = false;
                l->n_flaps = 0;
                g_clear_pointer(&l->refusal, g_free);
                link_encourage(g);
                if (is_talking)
                        link_rehello(g, "was reset", now);
                break;
        case DOMAIN_HINT_RESUMED:
                if (l->is_resuming)
                        break;
                link_encourage(g);
                if (l->phase == LINK_UP) {
                        l->is_resuming = true;
                        l->asked_at = now;
                        l->probe_at = 0;
                        link_probe(g, now);
                } else if (l->phase == LINK_HELLO)
                        l->hello_at = now;
                break;
        case DOMAIN_HINT_CONTROL_OPENED:
                if (l->phase == LINK_UP)
                        link_probe(g, now);
                else if (l->phase == LINK_DOWN)
                        l->retry_at = MIN(l->retry_at, MAX(now, l->connected_at + LINK_RECONNECT_USEC));
                else if (l->phase == LINK_HELLO && !channel_has_unread(l->channel) &&
                         now >= l->hello_at + LINK_RECONNECT_USEC)
                        link_rehello(g, "", now);
                else if (l->phase == LINK_HELLO)
                        l->hello_at = now;
                link_encourage(g);
                break;
        case DOMAIN_HINT_CONTROL_CLOSED:
                if (l->phase == LINK_UP)
                        link_probe(g, now);
                break;
        }
        guest_refresh(g);
}

static const char *describe_trouble(const GuestLink *l, GuestState *ret_state)
{
        bool has_tried = l->n_deaf >= LINK_DEAF_MAX;

        if (!l->was_ready) {
                *ret_state = GUEST_WAITING;
                return l->has_left ? "vmferry-guestd in the guest has ended"
                                   : "nobody has answered yet: the guest is booting, or vmferry-guestd does "
                                     "not run in it";
        }
        *ret_state = has_tried ? GUEST_UNRESPONSIVE : GUEST_CONNECTING;
        return l->is_lost     ? "its channel was closed, connecting again"
               : !has_tried   ? "it has stopped answering, connecting again"
               : l->is_unread ? "it has stopped answering, and nothing in it reads the channel"
                              : "it has stopped answering, and connecting again did not help";
}

const char *link_describe(const Guest *g, GuestState *ret_state, char **ret_text)
{
        const GuestLink *l = &g->link;
        bool is_queued = l->phase == LINK_QUEUED && fs_now_usec() >= l->queued_at + LINK_QUEUED_USEC;

        if (is_queued || (l->phase == LINK_DOWN && l->connect_error == -EAGAIN)) {
                *ret_state = GUEST_BUSY;
                *ret_text = g_strdup_printf("%s is connected to %s, which serves one at a time",
                                            l->held_by ? l->held_by : "another process",
                                            g->domain->control_socket);
                return NULL;
        }
        if (l->phase == LINK_DOWN && l->connect_error < 0) {
                (void)describe_trouble(l, ret_state);
                *ret_text = g_strdup_printf("its socket %s cannot be connected: %s",
                                            g->domain->control_socket, strerror(-l->connect_error));
                return NULL;
        }
        if (l->phase == LINK_UP) {
                *ret_state = l->is_resuming ? GUEST_CONNECTING : GUEST_READY;
                return l->is_resuming ? "its vCPUs run again, waiting for a sign of life"
                                      : "everything works";
        }
        if (l->refusal) {
                *ret_state = GUEST_INCOMPATIBLE;
                return l->refusal;
        }
        if (l->phase == LINK_HELLO && l->has_peer) {
                *ret_state = GUEST_CONNECTING;
                return "shaking hands";
        }
        return describe_trouble(l, ret_state);
}
