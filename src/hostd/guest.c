/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A guest as the rest of hostd sees it: the domain's news go in, states and facts come out. The state is
 * worked out from the domain and the link each time something happened, never kept beside them; one timer
 * serves all that waits.
 */

#include <stdarg.h>

#include "base/escape.h"
#include "base/fs.h"
#include "hostd/guest-private.h"
#include "hostd/log.h"
#include "proto/name.h"

#define LOG_PAUSE_USEC (5 * USEC_PER_SEC)
#define SETTLED_USEC (1 * USEC_PER_SEC)
#define NAME_SHOWN_MAX 255

const char *guest_state_to_string(GuestState s)
{
        switch (s) {
        case GUEST_OFF:
                return "off";
        case GUEST_PAUSED:
                return "paused";
        case GUEST_NO_CHANNEL:
                return "no-channel";
        case GUEST_BUSY:
                return "busy";
        case GUEST_WAITING:
                return "waiting";
        case GUEST_CONNECTING:
                return "connecting";
        case GUEST_READY:
                return "ready";
        case GUEST_UNRESPONSIVE:
                return "unresponsive";
        case GUEST_INCOMPATIBLE:
                return "incompatible";
        }
        return "off";
}

void guest_log(Guest *g, int level, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        uint64_t now = fs_now_usec();
        va_list ap;

        if (g->logged_at > 0 && now < g->logged_at + LOG_PAUSE_USEC)
                return;
        g->logged_at = now;
        va_start(ap, format);
        text = g_strdup_vprintf(format, ap);
        va_end(ap);
        log_guest(level, guest_uuid(g), g->name, 0, "%s: %s", g->name, text);
}

/* NULL: *ret_text has the reason. */
static const char *describe(const Guest *g, GuestState *ret_state, char **ret_text)
{
        const Domain *d = g->domain;

        switch (d->state) {
        case DOMAIN_OFF:
                *ret_state = GUEST_OFF;
                return "the domain is not running";
        case DOMAIN_PAUSED:
                *ret_state = GUEST_PAUSED;
                return "its vCPUs are stopped";
        case DOMAIN_RUNNING:
                break;
        }
        if (!d->control_socket || !d->data_socket) {
                *ret_state = GUEST_NO_CHANNEL;
                return d->channel_reason ? d->channel_reason : "it has no vmferry channels";
        }
        return link_describe(g, ret_state, ret_text);
}

void guest_refresh(Guest *g)
{
        g_autofree char *text = NULL;
        GuestState state, old = g->state;
        const char *reason;

        if (g->is_ending)
                return;
        reason = describe(g, &state, &text);
        if (!reason)
                reason = text;
        if (state == old && str_eq(reason, g->reason))
                return;
        g_free(g->reason);
        g->reason = g_strdup(reason);
        g->state = state;
        if (state != old) {
                g->ready_since = state == GUEST_READY ? fs_realtime_usec() : 0;
                g->state_at = fs_now_usec();
        }
        g->ops->state_changed(g->userdata, g, old);
}

/* States that only pass by are not worth a line. */
static uint64_t news_deadline(const Guest *g)
{
        return g->state == g->logged_state
                       ? USEC_INFINITY
                       : MAX(g->state_at + SETTLED_USEC, g->state_logged_at + LOG_PAUSE_USEC);
}

static void tell_journal(Guest *g, uint64_t now)
{
        bool is_wrong =
                g->state == GUEST_UNRESPONSIVE || g->state == GUEST_INCOMPATIBLE || g->state == GUEST_BUSY;

        if (now < news_deadline(g))
                return;
        g->logged_state = g->state;
        g->state_logged_at = now;
        log_guest(is_wrong ? LOG_WARNING : LOG_INFO, guest_uuid(g), g->name, 0, "%s: The guest is %s: %s",
                  g->name, guest_state_to_string(g->state), g->reason);
}

void guest_session_ended(Guest *g, const char *why)
{
        g_autofree char *text = g_strdup_printf("Guest %s %s", g->name, why);

        request_fail_all(g, why);
        dataport_reset(g->dataport, text);
}

void guest_arm(Guest *g)
{
        uint64_t now = fs_now_usec();
        uint64_t at =
                MIN(MIN(link_deadline(g), request_deadline(g)), MIN(share_deadline(g), news_deadline(g)));
        uint64_t away = at > now ? at - now : 0;

        /* An eighth later, a second at most: near ones are kept, far ones share a wake-up. */
        loop_timer_set(g->timer, at, MIN(away / 8, USEC_PER_SEC));
}

static void on_timer(void *userdata)
{
        Guest *g = userdata;
        uint64_t now = fs_now_usec();

        share_tick(g, now);
        link_tick(g, now);
        request_tick(g, now);
        tell_journal(g, now);
        guest_arm(g);
}

