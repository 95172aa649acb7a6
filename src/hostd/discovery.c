/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Domains in step with libvirt. Events say only that something changed; the truth is read again, once for
 * any number of events (a refresh that waits in the queue serves all before it). The list after each
 * connection is the great truth: what it does not name is gone. While libvirt is away, what was known last
 * stays.
 */

#include <glib.h>

#include "base/fs.h"
#include "hostd/discovery.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "hostd/virt.h"

#define RETRY_MIN_USEC (500 * USEC_PER_MSEC)
#define RETRY_MAX_USEC (15 * USEC_PER_SEC)

typedef struct Known {
        Domain *domain; /* NULL: an event told of it, its refresh is under way */
        uint64_t generation;
        bool refreshing; /* asked for, not answered */
        bool again;      /* changed since it was asked for */
        bool resumed;    /* tell, once its state is known */
} Known;

struct Discovery {
        Virt *virt;
        const DiscoveryOps *ops;
        void *userdata;
        char *uri;
        LibvirtState state;
        GHashTable *known; /* uuid → Known* */
        uint64_t generation;
        LoopTimer *retry;
        uint64_t retry_usec;
        bool told_failure;
};

typedef struct Enabling {
        Discovery *discovery;
        char *uuid;
        DiscoveryChannelsDone done;
        void *userdata;
} Enabling;

const char *libvirt_state_to_string(LibvirtState s)
{
        switch (s) {
        case LIBVIRT_CONNECTING:
                return "connecting";
        case LIBVIRT_CONNECTED:
                return "connected";
        case LIBVIRT_LOST:
                return "lost";
        }
        return "lost";
}

static void known_free(void *p)
{
        Known *k = p;

        domain_free(k->domain);
        g_free(k);
}

static Known *known_get(Discovery *d, const char *uuid)
{
        Known *k = g_hash_table_lookup(d->known, uuid);

        if (!k) {
                k = g_new0(Known, 1);
                k->generation = d->generation;
                g_hash_table_insert(d->known, g_strdup(uuid), k);
        }
        return k;
}

static void set_state(Discovery *d, LibvirtState state)
{
        if (d->state == state)
                return;
        d->state = state;
        d->ops->libvirt_state(d->userdata, state);
}

static void refresh(Discovery *d, const char *uuid)
{
        Known *k;

        if (d->state != LIBVIRT_CONNECTED)
                return;
        k = known_get(d, uuid);
        if (k->refreshing)
                k->again = true;
        else {
                k->refreshing = true;
                virt_refresh(d->virt, uuid);
        }
}

static void take_domain(Discovery *d, const Domain *now)
{
        Known *k = known_get(d, now->uuid);
        bool resumed = k->resumed && now->state == DOMAIN_RUNNING;

        k->generation = d->generation;
        k->resumed = false;
        if (!k->domain || !domain_equal(k->domain, now)) {
                domain_free(k->domain);
                k->domain = domain_copy(now);
                d->ops->domain(d->userdata, now);
        }
        if (resumed)
                d->ops->hint(d->userdata, now->uuid, DOMAIN_HINT_RESUMED);
}

static void forget(Discovery *d, const char *uuid)
{
        Known *k = g_hash_table_lookup(d->known, uuid);
        bool told = k && k->domain;
        g_autofree char *copy = g_strdup(uuid);

        if (!k)
                return;
        g_hash_table_remove(d->known, uuid);
        if (told)
                d->ops->gone(d->userdata, copy);
}

static void on_refreshed(void *userdata, const char *uuid, const Domain *now)
{
        Discovery *d = userdata;
        Known *k = g_hash_table_lookup(d->known, uuid);
        bool again = k && k->again;

        if (k)
                k->refreshing = k->again = false;
        if (now)
                take_domain(d, now);
        else
                forget(d, uuid);
        if (again)
                refresh(d, uuid);
}

static void forget_unseen(Discovery *d)
{
        g_autoptr(GPtrArray) unseen = g_ptr_array_new_with_free_func(g_free);
        GHashTableIter i;
        void *uuid, *k;

        g_hash_table_iter_init(&i, d->known);
        while (g_hash_table_iter_next(&i, &uuid, &k))
                if (((Known *)k)->generation != d->generation)
                        g_ptr_array_add(unseen, g_strdup(uuid));
        for (guint u = 0; u < unseen->len; u++)
                forget(d, unseen->pdata[u]);
}

static void on_listed(void *userdata, Domain *const *domains, size_t n, bool last)
{
        Discovery *d = userdata;

        for (size_t i = 0; i < n; i++)
                take_domain(d, domains[i]);
        if (!last)
                return;
        forget_unseen(d);
        d->ops->complete(d->userdata);
}

