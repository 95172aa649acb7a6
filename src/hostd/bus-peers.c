/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The bus says the uid, and the groups that the peer had when it connected; only the bus has the peer's
 * socket. It mixes the primary group among the others, so that one comes from the user database, as do all
 * of them where the bus tells none. That database may be a network away: it is asked on a thread.
 */

#include "hostd/bus-peers.h"

#include <glib.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>

#include "hostd/bus-error.h"
#include "hostd/log.h"

#define PENDING_MAX 64u /* calls of one peer that wait until it is known */
#define GROUPS_MAX 65536

typedef struct Peer {
        BusPeers *peers;
        char *name;
        Caller *caller; /* NULL: being asked for */
        GQueue pending; /* sd_bus_message*, ref'ed */
        sd_bus_slot *credentials, *leaving;
} Peer;

struct BusPeers {
        sd_bus *bus;
        bool user, dead;
        unsigned n_lookups; /* threads that will come back */
        GHashTable *all;    /* name → Peer* */
        void (*left)(void *userdata, const char *sender);
        void *userdata;
};

typedef struct Lookup {
        BusPeers *peers;
        char *name;
        uid_t uid;
        gid_t gid;
        GArray *groups; /* gid_t; NULL: the bus told none */
        bool found;
} Lookup;

static void message_unref(void *m)
{
        sd_bus_message_unref(m);
}

static void peer_free(void *p)
{
        Peer *peer = p;

        g_queue_clear_full(&peer->pending, message_unref);
        sd_bus_slot_unref(peer->credentials);
        sd_bus_slot_unref(peer->leaving);
        caller_free(peer->caller);
        g_free(peer->name);
        g_free(peer);
}

BusPeers *bus_peers_new(sd_bus *bus, bool user, void (*left)(void *userdata, const char *sender),
                        void *userdata)
{
        BusPeers *p = g_new0(BusPeers, 1);

        p->bus = sd_bus_ref(bus);
        p->user = user;
        p->all = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, peer_free);
        p->left = left;
        p->userdata = userdata;
        return p;
}

BusPeers *bus_peers_free(BusPeers *p)
{
        if (!p)
                return NULL;
        p->dead = true;
        if (p->all)
                g_hash_table_unref(g_steal_pointer(&p->all));
        p->bus = sd_bus_unref(p->bus);
        if (p->n_lookups == 0)
                g_free(p);
        return NULL;
}

int bus_peers_redispatch(sd_bus_message *m)
{
        int r = sd_bus_message_rewind(m, true);
        return r < 0 ? r : sd_bus_enqueue_for_read(sd_bus_message_get_bus(m), m);
}

static void known(Peer *peer, Caller *caller)
{
        sd_bus_message *m;

        peer->caller = caller;
        while ((m = g_queue_pop_head(&peer->pending))) {
                if (bus_peers_redispatch(m) < 0)
                        bus_error_reply(m, WIRE_FAILED, "hostd cannot take the call up again");
                sd_bus_message_unref(m);
        }
}

static void unknown(Peer *peer)
{
        sd_bus_message *m;

        while ((m = g_queue_pop_head(&peer->pending))) {
                (void)sd_bus_reply_method_errorf(m, SD_BUS_ERROR_ACCESS_DENIED,
                                                 "The caller's identity cannot be determined");
                sd_bus_message_unref(m);
        }
        g_hash_table_remove(peer->peers->all, peer->name);
}

static gboolean on_looked_up(void *userdata)
{
        Lookup *l = userdata;
        BusPeers *p = l->peers;
        Peer *peer = p->dead ? NULL : g_hash_table_lookup(p->all, l->name);

        p->n_lookups--;
        if (peer && !peer->caller) {
                if (l->found)
                        known(peer, caller_new(l->uid, l->gid, (gid_t *)(void *)l->groups->data,
                                               l->groups->len, l->name));
                else
                        unknown(peer);
        }
        if (p->dead && p->n_lookups == 0)
                g_free(p);
        if (l->groups)
                g_array_unref(l->groups);
        g_free(l->name);
        g_free(l);
        return G_SOURCE_REMOVE;
}

static void *look_up(void *userdata)
{
        Lookup *l = userdata;
        g_autofree char *buffer = g_malloc(65536);
        struct passwd pw, *entry = NULL;

        (void)getpwuid_r(l->uid, &pw, buffer, 65536, &entry);
        if (entry)
                l->gid = entry->pw_gid;
        else if (l->groups && l->groups->len > 0)
                l->gid = g_array_index(l->groups, gid_t, 0);
        l->found = entry || (l->groups && l->groups->len > 0);
        if (!l->groups && entry) {
                int n = 64;
                l->groups = g_array_sized_new(FALSE, TRUE, sizeof(gid_t), (guint)n);
                g_array_set_size(l->groups, (guint)n);
                while (getgrouplist(entry->pw_name, entry->pw_gid, (gid_t *)(void *)l->groups->data, &n) <
                       0) {
                        if (n > GROUPS_MAX || n <= (int)l->groups->len) {
                                l->found = false;
                                n = 0;
                                break;
                        }
                        g_array_set_size(l->groups, (guint)n);
                }
                g_array_set_size(l->groups, (guint)n);
        }
        g_idle_add_full(G_PRIORITY_DEFAULT, on_looked_up, l, NULL);
        return NULL;
}

