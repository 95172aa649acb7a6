/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The control connection: connects, waits to be accepted, shakes hands, watches for silence. Only an answer is proof of
 * anything. A peer that is deaf is tried once more on the same connection, then on two new ones (QEMU needs them after
 * some pauses and restores), then at growing intervals. What QEMU holds back unread says that nobody has the port open:
 * then nothing is repeated, since all of it would be read later. A connection is never closed or made while the vCPUs
 * stand: QEMU would not tell the guest.
 */

#include <sys/random.h>

#include "base/fs.h"
#include "hostd/guest-private.h"
#include "hostd/log.h"

#define RECONNECT_USEC (100 * USEC_PER_MSEC) /* never faster than 10 a second */
#define RETRY_USEC (1 * USEC_PER_SEC)        /* after a connect that failed, or while somebody else is served */
#define BACKOFF_MIN_USEC (1 * USEC_PER_SEC)
#define BACKOFF_MAX_USEC (30 * USEC_PER_SEC)
#define QUEUED_PATIENCE_USEC (1 * USEC_PER_SEC) /* QEMU's main loop accepts within milliseconds */
#define SILENCE_USEC (2 * USEC_PER_SEC)
#define FLAP_USEC (1 * USEC_PER_SEC)
#define FLAPS_MAX 5
#define DEAF_MAX 2
#define READ_PER_TURN 65536
#define PROBE_COOKIE (1ULL << 63)

static uint64_t keepalive_usec = 30 * USEC_PER_SEC;

void guest_set_keepalive(uint64_t usec)
{
        keepalive_usec = usec;
}

static void random_bytes(void *userdata, void *buf, size_t n)
{
        /* At most 256 bytes and a seeded pool: getrandom(2) neither fails nor is cut short. */
        while (getrandom(buf, n, 0) != (ssize_t)n)
                ;
}

