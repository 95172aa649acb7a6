/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* org.vmferry1.Manager at /org/vmferry1: what is there, and the doing of things by name. */

#include <glib.h>

#include "base/fs.h"
#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/bus-options.h"
#include "hostd/bus-room.h"
#include "hostd/names.h"

#define COUNTS_USEC (100 * USEC_PER_MSEC)

static int method_get_guest(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        _cleanup_free_ char *path = NULL;
        PolkitDetails details = {};
        Guest *g;
        int r;

        if ((r = bus_read_guest(userdata, m, &g, &details)) < 0)
                return r;
        if ((r = bus_authorize(userdata, m, "inspect", &details, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        path = bus_guest_path(guest_uuid(g));
        return sd_bus_reply_method_return(m, "o", path);
}

static int compare_guests(const void *a, const void *b)
{
        const Guest *x = *(Guest *const *)a, *y = *(Guest *const *)b;
        int c = strcmp(guest_name(x), guest_name(y));
        return c != 0 ? c : strcmp(guest_uuid(x), guest_uuid(y));
}

static int compare_jobs(const void *a, const void *b)
{
        uint32_t x = (*(Job *const *)a)->id, y = (*(Job *const *)b)->id;
        return x < y ? -1 : x > y;
}

/* The values of a registry, sorted. */
static GPtrArray *sorted(GHashTable *all, int (*compare)(const void *, const void *))
{
        GPtrArray *a = g_ptr_array_sized_new(g_hash_table_size(all));
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, all);
        while (g_hash_table_iter_next(&i, NULL, &p))
                g_ptr_array_add(a, p);
        g_ptr_array_sort(a, compare);
        return a;
}

static int method_list_guests(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        size_t left = BUS_ROOM;
        Bus *b = userdata;
        int r;

        if ((r = bus_authorize(b, m, "inspect", &(PolkitDetails){}, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = sd_bus_message_new_method_return(m, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(ssso)")) < 0)
                return r;
        g_autoptr(GPtrArray) guests = sorted(host_guests(b->host), compare_guests);
        for (guint i = 0; i < guests->len; i++) {
                Guest *g = g_ptr_array_index(guests, i);
                _cleanup_free_ char *path = bus_guest_path(guest_uuid(g));
                const char *state = guest_state_to_string(guest_state(g));
                if ((r = bus_room_element(&left, error, guest_name(g), guest_uuid(g), state, path, NULL)) <
                            0 ||
                    (r = sd_bus_message_append(reply, "(ssso)", guest_name(g), guest_uuid(g), state, path)) <
                            0)
                        return r;
        }
        if ((r = sd_bus_message_close_container(reply)) < 0)
                return r;
        return sd_bus_send(NULL, reply, NULL);
}

static int method_list_jobs(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        size_t left = BUS_ROOM;
        Bus *b = userdata;
        int r;

        if ((r = bus_authorize(b, m, "inspect", &(PolkitDetails){}, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = sd_bus_message_new_method_return(m, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(uosss)")) < 0)
                return r;
        g_autoptr(GPtrArray) jobs = sorted(jobs_all(b->jobs), compare_jobs);
        for (guint i = 0; i < jobs->len; i++) {
                const Job *j = g_ptr_array_index(jobs, i);
                _cleanup_free_ char *path = bus_job_path(j->id);
                if (j->hidden)
                        continue;
                const char *kind = job_kind_to_string(j->kind), *state = job_state_to_string(j->state);
                if ((r = bus_room_element(&left, error, path, j->guest_name, kind, state, NULL)) < 0 ||
                    (r = sd_bus_message_append(reply, "(uosss)", j->id, path, j->guest_name, kind, state)) <
                            0)
                        return r;
        }
        if ((r = sd_bus_message_close_container(reply)) < 0)
                return r;
        return sd_bus_send(NULL, reply, NULL);
}

static int method_wait_ready(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        _cleanup_free_ char *path = NULL;
        PolkitDetails details = {};
        uint64_t timeout_usec;
        Guest *g;
        int r;

        if ((r = bus_read_guest(userdata, m, &g, &details)) < 0 ||
            (r = sd_bus_message_read(m, "t", &timeout_usec)) < 0)
                return r;
        if ((r = bus_authorize(userdata, m, "inspect", &details, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        if (guest_state(g) != GUEST_READY)
                return bus_wait_new(userdata, m, guest_uuid(g), 0, timeout_usec);
        path = bus_guest_path(guest_uuid(g));
        return sd_bus_reply_method_return(m, "o", path);
}

static void on_channels(void *userdata, WireError error, const char *text, bool live, const char *diff)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata;

        if (error != WIRE_OK)
                bus_error_reply(call, error, text);
        else if (str_eq(sd_bus_message_get_member(call), "PreviewChannels"))
                (void)sd_bus_reply_method_return(call, "s", diff ? diff : "");
        else
                (void)sd_bus_reply_method_return(call, "b", (int)live);
}

static int channels(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        static const BusOption enable_options[] = { { "dry_run", "b", 0 }, {} };
        const char *member = sd_bus_message_get_member(m);
        bool is_preview = str_eq(member, "PreviewChannels"), dry_run = is_preview;
        int r, enable = str_eq(member, "EnableChannels");
        PolkitDetails details = {};
        Bus *b = userdata;
        Guest *g;

        if ((r = bus_read_guest(b, m, &g, &details)) < 0 ||
            (r = is_preview ? sd_bus_message_read(m, "b", &enable)
                            : bus_options_read(m, enable_options, &dry_run, error)) < 0)
                return r;
        if ((r = bus_authorize(b, m, "manage", &details, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        discovery_enable_channels(host_discovery(b->host), guest_uuid(g), enable, dry_run, on_channels,
                                  sd_bus_message_ref(m));
        return 1;
}

static int topic(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        bool is_register = str_eq(sd_bus_message_get_member(m), "RegisterTopic");
        g_autofree char *text = NULL;
        PolkitDetails details = {};
        Bus *b = userdata;
        WireError e;
        int r;

        if ((r = sd_bus_message_read(m, "s", &details.topic)) < 0)
                return r;
        if ((r = bus_authorize(b, m, "send", &details, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        e = (is_register ? services_register : services_unregister)(b->services, details.topic,
                                                                    sd_bus_message_get_sender(m), &text);
        if (e != WIRE_OK)
                return bus_error_set(error, e, "%s", text);
        return sd_bus_reply_method_return(m, NULL);
}

static int method_reload(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        Bus *b = userdata;
        int r;

        if ((r = bus_authorize(b, m, "manage", &(PolkitDetails){}, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = host_reload(b->host)) < 0)
                return bus_error_set(error, WIRE_FAILED,
                                     "The configuration cannot be read, the old one stays: %s",
                                     g_strerror(-r));
        return sd_bus_reply_method_return(m, NULL);
}

static int get_text(sd_bus *bus, const char *path, const char *iface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        Bus *b = userdata;
        const char *text = VMFERRY_VERSION;

        if (str_eq(property, "ConnectUri"))
                text = host_config(b->host)->connect_uri;
        else if (str_eq(property, "LibvirtState"))
                text = libvirt_state_to_string(discovery_libvirt_state(host_discovery(b->host)));
        return sd_bus_message_append_basic(reply, 's', text);
}

static int get_count(sd_bus *bus, const char *path, const char *iface, const char *property,
                     sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        Bus *b = userdata;
        uint32_t n = str_eq(property, "GuestCount")   ? g_hash_table_size(host_guests(b->host))
                     : str_eq(property, "ReadyCount") ? host_n_ready(b->host)
                                                      : jobs_n_active(b->jobs);
        return sd_bus_message_append_basic(reply, 'u', &n);
}

void bus_manager_counts_changed(Bus *b)
{
        loop_timer_set(b->counts, fs_now_usec() + COUNTS_USEC, COUNTS_USEC / 10);
}

void bus_manager_tell_counts(void *userdata)
{
        Bus *b = userdata;
        (void)sd_bus_emit_properties_changed(b->bus, BUS_PATH, IFACE_MANAGER, "GuestCount", "ReadyCount",
                                             "JobCount", NULL);
}

#define CALLABLE SD_BUS_VTABLE_UNPRIVILEGED /* each asks polkit itself */
#define ARGS(...) SD_BUS_ARGS(__VA_ARGS__)

const sd_bus_vtable bus_manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("GetGuest", ARGS("s", guest), SD_BUS_RESULT("o", path), method_get_guest,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("ListGuests", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssso)", guests),
                                method_list_guests, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("ListJobs", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(uosss)", jobs),
                                method_list_jobs, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("WaitReady", ARGS("s", guest, "t", timeout_usec), SD_BUS_RESULT("o", path),
                                method_wait_ready, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Ping", ARGS("s", guest), SD_BUS_RESULT("t", rtt_usec), bus_verb_ping,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Send", ARGS("s", guest, "s", topic, "s", text, "a{sv}", options),
                                SD_BUS_RESULT("t", id), bus_verb_send, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Call", ARGS("s", guest, "s", topic, "s", text, "a{sv}", options),
                                SD_BUS_RESULT("s", reply), bus_verb_call, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Run", ARGS("s", guest, "as", argv, "a{sv}", options),
                                SD_BUS_RESULT("i", exit_status, "s", stdout, "s", stderr), bus_verb_run,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Push", ARGS("s", guest, "s", host_path, "s", guest_path, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job), bus_verb_push, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Pull", ARGS("s", guest, "s", guest_path, "s", host_path, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job), bus_verb_pull, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("EnableChannels", ARGS("s", domain, "a{sv}", options),
                                SD_BUS_RESULT("b", live), channels, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("DisableChannels", ARGS("s", domain, "a{sv}", options),
                                SD_BUS_RESULT("b", live), channels, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("PreviewChannels", ARGS("s", domain, "b", enable),
                                SD_BUS_RESULT("s", difference), channels, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("ListQueue", ARGS("s", guest), SD_BUS_RESULT("a(usstt)", items),
                                bus_method_list_queue, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("ListActions", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sssssasa(ssts))", actions),
                                bus_method_list_actions, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("DropQueued", ARGS("u", id), SD_BUS_NO_RESULT, bus_method_drop_queued,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Upgrade", ARGS("s", guest, "s", guest_path, "s", digest, "a{sv}", options),
                                SD_BUS_RESULT("s", version), bus_verb_upgrade, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("RegisterTopic", ARGS("s", topic), SD_BUS_NO_RESULT, topic, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("UnregisterTopic", ARGS("s", topic), SD_BUS_NO_RESULT, topic, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_reload, CALLABLE),
        SD_BUS_PROPERTY("Version", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("ConnectUri", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("LibvirtState", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("GuestCount", "u", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("ReadyCount", "u", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("JobCount", "u", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_SIGNAL_WITH_ARGS("GuestStateChanged",
                                ARGS("o", guest, "s", name, "s", old_state, "s", new_state), 0),
        SD_BUS_SIGNAL_WITH_ARGS("JobNew", ARGS("u", id, "o", job), 0),
        SD_BUS_SIGNAL_WITH_ARGS("JobQueued", ARGS("u", id, "o", job), 0),
        SD_BUS_SIGNAL_WITH_ARGS("JobRemoved", ARGS("u", id, "o", job, "s", result), 0),
        SD_BUS_SIGNAL_WITH_ARGS("MessageReceived",
                                ARGS("o", guest, "s", name, "s", topic, "ay", payload, "t", id), 0),
        SD_BUS_VTABLE_END,
};
