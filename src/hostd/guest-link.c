/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The control connection of a guest: connected, accepted, in conversation, lost. Nothing is said before QEMU
 * has accepted us, reconnecting is never faster than ten times a second, and a turn of the loop ends after
 * so many bytes of one guest, and so much time. How long anything may take is in guest-patience.c.
 */

#include <stdio.h>
#include <sys/random.h>

#include "base/fs.h"
#include "hostd/guest-private.h"
#include "hostd/log.h"

#define BACKOFF_MIN_USEC (1 * USEC_PER_SEC)
#define BACKOFF_MAX_USEC (30 * USEC_PER_SEC)
#define FLAP_USEC (1 * USEC_PER_SEC)
#define FLAPS_MAX 5u
#define READ_PER_TURN 65536
#define READ_AT_ONCE 4096             /* of small frames that is most of a turn already */
#define TURN_USEC (USEC_PER_MSEC / 2) /* then others are served */

static void random_bytes(void *userdata, void *buf, size_t n)
{
        /* At most 256 bytes and a seeded pool: getrandom(2) neither fails nor is cut short. */
        while (getrandom(buf, n, 0) != (ssize_t)n)
                ;
}

/* The instance tells a guest that this daemon was restarted: what ran for the one before has no reader. */
static json_object *host_hello(void)
{
        static json_object *hello;

        if (!hello) {
                char instance[2 * 16 + 1];
                uint8_t random[16];

                random_bytes(NULL, random, sizeof(random));
                for (size_t i = 0; i < sizeof(random); i++)
                        (void)snprintf(instance + 2 * i, 3, "%02x", random[i]);
                hello = json_object_new_object();
                json_object_object_add(hello, "agent",
                                       json_object_new_string("vmferry-hostd " VMFERRY_VERSION));
                json_object_object_add(hello, "instance", json_object_new_string(instance));
                json_object_object_add(hello, "capabilities", json_object_new_array());
        }
        return hello;
}

void link_count(const Guest *g, GuestCounters *c)
{
        const SessionCounters *s = g->link.session ? session_counters(g->link.session) : NULL;

        if (!s)
                return;
        c->n_bytes_sent += s->n_bytes_sent;
        c->n_bytes_received += s->n_bytes_received;
        c->n_sessions += s->n_sessions;
        c->n_resyncs += s->frames.n_resync;
        c->n_frames_dropped += s->n_frames_dropped;
}

void link_drop_channel(Guest *g)
{
        GuestLink *l = &g->link;

        l->channel = channel_free(l->channel);
        l->holder = holder_free(l->holder);
        g_clear_pointer(&l->held_by, g_free);
        l->out = NULL;
        l->n_out = l->n_out_done = 0;
        l->broken = 0;
        if (l->session)
                session_close(l->session);
}

bool link_leave_session(Guest *g, const char *why)
{
        bool was_up = g->link.phase == LINK_UP;

        g->link.probe_at = g->link.asked_at = 0;
        g->link.is_resuming = false;
        if (was_up) {
                g->link.phase = LINK_HELLO;
                guest_refresh(g); /* who is told of an end must not see the guest ready */
                guest_session_ended(g, why);
        }
        return was_up;
}

/* Connects again at `at`, but not faster than ten times a second. */
void link_reconnect(Guest *g, const char *why, uint64_t at)
{
        GuestLink *l = &g->link;

        (void)link_leave_session(g, why);
        link_drop_channel(g);
        l->phase = LINK_DOWN;
        l->retry_at = MAX(at, l->connected_at + LINK_RECONNECT_USEC);
        l->is_resting = l->is_unread = l->has_peer = false;
        g_clear_pointer(&l->refusal, g_free);
        g->counters.n_reconnects++;
        guest_refresh(g);
}

/* The other end was closed: the domain stops, or its QEMU has dropped us. */
void link_lost(Guest *g, uint64_t now)
{
        g->link.is_lost = true;
        link_reconnect(g, "has lost its channel", now);
}

/* The start of a conversation on the present connection; session_rehello() or session_open() was called. */
static void link_await(Guest *g, uint64_t now, unsigned n_hellos)
{
        GuestLink *l = &g->link;

        l->phase = LINK_HELLO;
        l->hello_at = now;
        l->n_hellos = n_hellos;
        l->is_resting = l->is_unread = false;
}

void link_rehello(Guest *g, const char *why, uint64_t now)
{
        GuestLink *l = &g->link;
        unsigned n = l->phase == LINK_HELLO ? l->n_hellos + 1 : 1;

        (void)link_leave_session(g, why);
        session_rehello(l->session, now);
        link_await(g, now, n);
        link_flush(g);
        guest_refresh(g);
}

