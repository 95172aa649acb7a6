/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* org.vmferry1.Guest at /org/vmferry1/guest/<uuid>: a guest's properties and news. Its methods are in
 * bus-verbs.c. */

#include <glib.h>

#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/names.h"

static int get_text(sd_bus *bus, const char *path, const char *iface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Guest *g = bus_find_guest_path(userdata, path);
        const GuestFacts *f = g ? guest_facts(g) : NULL;
        const char *text = NULL;

        if (!g)
                return bus_no_such_guest(userdata, error, path);
        if (str_eq(property, "Name"))
                text = guest_name(g);
        else if (str_eq(property, "Uuid"))
                text = guest_uuid(g);
        else if (str_eq(property, "State"))
                text = guest_state_to_string(guest_state(g));
        else if (str_eq(property, "StateReason"))
                text = guest_state_reason(g);
        else if (str_eq(property, "AgentVersion"))
                text = f->agent_version;
        else if (str_eq(property, "AgentBuild"))
                text = f->build;
        else if (str_eq(property, "BootId"))
                text = f->boot_id;
        else if (str_eq(property, "Hostname"))
                text = f->hostname;
        else if (str_eq(property, "Kernel"))
                text = f->kernel;
        else if (str_eq(property, "ControlSocket"))
                text = guest_domain(g)->control_socket;
        else if (str_eq(property, "DataSocket"))
                text = guest_domain(g)->data_socket;
        _cleanup_free_ char *fit = job_text(text);
        return sd_bus_message_append_basic(reply, 's', fit);
}

static int get_capabilities(sd_bus *bus, const char *path, const char *iface, const char *property,
                            sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Guest *g = bus_find_guest_path(userdata, path);

        if (!g)
                return bus_no_such_guest(userdata, error, path);
        return sd_bus_message_append_strv(reply, guest_facts(g)->capabilities);
}

