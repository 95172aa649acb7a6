/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The connection, the name, the tree of objects, who may call, and calls that wait. Guests and jobs come and
 * go by the thousand, so their objects are found by path in the registries (fallback vtables); nothing is
 * kept per object here.
 */

#include "hostd/bus.h"

#include <glib.h>
#include <inttypes.h>

#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/delivery.h"
#include "hostd/log.h"
#include "hostd/names.h"

#define DETAIL_BYTES_MAX ((size_t)1024 * 1024) /* a quoted command line has half of it */
#define IFACE_BYTES_MAX 255u                   /* names of interfaces and properties, as D-Bus has it */

char *bus_guest_path(const char *uuid)
{
        char *path = NULL;
        (void)sd_bus_path_encode(BUS_GUEST_PREFIX, uuid, &path);
        return path;
}

char *bus_job_path(uint32_t id)
{
        char *path = NULL;
        return asprintf(&path, BUS_JOB_PREFIX "/%" PRIu32, id) < 0 ? NULL : path;
}

Guest *bus_find_guest_path(Bus *b, const char *path)
{
        _cleanup_free_ char *uuid = NULL;
        return sd_bus_path_decode(path, BUS_GUEST_PREFIX, &uuid) > 0 ? host_find_guest_uuid(b->host, uuid)
                                                                     : NULL;
}

Job *bus_find_job_path(Bus *b, const char *path)
{
        size_t n = strlen(BUS_JOB_PREFIX "/");
        guint64 id;
        Job *j;

        if (!str_has_prefix(path, BUS_JOB_PREFIX "/") || path[n] == '0' ||
            !g_ascii_string_to_unsigned(path + n, 10, 1, UINT32_MAX, &id, NULL))
                return NULL;
        j = jobs_find(b->jobs, (uint32_t)id);
        return j && !j->hidden ? j : NULL;
}

static int find_guest(sd_bus *bus, const char *path, const char *iface, void *userdata, void **ret,
                      sd_bus_error *error)
{
        *ret = userdata;
        return bus_find_guest_path(userdata, path) != NULL;
}

static int find_job(sd_bus *bus, const char *path, const char *iface, void *userdata, void **ret,
                    sd_bus_error *error)
{
        *ret = userdata;
        return bus_find_job_path(userdata, path) != NULL;
}

static int find_process(sd_bus *bus, const char *path, const char *iface, void *userdata, void **ret,
                        sd_bus_error *error)
{
        Job *j = bus_find_job_path(userdata, path);
        *ret = userdata;
        return j && j->process;
}

static int list_guests(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *error)
{
        Bus *b = userdata;
        GHashTable *guests = host_guests(b->host);
        char **paths = g_new0(char *, g_hash_table_size(guests) + 1);
        GHashTableIter i;
        void *uuid;
        size_t n = 0;

        g_hash_table_iter_init(&i, guests);
        while (g_hash_table_iter_next(&i, &uuid, NULL))
                if ((paths[n] = bus_guest_path(uuid)))
                        n++;
        *ret = paths;
        return 0;
}

static int list_jobs(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *error)
{
        Bus *b = userdata;
        GHashTable *jobs = jobs_all(b->jobs);
        char **paths = g_new0(char *, g_hash_table_size(jobs) + 1);
        GHashTableIter i;
        void *p;
        size_t n = 0;

        g_hash_table_iter_init(&i, jobs);
        while (g_hash_table_iter_next(&i, NULL, &p))
                if (!((Job *)p)->hidden && (paths[n] = bus_job_path(((Job *)p)->id)))
                        n++;
        *ret = paths;
        return 0;
}

int bus_read_guest(Bus *b, sd_bus_message *m, Guest **ret, PolkitDetails *details)
{
        const char *asked;
        Guest *g;
        int r;

        if (str_eq(sd_bus_message_get_interface(m), IFACE_MANAGER)) {
                if ((r = sd_bus_message_read_basic(m, 's', &asked)) < 0)
                        return r;
                g = host_find_guest(b->host, asked);
                details->domain_name = asked;
        } else
                g = bus_find_guest_path(b, sd_bus_message_get_path(m));
        if (g) {
                details->domain_name = guest_name(g);
                details->domain_uuid = guest_uuid(g);
        }
        *ret = g;
        return 0;
}

