/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The registry of guests: a guest for each domain that libvirt knows. Discovery tells of domains, guests
 * tell of themselves, and both is passed on to the listeners. Wiring only.
 */

#include "hostd/host.h"

#include "hostd/log.h"
#include "hostd/loop.h"

typedef struct Listening {
        const HostListener *listener;
        void *userdata;
} Listening;

struct Host {
        Config *config;
        Discovery *discovery;
        GHashTable *guests;  /* uuid → Guest*, whose key it is */
        GHashTable *by_name; /* libvirt's name → Guest* */
        GArray *listeners;
        uint32_t n_ready;
};

#define TELL(h, what, ...)                                                                                  \
        do {                                                                                                \
                for (guint i_ = 0; i_ < (h)->listeners->len; i_++) {                                        \
                        const Listening *t_ = &g_array_index((h)->listeners, Listening, i_);                \
                        if (t_->listener->what)                                                             \
                                t_->listener->what(t_->userdata, ##__VA_ARGS__);                            \
                }                                                                                           \
        } while (0)

/* --- news of guests --- */

static void on_state_changed(void *userdata, Guest *g, GuestState old)
{
        Host *h = userdata;

        if (old != guest_state(g)) {
                h->n_ready -= old == GUEST_READY;
                h->n_ready += guest_state(g) == GUEST_READY;
        }
        TELL(h, guest_state, g, old);
}

static void on_facts_changed(void *userdata, Guest *g)
{
        Host *h = userdata;

        TELL(h, guest_facts, g);
}

static void on_notify(void *userdata, Guest *g, const Message *m)
{
        Host *h = userdata;

        TELL(h, guest_notify, g, m);
}

static void on_request(void *userdata, Guest *g, uint32_t id, const Message *m)
{
        Host *h = userdata;

        TELL(h, guest_request, g, id, m);
}

static const GuestOps guest_ops = {
        .state_changed = on_state_changed,
        .facts_changed = on_facts_changed,
        .notify = on_notify,
        .request = on_request,
};

/* --- news of domains --- */

static void on_domain(void *userdata, const Domain *d)
{
        Host *h = userdata;
        Guest *g = g_hash_table_lookup(h->guests, d->uuid);

        if (!g) {
                g = guest_new(d, &guest_ops, h);
                g_hash_table_insert(h->guests, g_strdup(d->uuid), g);
                g_hash_table_replace(h->by_name, g_strdup(d->name), g);
                TELL(h, guest_added, g);
                return;
        }
        if (!str_eq(guest_domain(g)->name, d->name)) {
                /* After two domains have swapped their names, the old one may be somebody else's already. */
                if (g_hash_table_lookup(h->by_name, guest_domain(g)->name) == g)
                        g_hash_table_remove(h->by_name, guest_domain(g)->name);
                g_hash_table_replace(h->by_name, g_strdup(d->name), g);
        }
        guest_update(g, d);
}

static void on_hint(void *userdata, const char *uuid, DomainHint hint)
{
        Guest *g = host_find_guest_uuid(userdata, uuid);

        if (g)
                guest_hint(g, hint);
}

static void on_gone(void *userdata, const char *uuid)
{
        Host *h = userdata;
        Guest *g = g_hash_table_lookup(h->guests, uuid);

        if (!g)
                return;
        h->n_ready -= guest_state(g) == GUEST_READY;
        if (g_hash_table_lookup(h->by_name, guest_domain(g)->name) == g)
                g_hash_table_remove(h->by_name, guest_domain(g)->name);
        g_hash_table_remove(h->guests, uuid);
        TELL(h, guest_removed, g);
        guest_free(g);
}

static void on_complete(void *userdata)
{
        Host *h = userdata;

        TELL(h, complete);
}

static void on_libvirt_state(void *userdata, LibvirtState s)
{
        Host *h = userdata;

        TELL(h, libvirt_state, s);
}

static const DiscoveryOps discovery_ops = {
        .domain = on_domain,
        .hint = on_hint,
        .gone = on_gone,
        .complete = on_complete,
        .libvirt_state = on_libvirt_state,
};

/* --- for others --- */

Host *host_new(Config *config)
{
        Host *h = g_new0(Host, 1);

        *h = (Host){
                .config = config,
                .guests = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                .by_name = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                .listeners = g_array_new(FALSE, FALSE, sizeof(Listening)),
        };
        guest_set_keepalive(config->keepalive_usec);
        guest_set_max_messages(config->max_messages_per_second);
        h->discovery = discovery_new(config->connect_uri, config->control_channel, config->data_channel,
                                     &discovery_ops, h);
        if (!h->discovery)
                return host_free(h);
        return h;
}

Host *host_free(Host *h)
{
        GHashTableIter i;
        GHashTable *guests;
        void *g;

        if (!h)
                return NULL;
        discovery_free(h->discovery);
        g_array_set_size(h->listeners, 0); /* they were freed before us */
        /* Whoever is told of an end looks in vain for others. */
        guests = h->guests;
        h->guests = g_hash_table_new(g_str_hash, g_str_equal);
        g_hash_table_remove_all(h->by_name);
        g_hash_table_iter_init(&i, guests);
        while (g_hash_table_iter_next(&i, NULL, &g))
                guest_free(g);
        g_hash_table_unref(guests);
        g_hash_table_unref(h->guests);
        g_hash_table_unref(h->by_name);
        g_array_unref(h->listeners);
        config_free(h->config);
        g_free(h);
        return NULL;
}

void host_start(Host *h)
{
        discovery_start(h->discovery);
}

void host_listen(Host *h, const HostListener *l, void *userdata)
{
        Listening t = { .listener = l, .userdata = userdata };

        g_array_append_val(h->listeners, t);
}

const Config *host_config(const Host *h)
{
        return h->config;
}

int host_reload(Host *h)
{
        Config *old = h->config;

        h->config = old->file ? config_load_file(old->user, old->file) : config_load(old->user);
        guest_set_keepalive(h->config->keepalive_usec);
        guest_set_max_messages(h->config->max_messages_per_second);
        if (!str_eq(old->control_channel, h->config->control_channel) ||
            !str_eq(old->data_channel, h->config->data_channel))
                discovery_set_channels(h->discovery, h->config->control_channel, h->config->data_channel);
        if (!str_eq(old->connect_uri, h->config->connect_uri))
                log_warning("ConnectUri= has changed: it takes effect when the service is restarted");
        config_free(old);
        TELL(h, reloaded);
        return 0;
}

Discovery *host_discovery(Host *h)
{
        return h->discovery;
}

Guest *host_find_guest_uuid(Host *h, const char *uuid)
{
        return g_hash_table_lookup(h->guests, uuid);
}

Guest *host_find_guest(Host *h, const char *untrusted_name_or_uuid)
{
        Guest *g = NULL;

        /* The UUID first, as virsh does it: a name that looks like one must not hide the domain that has it.
         */
        if (g_uuid_string_is_valid(untrusted_name_or_uuid)) {
                g_autofree char *uuid = g_ascii_strdown(untrusted_name_or_uuid, -1);
                g = host_find_guest_uuid(h, uuid);
        }
        return g ? g : g_hash_table_lookup(h->by_name, untrusted_name_or_uuid);
}

GHashTable *host_guests(Host *h)
{
        return h->guests;
}

uint32_t host_n_ready(const Host *h)
{
        return h->n_ready;
}