static int read_credentials(sd_bus_message *reply, uid_t *ret_uid, GArray **ret_groups)
{
        g_autoptr(GArray) groups = NULL;
        const char *key;
        bool has_uid = false;
        int r = sd_bus_message_enter_container(reply, 'a', "{sv}");

        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
                if ((r = sd_bus_message_read_basic(reply, 's', &key)) < 0)
                        return r;
                if (str_eq(key, "UnixUserID")) {
                        uint32_t uid;
                        if ((r = sd_bus_message_read(reply, "v", "u", &uid)) < 0)
                                return r;
                        *ret_uid = uid;
                        has_uid = true;
                } else if (str_eq(key, "UnixGroupIDs") && !groups) {
                        const void *gids;
                        size_t n_bytes;
                        if ((r = sd_bus_message_enter_container(reply, 'v', "au")) < 0 ||
                            (r = sd_bus_message_read_array(reply, 'u', &gids, &n_bytes)) < 0 ||
                            (r = sd_bus_message_exit_container(reply)) < 0)
                                return r;
                        groups = g_array_new(FALSE, FALSE, sizeof(gid_t));
                        g_array_append_vals(groups, gids, (guint)(n_bytes / sizeof(gid_t)));
                } else if ((r = sd_bus_message_skip(reply, "v")) < 0)
                        return r;
                if ((r = sd_bus_message_exit_container(reply)) < 0)
                        return r;
        }
        if (r < 0)
                return r;
        *ret_groups = g_steal_pointer(&groups);
        return has_uid ? 0 : -ENODATA;
}

static int on_credentials(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        Peer *peer = userdata;
        BusPeers *p = peer->peers;
        GArray *groups = NULL;
        uid_t uid = (uid_t)-1;
        GThread *thread;
        Lookup *l;

        peer->credentials = sd_bus_slot_unref(peer->credentials);
        if (sd_bus_message_is_method_error(reply, NULL) || read_credentials(reply, &uid, &groups) < 0) {
                unknown(peer); /* it left meanwhile, most likely */
                return 1;
        }
        if (p->user) {
                if (groups)
                        g_array_unref(groups);
                known(peer, caller_new(uid, getgid(), NULL, 0, peer->name));
                return 1;
        }
        l = g_new0(Lookup, 1);
        *l = (Lookup){
                .peers = p, .name = g_strdup(peer->name), .uid = uid, .gid = (gid_t)-1, .groups = groups
        };
        p->n_lookups++;
        thread = g_thread_try_new("user-lookup", look_up, l, NULL);
        if (thread)
                g_thread_unref(thread);
        else
                on_looked_up(l); /* not found: refused */
        return 1;
}

static int on_left(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        Peer *peer = userdata;
        BusPeers *p = peer->peers;
        char *name = g_strdup(peer->name);

        g_hash_table_remove(p->all, name);
        p->left(p->userdata, name);
        g_free(name);
        return 0;
}

static int on_watched(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        if (sd_bus_message_is_method_error(m, NULL))
                log_warning("The bus does not tell when callers leave: %s",
                            sd_bus_message_get_error(m)->message);
        return 1;
}

static int ask(BusPeers *p, const char *name, Peer **ret)
{
        g_autofree char *match = g_strdup_printf(
                "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%s',arg2=''",
                name);
        Peer *peer = g_new0(Peer, 1);
        int r;

        peer->peers = p;
        peer->name = g_strdup(name);
        g_queue_init(&peer->pending);
        /* In this order: who leaves in between is missed by the match, and unknown to the question behind
         * it. */
        r = sd_bus_add_match_async(p->bus, &peer->leaving, match, on_left, on_watched, peer);
        if (r >= 0)
                r = sd_bus_call_method_async(p->bus, &peer->credentials, "org.freedesktop.DBus",
                                             "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                             "GetConnectionCredentials", on_credentials, peer, "s", name);
        if (r < 0) {
                peer_free(peer);
                return r;
        }
        g_hash_table_insert(p->all, peer->name, peer);
        *ret = peer;
        return 0;
}

int bus_peers_find(BusPeers *p, sd_bus_message *m, const Caller **ret, sd_bus_error *error)
{
        const char *name = sd_bus_message_get_sender(m);
        Peer *peer;
        int r;

        if (!name || name[0] != ':' || strchr(name, '\''))
                return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED,
                                        "The caller has no name on the bus");
        peer = g_hash_table_lookup(p->all, name);
        if (!peer && (r = ask(p, name, &peer)) < 0)
                return r;
        if (peer->caller) {
                *ret = peer->caller;
                return 1;
        }
        if (g_queue_get_length(&peer->pending) >= PENDING_MAX)
                return bus_error_set(error, WIRE_LIMITS_EXCEEDED, "Too many calls at once from %s", name);
        g_queue_push_tail(&peer->pending, sd_bus_message_ref(m));
        return 0;
}