void bus_emit_removed(Bus *b, const char *path, const char *iface, const char *second_iface)
{
        /* All that InterfacesAdded has named: GLib's clients keep an object until the last of them is gone.
         */
        (void)sd_bus_emit_interfaces_removed(b->bus, path, "org.freedesktop.DBus.Peer",
                                             "org.freedesktop.DBus.Introspectable",
                                             "org.freedesktop.DBus.Properties", iface, second_iface, NULL);
}

int bus_no_such_guest(Bus *b, sd_bus_error *error, const char *asked)
{
        LibvirtState libvirt = discovery_libvirt_state(host_discovery(b->host));

        return bus_error_set(
                error, WIRE_NO_SUCH_GUEST, "There is no guest \"%.255s\": %s", asked ? asked : "",
                libvirt == LIBVIRT_CONNECTED ? "libvirt knows no domain of that name or UUID here"
                                             : "libvirt cannot be reached now, and did not know it before");
}

/* What goes into the question to polkit, which is a message too. */
static bool is_short(const char *detail)
{
        return !detail || strnlen(detail, DETAIL_BYTES_MAX + 1) <= DETAIL_BYTES_MAX;
}

int bus_authorize(Bus *b, sd_bus_message *m, const char *verb, const PolkitDetails *details,
                  const Caller **ret_caller, sd_bus_error *error)
{
        const Caller *caller;
        int r = bus_peers_find(b->peers, m, &caller, error);

        if (r <= 0)
                return r;
        if (!is_short(details->domain_name) || !is_short(details->user) || !is_short(details->command) ||
            !is_short(details->path) || !is_short(details->topic))
                return bus_error_set(
                        error, WIRE_TOO_LARGE,
                        "An argument of %s has more than %zu bytes, which nothing of its kind has",
                        sd_bus_message_get_member(m), DETAIL_BYTES_MAX);
        r = polkit_check(b->polkit, m, caller, verb, details, error);
        if (r < 0 && !str_eq(verb, "inspect")) {
                const char *const command[] = { details->command, NULL };
                audit_write(&(AuditEntry){
                        .verb = verb,
                        .caller = caller,
                        .guest_uuid = details->domain_uuid,
                        .guest_name = details->domain_name,
                        .command = details->command ? command : NULL,
                        .user = details->user,
                        .path = details->path,
                        .topic = details->topic,
                        .refused = true,
                        .error = WIRE_PERMISSION_DENIED,
                        .text = error->message,
                });
        }
        if (r > 0 && ret_caller)
                *ret_caller = caller;
        return r;
}

