/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/units.h"

#include <glib.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#define SYSTEMD_NAME "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"
#define SYSTEMD_IFACE "org.freedesktop.systemd1.Manager"
#define UNIT_PREFIX "vmferry-guest@"
#define UNIT_SUFFIX ".target"
#define UNIT_NAME_MAX 255u
#define LEFTOVER_USEC (30 * USEC_PER_SEC)

struct Units {
        sd_bus *bus;
        Host *host;
        GHashTable *leftover; /* unit names that were active when we came */
        sd_bus_slot *list;
        LoopTimer *timer;
};

char *units_target(const char *guest)
{
        GString *s = g_string_new(UNIT_PREFIX);

        for (const char *p = guest; *p; p++) {
                if (*p == '/')
                        g_string_append_c(s, '-');
                else if ((p == guest && *p == '.') || !(g_ascii_isalnum(*p) || strchr(":_.", *p)))
                        g_string_append_printf(s, "\\x%02x", (unsigned char)*p);
                else
                        g_string_append_c(s, *p);
        }
        g_string_append(s, UNIT_SUFFIX);
        return g_string_free(s, s->len > UNIT_NAME_MAX);
}

static bool is_absent(const sd_bus_error *e)
{
        return sd_bus_error_has_name(e, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
               sd_bus_error_has_name(e, SD_BUS_ERROR_NAME_HAS_NO_OWNER) ||
               sd_bus_error_has_name(e, "org.freedesktop.systemd1.NoSuchUnit");
}

static int on_done(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const sd_bus_error *e = sd_bus_message_get_error(reply);

        if (e)
                log_write(is_absent(e) ? LOG_DEBUG : LOG_WARNING, "systemd refused a guest's target: %s",
                          e->message ? e->message : e->name);
        return 1;
}

static void call(Units *u, const char *method, const char *unit)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        if ((r = sd_bus_message_new_method_call(u->bus, &m, SYSTEMD_NAME, SYSTEMD_PATH, SYSTEMD_IFACE,
                                                method)) < 0 ||
            (r = sd_bus_message_append(m, "ss", unit, "replace")) < 0 ||
            (r = sd_bus_message_set_auto_start(m, false)) < 0 ||
            (r = sd_bus_call_async(u->bus, NULL, m, on_done, NULL, 0)) < 0)
                log_warning("Cannot ask systemd for %s: %s", unit, g_strerror(-r));
}

static void on_guest_state(void *userdata, Guest *g, GuestState old)
{
        Units *u = userdata;
        bool is_ready = guest_state(g) == GUEST_READY;

        if (is_ready == (old == GUEST_READY))
                return;
        g_autofree char *unit = units_target(guest_name(g));
        if (!unit)
                return;
        g_hash_table_remove(u->leftover, unit);
        call(u, is_ready ? "StartUnit" : "StopUnit", unit);
}

static void on_guest_removed(void *userdata, Guest *g)
{
        if (guest_state(g) != GUEST_READY)
                return;
        g_autofree char *unit = units_target(guest_name(g));
        if (unit)
                call(userdata, "StopUnit", unit);
}

static const HostListener listener = { .guest_state = on_guest_state, .guest_removed = on_guest_removed };

static void on_leftover(void *userdata)
{
        Units *u = userdata;
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, host_guests(u->host));
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                g_autofree char *unit = guest_state(p) == GUEST_READY ? units_target(guest_name(p)) : NULL;
                if (unit)
                        g_hash_table_remove(u->leftover, unit);
        }
        g_hash_table_iter_init(&i, u->leftover);
        while (g_hash_table_iter_next(&i, &p, NULL))
                call(u, "StopUnit", p);
        g_hash_table_remove_all(u->leftover);
}

static int on_listed(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        Units *u = userdata;
        const char *name;

        u->list = sd_bus_slot_unref(u->list);
        if (sd_bus_message_is_method_error(reply, NULL) ||
            sd_bus_message_enter_container(reply, 'a', "(ssssssouso)") <= 0)
                return 1;
        while (sd_bus_message_read(reply, "(ssssssouso)", &name, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                                   NULL, NULL) > 0)
                g_hash_table_add(u->leftover, g_strdup(name));
        if (g_hash_table_size(u->leftover) > 0)
                loop_timer_set(u->timer, fs_now_usec() + LEFTOVER_USEC, USEC_PER_SEC);
        return 1;
}

Units *units_new(sd_bus *bus, Host *h)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        Units *u = g_new0(Units, 1);

        u->bus = sd_bus_ref(bus);
        u->host = h;
        u->leftover = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        u->timer = loop_timer_new(loop_default(), on_leftover, u);
        host_listen(h, &listener, u);
        if (u->timer &&
            sd_bus_message_new_method_call(bus, &m, SYSTEMD_NAME, SYSTEMD_PATH, SYSTEMD_IFACE,
                                           "ListUnitsByPatterns") >= 0 &&
            sd_bus_message_append(m, "asas", 1, "active", 1, UNIT_PREFIX "*" UNIT_SUFFIX) >= 0 &&
            sd_bus_message_set_auto_start(m, false) >= 0)
                (void)sd_bus_call_async(bus, &u->list, m, on_listed, u, 0);
        return u;
}

Units *units_free(Units *u)
{
        if (!u)
                return NULL;
        loop_timer_free(u->timer);
        sd_bus_slot_unref(u->list);
        g_hash_table_unref(u->leftover);
        sd_bus_unref(u->bus);
        g_free(u);
        return NULL;
}