static json_object *host_hello(void)
{
        static json_object *hello;

        if (!hello) {
                hello = json_object_new_object();
                json_object_object_add(hello, "agent", json_object_new_string("vmferry-hostd " VMFERRY_VERSION));
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

static void link_drop_channel(Guest *g)
{
        GuestLink *l = &g->link;

        l->channel = channel_free(l->channel);
        l->out = NULL;
        l->n_out = l->n_out_done = 0;
        l->broken = 0;
        if (l->session)
                session_close(l->session);
}

static bool link_leave_session(Guest *g, const char *why)
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
static void link_reconnect(Guest *g, const char *why, uint64_t at)
{
        GuestLink *l = &g->link;

        (void)link_leave_session(g, why);
        link_drop_channel(g);
        l->phase = LINK_DOWN;
        l->retry_at = MAX(at, l->connected_at + RECONNECT_USEC);
        l->is_resting = l->is_unread = l->has_peer = false;
        g_clear_pointer(&l->refusal, g_free);
        g->counters.n_reconnects++;
        guest_refresh(g);
}

/* The other end was closed: the domain stops, or its QEMU has dropped us. */
static void link_lost(Guest *g, uint64_t now)
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

static void link_rehello(Guest *g, const char *why, uint64_t now)
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
static void link_encourage(Guest *g)
{
        g->link.n_hellos = g->link.n_deaf = 0;
        g->link.backoff_usec = 0;
        g->link.is_resting = false;
}

static uint64_t next_backoff(GuestLink *l)
{
        l->backoff_usec = l->backoff_usec == 0 ? BACKOFF_MIN_USEC : MIN(l->backoff_usec * 2, BACKOFF_MAX_USEC);
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
        bool is_other_boot = *g->facts.boot_id && !str_eq(g->facts.boot_id, facts.boot_id);
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

/* The session ended itself and has a new HELLO ready. A peer that makes it do so again and again has to wait. */
static void on_down(Guest *g, const char *text, uint64_t now)
{
        GuestLink *l = &g->link;

        l->n_flaps = now < l->up_at + FLAP_USEC ? l->n_flaps + 1 : 0;
        guest_log(g, LOG_INFO, "The session has ended: %s", text);
        (void)link_leave_session(g, "has ended the session");
        if (l->n_flaps >= FLAPS_MAX) {
                l->n_flaps = 0;
                link_reconnect(g, "", now + RETRY_USEC);
                return;
        }
        link_await(g, now, 1);
        l->has_peer = true;
        guest_refresh(g);
}

static void on_bye(Guest *g, uint64_t now)
{
        link_flush(g); /* BYE_ACK */
        g->link.was_ready = g->link.has_peer = false;
        g->link.has_left = true;
        link_rehello(g, "has shut its daemon down", now);
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
                if (!(e->cookie & PROBE_COOKIE))
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
static bool link_events(Guest *g, uint64_t now)
{
        Channel *c = g->link.channel;
        SessionEvent e;

        while (g->link.channel == c && session_next_event(g->link.session, &e) > 0)
                link_event(g, &e, now);
        return g->link.channel == c;
}

static void tick_queued(Guest *g, uint64_t now);

/* Something comes from a connection that was not accepted when last looked at: its first bytes, or its end. */
static bool is_served(Guest *g)
{
        GuestLink *l = &g->link;
        uint64_t now = fs_now_usec();
        uint8_t byte;

        tick_queued(g, now);
        if (l->phase == LINK_QUEUED && channel_read(l->channel, &byte, 1) < 0)
                link_reconnect(g, "", now + RETRY_USEC);
        return l->phase == LINK_HELLO;
}

static void on_readable(void *userdata)
{
        Guest *g = userdata;
        GuestLink *l = &g->link;
        size_t total = 0;
        ssize_t n = 1;

        if (l->phase == LINK_QUEUED && !is_served(g)) {
                guest_arm(g);
                return;
        }
        while (n > 0 && total < READ_PER_TURN) {
                uint64_t now = fs_now_usec();
                uint8_t *buf;
                size_t room;

                session_input_space(l->session, &buf, &room);
                n = channel_read(l->channel, buf, MIN(room, (size_t)READ_PER_TURN - total));
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
        }
        link_flush(g);
        guest_arm(g);
}

static void on_writable(void *userdata)
{
        Guest *g = userdata;

        link_flush(g);
        guest_arm(g);
}

/* --- time --- */

static void link_connect(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;
        SessionConfig config = { .role = SESSION_HOST, .port = SESSION_CONTROL, .hello = host_hello(),
                                 .random = random_bytes };
        int r = 0;

        l->connected_at = now;
        if (!l->session)
                r = session_new(&config, &l->session);
        if (r >= 0)
                r = channel_open(g->domain->control_socket, on_readable, on_writable, g, &l->channel);
        l->connect_error = r;
        if (r < 0) {
                l->retry_at = now + (r == -EAGAIN ? RETRY_USEC : MIN(next_backoff(l), 2 * RETRY_USEC));
                guest_refresh(g);
                return;
        }
        l->phase = LINK_QUEUED;
        l->queued_at = now;
        l->n_checks = 0;
        link_tick(g, now);
}

/* Dense at first, since QEMU accepts soon or not at all. */
static uint64_t queued_check_at(const GuestLink *l)
{
        return l->n_checks < 10 ? l->queued_at + (USEC_PER_MSEC << l->n_checks) : l->retry_at;
}

static void tick_queued(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;
        int r = channel_is_accepted(l->channel);

        if (r == 0) {
                l->n_checks++;
                l->retry_at = now + RETRY_USEC;
                guest_refresh(g);
                return;
        }
        /* Where it cannot be told, the handshake shows it. */
        session_open(l->session, now);
        link_await(g, now, 1);
        l->has_peer = false;
        link_flush(g);
        guest_refresh(g);
}

static void tick_hello(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;

        if (now < l->hello_at + (l->is_resting ? l->backoff_usec : HELLO_TIMEOUT_USEC))
                return;
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
        if (!l->is_resting && l->n_hellos < 2) {
                link_rehello(g, "", now);
                return;
        }
        if (l->is_resting || l->n_deaf < DEAF_MAX) {
                l->n_deaf++;
                link_reconnect(g, "", now);
                return;
        }
        l->is_resting = true;
        l->hello_at = now;
        (void)next_backoff(l);
        guest_refresh(g);
}

static void link_probe(Guest *g, uint64_t now)
{
        GuestLink *l = &g->link;

        if (l->probe_at > 0)
                return;
        /* If there is no room for it, as much is unanswered as it could prove. */
        (void)session_ping(l->session, PROBE_COOKIE);
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
        return keepalive_usec - keepalive_usec / 4 * (g_str_hash(g->domain->uuid) % 64) / 64;
}

static uint64_t up_deadline(const Guest *g)
{
        const GuestLink *l = &g->link;
        uint64_t heard = heard_at(l);

        if (l->probe_at > 0 && heard < l->probe_at)
                return l->probe_at + SILENCE_USEC;
        if (is_answer_due(g))
                return MAX(heard, l->asked_at) + SILENCE_USEC;
        return keepalive_usec > 0 ? heard + keepalive_of(g) : USEC_INFINITY;
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
        if (channel_has_unread(l->channel)) {
                l->n_deaf = DEAF_MAX; /* no deafness that reconnecting could heal */
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
                tick_queued(g, now);
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
                return MIN(l->hello_at + (l->is_resting ? l->backoff_usec : HELLO_TIMEOUT_USEC),
                           session_deadline(l->session));
        case LINK_UP:
                return MIN(up_deadline(g), session_deadline(l->session));
        }
        return USEC_INFINITY;
}

/* --- news of the domain --- */

static void link_forget(Guest *g)
{
        GuestLink *l = &g->link;

        (void)link_leave_session(g, "has stopped");
        link_drop_channel(g);
        link_count(g, &g->counters);
        l->session = session_free(l->session);
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
                l->retry_at = MAX(now, l->connected_at + RECONNECT_USEC);
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
                        l->retry_at = MIN(l->retry_at, MAX(now, l->connected_at + RECONNECT_USEC));
                else if (l->phase == LINK_HELLO && !channel_has_unread(l->channel) &&
                         now >= l->hello_at + RECONNECT_USEC)
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

/* --- what it looks like --- */

static const char *describe_trouble(const GuestLink *l, GuestState *ret_state)
{
        bool has_tried = l->n_deaf >= DEAF_MAX;

        if (!l->was_ready) {
                *ret_state = GUEST_WAITING;
                return l->has_left ? "vmferry-guestd in the guest has ended"
                                   : "nobody has answered yet: the guest is booting, or vmferry-guestd does not run in it";
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
        bool is_queued = l->phase == LINK_QUEUED && fs_now_usec() >= l->queued_at + QUEUED_PATIENCE_USEC;

        if (is_queued || (l->phase == LINK_DOWN && l->connect_error == -EAGAIN)) {
                *ret_state = GUEST_BUSY;
                *ret_text = g_strdup_printf("another process is connected to %s, which serves one at a time",
                                            g->domain->control_socket);
                return NULL;
        }
        if (l->phase == LINK_DOWN && l->connect_error < 0) {
                (void)describe_trouble(l, ret_state);
                *ret_text = g_strdup_printf("its socket %s cannot be connected: %s", g->domain->control_socket,
                                            strerror(-l->connect_error));
                return NULL;
        }
        if (l->phase == LINK_UP) {
                *ret_state = l->is_resuming ? GUEST_CONNECTING : GUEST_READY;
                return l->is_resuming ? "its vCPUs run again, waiting for a sign of life" : "everything works";
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