static void on_event(void *userdata, const char *uuid, VirtEvent event, const char *alias)
{
        Discovery *d = userdata;
        Known *k = g_hash_table_lookup(d->known, uuid);
        bool is_control =
                k && k->domain && k->domain->control_alias && str_eq(k->domain->control_alias, alias);

        switch (event) {
        case VIRT_EVENT_RESUMED:
                known_get(d, uuid)->resumed = true;
                refresh(d, uuid);
                break;
        case VIRT_EVENT_CHANGED:
                refresh(d, uuid);
                break;
        case VIRT_EVENT_REBOOTED:
                if (k && k->domain)
                        d->ops->hint(d->userdata, uuid, DOMAIN_HINT_REBOOTED);
                break;
        case VIRT_EVENT_PORT_OPENED:
                if (is_control)
                        d->ops->hint(d->userdata, uuid, DOMAIN_HINT_CONTROL_OPENED);
                break;
        case VIRT_EVENT_PORT_CLOSED:
                if (is_control)
                        d->ops->hint(d->userdata, uuid, DOMAIN_HINT_CONTROL_CLOSED);
                break;
        }
}

static void on_retry(void *userdata)
{
        Discovery *d = userdata;

        virt_connect(d->virt);
}

static void retry_later(Discovery *d)
{
        loop_timer_set(d->retry, fs_now_usec() + d->retry_usec, d->retry_usec / 4);
        d->retry_usec = MIN(d->retry_usec * 2, RETRY_MAX_USEC);
}

static void on_opened(void *userdata, WireError error, const char *text)
{
        Discovery *d = userdata;

        if (error != WIRE_OK) {
                if (!d->told_failure)
                        log_warning("libvirt at %s cannot be reached, trying again: %s", d->uri, text);
                d->told_failure = true;
                retry_later(d);
                return;
        }
        if (d->state == LIBVIRT_LOST || d->told_failure)
                log_info("libvirt at %s is connected", d->uri);
        d->told_failure = false;
        d->retry_usec = RETRY_MIN_USEC;
        d->generation++;
        set_state(d, LIBVIRT_CONNECTED);
        virt_list(d->virt);
}

static void on_closed(void *userdata, const char *text)
{
        Discovery *d = userdata;
        GHashTableIter i;
        void *k;

        if (d->state != LIBVIRT_CONNECTED)
                return;
        log_warning("libvirt at %s is lost (%s); connected guests stay connected", d->uri, text);
        g_hash_table_iter_init(&i, d->known);
        while (g_hash_table_iter_next(&i, NULL, &k))
                ((Known *)k)->refreshing = ((Known *)k)->again = false;
        set_state(d, LIBVIRT_LOST);
        retry_later(d);
}

static const VirtOps virt_ops = {
        .opened = on_opened,
        .closed = on_closed,
        .event = on_event,
        .listed = on_listed,
        .refreshed = on_refreshed,
};

Discovery *discovery_new(const char *connect_uri, const char *control_channel, const char *data_channel,
                         const DiscoveryOps *ops, void *userdata)
{
        Discovery *d = g_new0(Discovery, 1);

        *d = (Discovery){
                .ops = ops,
                .userdata = userdata,
                .uri = g_strdup(connect_uri),
                .state = LIBVIRT_CONNECTING,
                .known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, known_free),
                .retry_usec = RETRY_MIN_USEC,
        };
        d->retry = loop_timer_new(loop_default(), on_retry, d);
        if (!d->retry)
                return discovery_free(d);
        d->virt = virt_new(connect_uri, control_channel, data_channel, &virt_ops, d);
        return d;
}

Discovery *discovery_free(Discovery *d)
{
        if (!d)
                return NULL;
        virt_free(d->virt);
        loop_timer_free(d->retry);
        g_hash_table_unref(d->known);
        g_free(d->uri);
        g_free(d);
        return NULL;
}

void discovery_start(Discovery *d)
{
        virt_connect(d->virt);
}

LibvirtState discovery_libvirt_state(const Discovery *d)
{
        return d->state;
}

void discovery_set_channels(Discovery *d, const char *control_channel, const char *data_channel)
{
        virt_set_channels(d->virt, control_channel, data_channel);
        if (d->state == LIBVIRT_CONNECTED)
                virt_list(d->virt);
}

static void on_enabled(void *userdata, WireError error, const char *text, bool live, const char *diff)
{
        Enabling *e = userdata;

        /* Not every driver tells of a changed device. */
        refresh(e->discovery, e->uuid);
        e->done(e->userdata, error, text, live, diff);
        g_free(e->uuid);
        g_free(e);
}

void discovery_enable_channels(Discovery *d, const char *uuid, bool enable, bool dry_run,
                               DiscoveryChannelsDone done, void *userdata)
{
        Enabling *e = g_new0(Enabling, 1);

        *e = (Enabling){ .discovery = d, .uuid = g_strdup(uuid), .done = done, .userdata = userdata };
        virt_enable_channels(d->virt, uuid, enable, dry_run, on_enabled, e);
}