static char *name_take(const char *untrusted)
{
        _cleanup_free_ char *escaped = NULL;

        if (name_is_text(untrusted, NAME_SHOWN_MAX) && !strpbrk(untrusted, "\n\t"))
                return g_strdup(untrusted);
        escaped = escape_text(untrusted, strlen(untrusted), NAME_SHOWN_MAX);
        return g_strdup(escaped ? escaped : "");
}

Guest *guest_new(const Domain *d, const GuestOps *ops, void *userdata)
{
        Guest *g = g_new0(Guest, 1);
        g_autofree char *text = NULL;
        const char *reason;

        *g = (Guest){
                .domain = domain_copy(d),
                .name = name_take(d->name),
                .ops = ops,
                .userdata = userdata,
                .is_ending = true, /* its first state is not a change */
        };
        g->timer = loop_timer_new(loop_default(), on_timer, g);
        if (!g->timer)
                g_error("no timer: out of memory or descriptors");
        facts_init(&g->facts);
        request_init(g);
        g->dataport = dataport_new(g);
        link_follow_domain(g, true);
        g->is_ending = false;
        reason = describe(g, &g->state, &text);
        g->reason = g_strdup(reason ? reason : text);
        g->logged_state = g->state;
        guest_arm(g);
        return g;
}

Guest *guest_free(Guest *g)
{
        if (!g)
                return NULL;
        g->is_ending = true;
        g->state = GUEST_OFF;
        g_free(g->reason);
        g->reason = g_strdup("its domain is gone");
        link_done(g);
        g->dataport = dataport_free(g->dataport);
        request_done(g);
        facts_done(&g->facts);
        loop_timer_free(g->timer);
        domain_free(g->domain);
        g_free(g->name);
        g_free(g->reason);
        g_free(g);
        return NULL;
}

static void forget_facts(Guest *g)
{
        GuestFacts none;

        facts_init(&none);
        if (facts_equal(&g->facts, &none)) {
                facts_done(&none);
                return;
        }
        facts_done(&g->facts);
        g->facts = none;
        g->ops->facts_changed(g->userdata, g);
}

/* It was off, and nobody has looked meanwhile: another QEMU runs now. */
static void pass_through_off(Guest *g)
{
        _cleanup_(domain_freep) Domain *off = domain_copy(g->domain);

        off->state = DOMAIN_OFF;
        off->id = -1;
        guest_update(g, off);
}

void guest_update(Guest *g, const Domain *d)
{
        if (g->domain->state != DOMAIN_OFF && d->state != DOMAIN_OFF && g->domain->id != d->id)
                pass_through_off(g);

        _cleanup_(domain_freep) Domain *old = g->domain;
        bool is_same_boot = old->id == d->id;
        bool is_same_socket = is_same_boot && str_eq(old->control_socket, d->control_socket);

        g->domain = domain_copy(d);
        if (!str_eq(old->name, d->name)) {
                g_free(g->name);
                g->name = name_take(d->name);
        }
        if (is_same_boot && g->link.phase != LINK_NONE && !str_eq(old->data_socket, d->data_socket))
                dataport_reset(g->dataport, "the data channel has changed");
        link_follow_domain(g, is_same_socket);
        if (!is_same_boot)
                forget_facts(g);
        guest_refresh(g);
        if (!str_eq(old->name, d->name) || !str_eq(old->control_socket, d->control_socket) ||
            !str_eq(old->data_socket, d->data_socket))
                g->ops->state_changed(g->userdata, g, g->state);
        guest_arm(g);
}

void guest_hint(Guest *g, DomainHint hint)
{
        if (g->domain->state == DOMAIN_OFF)
                return;
        link_hint(g, hint);
        if (hint == DOMAIN_HINT_REBOOTED)
                forget_facts(g);
        guest_arm(g);
}

const Domain *guest_domain(const Guest *g)
{
        return g->domain;
}

const char *guest_uuid(const Guest *g)
{
        return g->domain->uuid;
}

const char *guest_name(const Guest *g)
{
        return g->name;
}

GuestState guest_state(const Guest *g)
{
        return g->state;
}

const char *guest_state_reason(const Guest *g)
{
        return g->reason;
}

uint64_t guest_ready_since(const Guest *g)
{
        return g->ready_since;
}

const GuestFacts *guest_facts(const Guest *g)
{
        return &g->facts;
}

bool guest_has_capability(const Guest *g, const char *name)
{
        return g_strv_contains((const char *const *)g->facts.capabilities, name);
}

const GuestCounters *guest_counters(const Guest *g)
{
        GuestCounters *shown = &((Guest *)g)->shown;

        *shown = g->counters;
        link_count(g, shown);
        dataport_count(g->dataport, shown);
        return shown;
}

GuestStream *guest_stream_open(Guest *g, const GuestStreamConfig *config)
{
        return dataport_open_stream(g->dataport, config);
}