/* What sd-bus would answer by itself about guests and jobs: their properties, and which there are. */
static bool is_looking(sd_bus_message *m)
{
        const char *path = sd_bus_message_get_path(m);

        if (sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Introspectable", NULL))
                return str_eq(path, BUS_GUEST_PREFIX) || str_eq(path, BUS_JOB_PREFIX);
        return sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Properties", NULL) ||
               sd_bus_message_is_method_call(m, "org.freedesktop.DBus.ObjectManager", NULL);
}

/* sd-bus would say the name of what is not there, however long it is. */
static int check_names(sd_bus_message *m, sd_bus_error *error)
{
        const char *name;
        int r = 0;

        for (const char *type = sd_bus_message_get_signature(m, true); r >= 0 && type && *type == 's';
             type++)
                if ((r = sd_bus_message_read_basic(m, 's', &name)) > 0 &&
                    strnlen(name, IFACE_BYTES_MAX + 1) > IFACE_BYTES_MAX)
                        return bus_error_set(error, WIRE_INVALID_ARGS,
                                             "No interface or property has a name of more than %u bytes",
                                             IFACE_BYTES_MAX);
        return r < 0 ? r : sd_bus_message_rewind(m, true);
}

/* That is `inspect` too, except for one's own jobs, so it is stopped on its way there. */
static int on_filter(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        PolkitDetails details = {};
        const Caller *caller;
        Bus *b = userdata;
        const Guest *g;
        const Job *j;
        int r;

        if (!is_looking(m))
                return 0;
        if ((r = bus_peers_find(b->peers, m, &caller, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = check_names(m, error)) < 0)
                return r;
        g = bus_find_guest_path(b, sd_bus_message_get_path(m));
        j = g ? NULL : bus_find_job_path(b, sd_bus_message_get_path(m));
        if (j && j->caller->uid == caller->uid)
                return 0;
        if (g || j) {
                details.domain_name = g ? guest_name(g) : j->guest_name;
                details.domain_uuid = g ? guest_uuid(g) : j->guest_uuid;
        }
        r = bus_authorize(b, m, "inspect", &details, NULL, error);
        if (r > 0 && sd_bus_message_is_method_call(m, "org.freedesktop.DBus.ObjectManager", NULL))
                return bus_room_objects(b, error); /* 0: sd-bus goes on with it */
        return r < 0 ? r : r == 0;
}

/* Calls that wait */

BusWait *bus_wait_free(BusWait *w)
{
        if (!w)
                return NULL;
        g_queue_remove(&w->bus->waits, w);
        loop_timer_free(w->timer);
        sd_bus_message_unref(w->call);
        g_free(w->guest_uuid);
        g_free(w);
        return NULL;
}

static void on_wait_timeout(void *userdata)
{
        BusWait *w = userdata;

        if (w->guest_uuid) {
                Guest *g = host_find_guest_uuid(w->bus->host, w->guest_uuid);
                g_autofree char *text =
                        g ? g_strdup_printf("Guest %s did not become ready in time; it is %s: %s",
                                            guest_name(g), guest_state_to_string(guest_state(g)),
                                            guest_state_reason(g))
                          : NULL;
                bus_error_reply(w->call, WIRE_TIMEOUT, text);
        } else {
                Job *j = jobs_find(w->bus->jobs, w->job);
                (void)sd_bus_reply_method_return(w->call, "s", j ? job_state_to_string(j->state) : "failed");
        }
        bus_wait_free(w);
}

int bus_wait_new(Bus *b, sd_bus_message *call, const char *uuid, uint32_t job, uint64_t timeout_usec)
{
        uint64_t now = fs_now_usec();
        BusWait *w = g_new0(BusWait, 1);

        *w = (BusWait){
                .bus = b, .call = sd_bus_message_ref(call), .guest_uuid = g_strdup(uuid), .job = job
        };
        g_queue_push_tail(&b->waits, w);
        w->timer = loop_timer_new(b->loop, on_wait_timeout, w);
        if (!w->timer) {
                bus_wait_free(w);
                return -ENOMEM;
        }
        if (timeout_usec < USEC_INFINITY - now)
                loop_timer_set(w->timer, now + timeout_usec, 0);
        return 1;
}

static void on_caller_left(void *userdata, const char *sender)
{
        Bus *b = userdata;

        for (GList *l = b->waits.head, *next; l; l = next) {
                BusWait *w = l->data;
                next = l->next;
                if (str_eq(sd_bus_message_get_sender(w->call), sender))
                        bus_wait_free(w);
        }
        polkit_forget(b->polkit, sender);
        services_owner_left(b->services, sender);
        delivery_caller_left(sender);
        jobs_caller_left(b->jobs, sender);
}

/* The connection */

static int on_name(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        const sd_bus_error *e = sd_bus_message_get_error(m);
        Bus *b = userdata;
        uint32_t result = 0;

        if (!e && sd_bus_message_read(m, "u", &result) > 0 &&
            (result == 1 || result == 4)) /* primary owner, already owner */
                return 1;
        log_error("Cannot take the name " BUS_NAME ": %s", e ? e->message : "another vmferry-hostd has it");
        loop_quit(b->loop, EXIT_FAILURE);
        return 1;
}

void bus_publish(Bus *b)
{
        int r;

        if (b->published)
                return;
        b->published = true;
        r = sd_bus_request_name_async(b->bus, NULL, BUS_NAME, 0, on_name, b);
        if (r < 0) {
                log_error("Cannot ask for the name " BUS_NAME ": %s", g_strerror(-r));
                loop_quit(b->loop, EXIT_FAILURE);
        }
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        Bus *b = userdata;

        log_error("The connection to the bus is lost");
        loop_quit(b->loop, EXIT_FAILURE);
        return 0;
}

static int add_objects(Bus *b)
{
        sd_bus *bus = b->bus;
        int r;

        (void)((r = sd_bus_add_filter(bus, NULL, on_filter, b)) < 0 ||
               (r = sd_bus_add_object_manager(bus, NULL, BUS_PATH)) < 0 ||
               (r = sd_bus_add_object_vtable(bus, NULL, BUS_PATH, IFACE_MANAGER, bus_manager_vtable, b)) <
                       0 ||
               (r = sd_bus_add_fallback_vtable(bus, NULL, BUS_GUEST_PREFIX, IFACE_GUEST, bus_guest_vtable,
                                               find_guest, b)) < 0 ||
               (r = sd_bus_add_node_enumerator(bus, NULL, BUS_GUEST_PREFIX, list_guests, b)) < 0 ||
               (r = sd_bus_add_fallback_vtable(bus, NULL, BUS_JOB_PREFIX, IFACE_JOB, bus_job_vtable,
                                               find_job, b)) < 0 ||
               (r = sd_bus_add_fallback_vtable(bus, NULL, BUS_JOB_PREFIX, IFACE_PROCESS, bus_process_vtable,
                                               find_process, b)) < 0 ||
               (r = sd_bus_add_node_enumerator(bus, NULL, BUS_JOB_PREFIX, list_jobs, b)) < 0 ||
               (r = sd_bus_match_signal_async(bus, NULL, "org.freedesktop.DBus.Local", NULL,
                                              "org.freedesktop.DBus.Local", "Disconnected", on_disconnected,
                                              NULL, b)) < 0);
        return r;
}

int bus_new(Host *h, Jobs *js, Loop *loop, Bus **ret)
{
        bool user = host_config(h)->user;
        Bus *b = g_new0(Bus, 1);
        int r;

        *b = (Bus){ .host = h, .jobs = js, .loop = loop, .user = user };
        g_queue_init(&b->waits);
        b->shown = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        b->counts = loop_timer_new(loop, bus_manager_tell_counts, b);
        r = !b->counts ? -ENOMEM : user ? sd_bus_open_user(&b->bus) : sd_bus_open_system(&b->bus);
        if (r >= 0)
                r = sd_bus_attach_event(b->bus, loop_event(loop), SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = add_objects(b);
        if (r < 0) {
                log_error("Cannot connect to the %s bus: %s", user ? "session" : "system", g_strerror(-r));
                bus_free(b);
                return r;
        }
        b->peers = bus_peers_new(b->bus, user, on_caller_left, b);
        b->polkit = polkit_new(b->bus, user, jobs_quota(js));
        b->services = services_new(b->bus, h, jobs_quota(js));
        b->units = units_new(b->bus, h);
        host_listen(h, &bus_guest_listener, b);
        jobs_set_ops(js, &bus_job_ops, b);
        *ret = b;
        return 0;
}

void bus_set_engines(Bus *b, Queue *q, Actions *as)
{
        b->actions = as;
        b->queue = q;
}

Bus *bus_free(Bus *b)
{
        BusWait *w;

        if (!b)
                return NULL;
        jobs_set_ops(b->jobs, NULL, NULL);
        delivery_stop_all();
        while ((w = g_queue_peek_head(&b->waits))) {
                bus_error_reply(w->call, WIRE_INTERRUPTED, "hostd ends");
                bus_wait_free(w);
        }
        units_free(b->units);
        services_free(b->services);
        polkit_free(b->polkit);
        bus_peers_free(b->peers);
        loop_timer_free(b->counts);
        g_hash_table_unref(b->shown);
        b->bus = sd_bus_flush_close_unref(b->bus);
        g_free(b);
        return NULL;
}