static int get_os_release(sd_bus *bus, const char *path, const char *iface, const char *property,
                          sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Guest *g = bus_find_guest_path(userdata, path);
        int r;

        if (!g)
                return bus_no_such_guest(userdata, error, path);
        r = sd_bus_message_open_container(reply, 'a', "{ss}");
        for (char **p = guest_facts(g)->os_release; r >= 0 && p && p[0] && p[1]; p += 2)
                r = sd_bus_message_append(reply, "{ss}", p[0], p[1]);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int get_number(sd_bus *bus, const char *path, const char *iface, const char *property,
                      sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Guest *g = bus_find_guest_path(userdata, path);
        const GuestCounters *c = g ? guest_counters(g) : NULL;
        uint64_t n = 0;

        if (!g)
                return bus_no_such_guest(userdata, error, path);
        if (str_eq(property, "ReadySince"))
                n = guest_ready_since(g);
        else if (str_eq(property, "BytesSent"))
                n = c->n_bytes_sent;
        else if (str_eq(property, "BytesReceived"))
                n = c->n_bytes_received;
        else if (str_eq(property, "Sessions"))
                n = c->n_sessions;
        else if (str_eq(property, "Reconnects"))
                n = c->n_reconnects;
        else if (str_eq(property, "Resyncs"))
                n = c->n_resyncs;
        else if (str_eq(property, "FramesDropped"))
                n = c->n_frames_dropped;
        else if (str_eq(property, "RequestsRefused"))
                n = c->n_requests_refused;
        else if (str_eq(property, "Silences"))
                n = c->n_silences;
        else if (str_eq(property, "HeldBack"))
                n = c->n_held_back;
        else if (str_eq(property, "LastRoundTripUsec"))
                n = c->last_rtt_usec;
        return sd_bus_message_append_basic(reply, 't', &n);
}

static int get_queue_length(sd_bus *bus, const char *path, const char *iface, const char *property,
                            sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Guest *g = bus_find_guest_path(userdata, path);

        if (!g)
                return bus_no_such_guest(userdata, error, path);
        return sd_bus_message_append(reply, "u", queue_length(((Bus *)userdata)->queue, guest_uuid(g)));
}

#define CALLABLE SD_BUS_VTABLE_UNPRIVILEGED /* each asks polkit itself */
#define TOLD SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define ARGS(...) SD_BUS_ARGS(__VA_ARGS__)

const sd_bus_vtable bus_guest_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Ping", SD_BUS_NO_ARGS, SD_BUS_RESULT("t", rtt_usec), bus_verb_ping,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Send", ARGS("s", topic, "ay", payload, "a{sv}", options),
                                SD_BUS_RESULT("t", id), bus_verb_send, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Call", ARGS("s", topic, "ay", payload, "a{sv}", options),
                                SD_BUS_RESULT("ay", reply), bus_verb_call, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Run", ARGS("as", argv, "a{sv}", options),
                                SD_BUS_RESULT("i", exit_status, "ay", stdout, "ay", stderr), bus_verb_run,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Exec", ARGS("as", argv, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job, "h", stdin, "h", stdout, "h", stderr),
                                bus_verb_exec, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("PushFd", ARGS("h", fd, "s", guest_path, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job), bus_verb_push_fd, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("PullFd", ARGS("s", guest_path, "h", fd, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job), bus_verb_pull_fd, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Push", ARGS("s", host_path, "s", guest_path, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job), bus_verb_push, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Pull", ARGS("s", guest_path, "s", host_path, "a{sv}", options),
                                SD_BUS_RESULT("u", id, "o", job), bus_verb_pull, CALLABLE),
        SD_BUS_PROPERTY("Name", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("Uuid", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("State", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("StateReason", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("AgentVersion", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("AgentBuild", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("Capabilities", "as", get_capabilities, 0, TOLD),
        SD_BUS_PROPERTY("BootId", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("Hostname", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("Kernel", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("OsRelease", "a{ss}", get_os_release, 0, TOLD),
        SD_BUS_PROPERTY("ControlSocket", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("DataSocket", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("ReadySince", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("BytesSent", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("BytesReceived", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("QueueLength", "u", get_queue_length, 0, 0),
        SD_BUS_PROPERTY("Sessions", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("Reconnects", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("Resyncs", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("FramesDropped", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("RequestsRefused", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("Silences", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("HeldBack", "t", get_number, 0, 0),
        SD_BUS_PROPERTY("LastRoundTripUsec", "t", get_number, 0, 0),
        SD_BUS_SIGNAL_WITH_ARGS("MessageReceived", ARGS("s", topic, "ay", payload, "t", id), 0),
        SD_BUS_VTABLE_END,
};

/* Name and sockets are the domain's: nobody tells of their change but the state's next news. */
static void tell_domain(Bus *b, Guest *g, const char *path)
{
        const Domain *d = guest_domain(g);
        g_autofree char *now =
                g_strdup_printf("%s\n%s\n%s", d->name, d->control_socket ? d->control_socket : "",
                                d->data_socket ? d->data_socket : "");
        const char *before = g_hash_table_lookup(b->shown, guest_uuid(g));

        if (str_eq(now, before))
                return;
        if (before)
                (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_GUEST, "Name", "ControlSocket",
                                                     "DataSocket", NULL);
        g_hash_table_insert(b->shown, g_strdup(guest_uuid(g)), g_steal_pointer(&now));
}

static void on_added(void *userdata, Guest *g)
{
        Bus *b = userdata;
        _cleanup_free_ char *path = bus_guest_path(guest_uuid(g));

        tell_domain(b, g, path);
        (void)sd_bus_emit_object_added(b->bus, path);
        bus_manager_counts_changed(b);
}

static void end_waits(Bus *b, Guest *g, bool is_gone)
{
        for (GList *l = b->waits.head, *next; l; l = next) {
                BusWait *w = l->data;
                next = l->next;
                if (!str_eq(w->guest_uuid, guest_uuid(g)))
                        continue;
                if (is_gone)
                        bus_error_reply(w->call, WIRE_NO_SUCH_GUEST, "The domain was undefined meanwhile");
                else {
                        _cleanup_free_ char *path = bus_guest_path(guest_uuid(g));
                        (void)sd_bus_reply_method_return(w->call, "o", path);
                }
                bus_wait_free(w);
        }
}

static void on_removed(void *userdata, Guest *g)
{
        Bus *b = userdata;
        _cleanup_free_ char *path = bus_guest_path(guest_uuid(g));

        end_waits(b, g, true);
        g_hash_table_remove(b->shown, guest_uuid(g));
        bus_emit_removed(b, path, IFACE_GUEST, NULL);
        bus_manager_counts_changed(b);
}

static void on_state(void *userdata, Guest *g, GuestState old)
{
        Bus *b = userdata;
        _cleanup_free_ char *path = bus_guest_path(guest_uuid(g));

        tell_domain(b, g, path);
        if (old == guest_state(g)) {
                (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_GUEST, "StateReason", NULL);
                return;
        }
        (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_GUEST, "State", "StateReason", "ReadySince",
                                             NULL);
        (void)sd_bus_emit_signal(b->bus, BUS_PATH, IFACE_MANAGER, "GuestStateChanged", "osss", path,
                                 guest_name(g), guest_state_to_string(old),
                                 guest_state_to_string(guest_state(g)));
        if (guest_state(g) == GUEST_READY)
                end_waits(b, g, false);
        bus_manager_counts_changed(b);
}

static void on_facts(void *userdata, Guest *g)
{
        Bus *b = userdata;
        _cleanup_free_ char *path = bus_guest_path(guest_uuid(g));

        (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_GUEST, "AgentVersion", "AgentBuild",
                                             "Capabilities", "BootId", "Hostname", "Kernel", "OsRelease",
                                             NULL);
}

static void on_libvirt_state(void *userdata, LibvirtState s)
{
        Bus *b = userdata;
        (void)sd_bus_emit_properties_changed(b->bus, BUS_PATH, IFACE_MANAGER, "LibvirtState", NULL);
}

const HostListener bus_guest_listener = {
        .guest_added = on_added,
        .guest_removed = on_removed,
        .guest_state = on_state,
        .guest_facts = on_facts,
        .libvirt_state = on_libvirt_state,
};