/* Something happened that makes an answer likely: patience starts anew. */
void link_encourage(Guest *g)
{
        g->link.n_hellos = g->link.n_deaf = 0;
        g->link.backoff_usec = 0;
        g->link.is_resting = false;
}

uint64_t link_next_backoff(GuestLink *l)
{
        l->backoff_usec =
                l->backoff_usec == 0 ? BACKOFF_MIN_USEC : MIN(l->backoff_usec * 2, BACKOFF_MAX_USEC);
        return l->backoff_usec;
}

/* --- reading and writing --- */

void link_flush(Guest *g)
{
        GuestLink *l = &g->link;

        while (l->channel && l->broken == 0 && (l->phase == LINK_HELLO || l->phase == LINK_UP)) {
                ssize_t n;

                if (l->n_out_done == l->n_out) {
                        l->n_out_done = l->n_out = 0;
                        if (session_output_next(l->session, &l->out, &l->n_out) == 0)
                                return;
                }
                n = channel_write(l->channel, l->out + l->n_out_done, l->n_out - l->n_out_done);
                if (n < 0) {
                        l->broken = (int)n; /* not here: this may be a caller's own call */
                        return;
                }
                l->n_out_done += (size_t)n;
                if (l->n_out_done < l->n_out)
                        return;
        }
}

static void on_up(Guest *g, const Message *hello, uint64_t now)
{
        GuestLink *l = &g->link;
        GuestFacts facts = facts_parse(hello->json);
        bool is_other_boot = *g->facts.boot_id && *facts.boot_id && !str_eq(g->facts.boot_id, facts.boot_id);
        bool has_changed = !facts_equal(&g->facts, &facts);

        if (is_other_boot)
                guest_log(g, LOG_INFO, "The guest has booted (boot id %s)", facts.boot_id);
        facts_done(&g->facts);
        g->facts = facts;
        l->phase = LINK_UP;
        l->up_at = now;
        l->was_ready = true;
        l->has_left = l->is_resuming = l->has_peer = l->is_lost = false;
        l->probe_at = l->asked_at = 0;
        g_clear_pointer(&l->refusal, g_free);
        link_encourage(g);
        if (has_changed)
                g->ops->facts_changed(g->userdata, g);
        guest_refresh(g);
}

/* A peer that ends its sessions again and again, within a second each, has to wait for the next. No longer
 * than a second: it may come to its senses, and is ready within two then. True: it was sent away. */
static bool link_calm(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;

        l->n_flaps = now < l->up_at + FLAP_USEC ? l->n_flaps + 1 : 0;
        if (l->n_flaps < FLAPS_MAX)
                return false;
        l->n_flaps = 0;
        link_reconnect(g, "", now + LINK_RETRY_USEC);
        return true;
}

/* The session ended itself and has a new HELLO ready. */
static void on_down(Guest *g, const char *text, uint64_t now)
{
        GuestLink *l = &g->link;

        guest_log(g, LOG_INFO, "The session has ended: %s", text);
        (void)link_leave_session(g, "has ended the session");
        if (link_calm(g, now))
                return;
        link_await(g, now, 1);
        l->has_peer = true;
        guest_refresh(g);
}

static void on_bye(Guest *g, uint64_t now)
{
        link_flush(g); /* BYE_ACK */
        g->link.was_ready = g->link.has_peer = false;
        g->link.has_left = true;
        (void)link_leave_session(g, "has shut its daemon down");
        if (!link_calm(g, now))
                link_rehello(g, "", now);
}

static void on_incompatible(Guest *g, const char *text, uint64_t now)
{
        GuestLink *l = &g->link;

        g_free(l->refusal);
        l->refusal = g_strdup(text);
        l->is_resting = true;
        l->hello_at = now;
        l->backoff_usec = BACKOFF_MAX_USEC;
        guest_refresh(g);
}

static void link_event(Guest *g, const SessionEvent *e, uint64_t now)
{
        GuestLink *l = &g->link;

        if (e->type != SESSION_EVENT_REPLY && e->type != SESSION_EVENT_PONG)
                share_asked(g);
        switch (e->type) {
        case SESSION_EVENT_UP:
                on_up(g, e->message, now);
                break;
        case SESSION_EVENT_DOWN:
                on_down(g, e->text, now);
                break;
        case SESSION_EVENT_INCOMPATIBLE:
                on_incompatible(g, e->text, now);
                break;
        case SESSION_EVENT_HEARD:
                /* After HELLO_REQ a new HELLO is out; after an old answer the new one is on its way. */
                link_encourage(g);
                link_await(g, now, 1);
                l->has_peer = true;
                guest_refresh(g);
                break;
        case SESSION_EVENT_PONG:
                if (l->is_resuming) {
                        l->is_resuming = false;
                        guest_refresh(g);
                }
                if (!(e->cookie & LINK_PROBE_COOKIE))
                        request_on_pong(g, e->cookie, now);
                break;
        case SESSION_EVENT_BYE:
                on_bye(g, now);
                break;
        case SESSION_EVENT_REQUEST:
                request_on_request(g, e->id, e->message);
                break;
        case SESSION_EVENT_REPLY:
                request_on_reply(g, e->id, e->message);
                break;
        case SESSION_EVENT_NOTIFY:
                request_on_notify(g, e->message);
                break;
        case SESSION_EVENT_BYE_ACK:
        case SESSION_EVENT_STREAM_OPEN:
        case SESSION_EVENT_STREAM_OPENED:
        case SESSION_EVENT_STREAM_DATA:
        case SESSION_EVENT_STREAM_EOF:
        case SESSION_EVENT_STREAM_RESET:
        case SESSION_EVENT_STREAM_ROOM:
                break; /* not on a control port, or not asked for */
        }
}

/* All whole frames there are. False: the connection was given up on the way. */
bool link_events(Guest *g, uint64_t now)
{
        Channel *c = g->link.channel;
        SessionEvent e;

        while (g->link.channel == c && session_next_event(g->link.session, &e) > 0)
                link_event(g, &e, now);
        return g->link.channel == c;
}

static void on_holder(void *userdata, pid_t pid, const char *name)
{
        Guest *g = userdata;

        if (pid <= 0)
                return;
        g_free(g->link.held_by);
        g->link.held_by = g_strdup_printf("process %d (%s)", (int)pid, name);
        guest_refresh(g);
}

void link_check_accepted(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;
        int r = channel_is_accepted(l->channel);

        if (r == 0) {
                l->n_checks++;
                if (now >= l->queued_at + LINK_QUEUED_USEC && !l->holder)
                        l->holder = holder_new(g->domain->control_socket, on_holder, g);
                l->retry_at = now + LINK_RETRY_USEC;
                guest_refresh(g);
                return;
        }
        /* Where it cannot be told, the handshake shows it. */
        l->holder = holder_free(l->holder);
        g_clear_pointer(&l->held_by, g_free);
        session_open(l->session, now);
        link_await(g, now, 1);
        l->has_peer = false;
        link_flush(g);
        guest_refresh(g);
}

/* Something comes from a connection that was not accepted when last looked at: its first bytes, or its end.
 */
static bool is_served(Guest *g)
{
        GuestLink *l = &g->link;
        uint64_t now = fs_now_usec();
        uint8_t byte;

        link_check_accepted(g, now);
        if (l->phase == LINK_QUEUED && channel_read(l->channel, &byte, 1) < 0)
                link_reconnect(g, "", now + LINK_RETRY_USEC);
        return l->phase == LINK_HELLO;
}

static void on_readable(void *userdata)
{
        Guest *g = userdata;
        GuestLink *l = &g->link;
        uint64_t now = fs_now_usec(), start = now;
        size_t total = 0;
        ssize_t n = 1;

        if (l->phase == LINK_QUEUED && !is_served(g)) {
                guest_arm(g);
                return;
        }
        for (; n > 0 && total < READ_PER_TURN && now < start + TURN_USEC; now = fs_now_usec()) {
                uint8_t *buf;
                size_t room, wanted;

                session_input_space(l->session, &buf, &room);
                wanted = MIN(room, (size_t)READ_AT_ONCE);
                n = channel_read(l->channel, buf, wanted);
                if (n < 0) {
                        link_lost(g, now);
                        break;
                }
                if (n == 0)
                        break;
                total += (size_t)n;
                session_input_commit(l->session, (size_t)n, now);
                if (!link_events(g, now))
                        break;
                if ((size_t)n < wanted)
                        break; /* the socket is empty, or wakes us again */
        }
        share_charge(g, total, now);
        link_flush(g);
        guest_arm(g);
}

static void on_writable(void *userdata)
{
        Guest *g = userdata;

        link_flush(g);
        guest_arm(g);
}

void link_connect(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;
        SessionConfig config = {
                .role = SESSION_HOST, .port = SESSION_CONTROL, .hello = host_hello(), .random = random_bytes
        };
        int r = 0;

        l->connected_at = now;
        if (!l->session)
                r = session_new(&config, &l->session);
        if (r >= 0)
                r = channel_open(g->domain->control_socket, on_readable, on_writable, g, &l->channel);
        l->connect_error = r;
        if (r < 0) {
                l->retry_at = now + (r == -EAGAIN ? LINK_RETRY_USEC
                                                  : MIN(link_next_backoff(l), 2 * LINK_RETRY_USEC));
                guest_refresh(g);
                return;
        }
        l->phase = LINK_QUEUED;
        l->queued_at = now;
        l->n_checks = 0; /* QEMU cannot have accepted it already: the first look is a millisecond away */
        guest_refresh(g);
}
