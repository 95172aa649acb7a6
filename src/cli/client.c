/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/client.h"

#include <inttypes.h>
#include <stdio.h>

#include "proto/name.h"

sd_bus *client_bus(Cli *c)
{
        int r;

        if (c->bus)
                return c->bus;
        if (c->host)
                r = sd_bus_open_system_remote(&c->bus, c->host);
        else if (c->user)
                r = sd_bus_open_user(&c->bus);
        else
                r = sd_bus_open_system(&c->bus);
        if (r < 0) {
                cli_fail("cannot connect to the %s bus%s%s: %s%s", c->user ? "session" : "system",
                         c->host ? " of " : "", c->host ? c->host : "", strerror(-r),
                         !c->host && c->user ? " (is DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR set?)"
                                             : "");
                c->bus = NULL;
                return NULL;
        }
        (void)sd_bus_set_allow_interactive_authorization(c->bus, true);
        return c->bus;
}

sd_bus_message *client_call_new(Cli *c, const char *path, const char *interface, const char *method)
{
        sd_bus_message *m = NULL;
        int r;

        if (!client_bus(c))
                return NULL;
        r = sd_bus_message_new_method_call(c->bus, &m, BUS_NAME, path, interface, method);
        if (r < 0) {
                cli_fail("cannot make a call to %s: %s", method, strerror(-r));
                return NULL;
        }
        (void)sd_bus_message_set_allow_interactive_authorization(m, true);
        sd_bus_message_unref(c->call);
        return c->call = m;
}

int client_append(sd_bus_message *m, const char *types, ...)
{
        va_list ap;
        int r;

        va_start(ap, types);
        r = sd_bus_message_appendv(m, types, ap);
        va_end(ap);
        if (r < 0)
                cli_fail("this cannot be given over D-Bus: it is not valid UTF-8");
        return r;
}

const char *client_error_name(const sd_bus_error *e)
{
        if (!e->name || !str_has_prefix(e->name, BUS_ERROR_PREFIX))
                return NULL;
        return e->name + strlen(BUS_ERROR_PREFIX);
}

int client_print_error(const sd_bus_error *e, int r)
{
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_SERVICE_UNKNOWN))
                return cli_fail(
                        "vmferry-hostd is not running and cannot be started on this bus: "
                        "see systemctl status vmferry-hostd.service (for your own VMs: vmferry --user)");
        if (sd_bus_error_is_set(e))
                return cli_fail("%s", e->message && e->message[0] ? e->message : e->name);
        return cli_fail("%s", r == -ECONNRESET || r == -ENOTCONN ? "the connection to the bus was lost"
                                                                 : strerror(-r));
}

int client_call(Cli *c, sd_bus_message *m, uint64_t timeout_usec, sd_bus_error *ret_error,
                sd_bus_message **ret_reply)
{
        _cleanup_bus_error_ sd_bus_error own = SD_BUS_ERROR_NULL;
        sd_bus_error *e = ret_error ? ret_error : &own;
        int r;

        r = sd_bus_call(c->bus, m, timeout_usec, e, ret_reply);
        c->call = sd_bus_message_unref(c->call);
        if (r < 0 && !ret_error)
                (void)client_print_error(e, r);
        return r < 0 ? r : 0;
}

static int on_queued(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        (void)sd_bus_message_read(m, "u", (uint32_t *)userdata);
        return 0;
}

int client_call_queued(Cli *c, sd_bus_message *m, sd_bus_error *ret_error, uint32_t *ret_id)
{
        _cleanup_(sd_bus_slot_unrefp) sd_bus_slot *slot = NULL;
        uint32_t id = 0;
        int r = sd_bus_match_signal(c->bus, &slot, BUS_NAME, BUS_PATH, IFACE_MANAGER, "JobQueued", on_queued,
                                    &id);

        if (r < 0) {
                cli_fail("cannot listen on the bus: %s", strerror(-r));
                return r;
        }
        r = client_call(c, m, UINT64_MAX, ret_error, NULL);
        if (r < 0)
                return r;
        while (id == 0 && sd_bus_process(c->bus, NULL) > 0)
                ;
        *ret_id = id;
        return 0;
}

void client_print_id(const Cli *c, uint64_t id)
{
        if (c->json) {
                json_object *j = json_object_new_object();

                json_object_object_add(j, "id", json_object_new_uint64(id));
                cli_print_json(j);
        } else
                printf("%" PRIu64 "\n", id);
}

int client_guest_path(Cli *c, const char *guest, char **ret)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        sd_bus_message *m;
        const char *path;
        int r;

        m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "GetGuest");
        if (!m)
                return -ENOTCONN;
        r = sd_bus_message_append(m, "s", guest);
        if (r < 0) {
                cli_fail("no guest can have this name: it is not valid UTF-8");
                return r;
        }
        r = client_call(c, m, UINT64_MAX, NULL, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "o", &path);
        if (r < 0) {
                cli_fail("vmferry-hostd answered GetGuest with something else: %s", strerror(-r));
                return r;
        }
        *ret = strdup(path);
        return *ret ? 0 : -ENOMEM;
}

static int read_bytes(sd_bus_message *m, json_object **ret)
{
        const void *data;
        size_t n;
        int r;

        r = sd_bus_message_read_array(m, 'y', &data, &n);
        if (r < 0)
                return r;
        if (name_is_utf8(data ? data : "", n)) {
                *ret = json_object_new_string_len(data ? data : "", (int)n);
                return *ret ? 0 : -ENOMEM;
        }
        *ret = json_object_new_array();
        for (size_t i = 0; *ret && i < n; i++)
                json_object_array_add(*ret, json_object_new_int(((const uint8_t *)data)[i]));
        return *ret ? 0 : -ENOMEM;
}

static int read_array(sd_bus_message *m, const char *contents, json_object **ret)
{
        _cleanup_json_ json_object *array = NULL;
        bool dict = contents[0] == '{';
        int r;

        array = dict ? json_object_new_object() : json_object_new_array();
        if (!array)
                return -ENOMEM;
        r = sd_bus_message_enter_container(m, 'a', contents);
        while (r >= 0) {
                json_object *value = NULL;
                const char *key = NULL;

                r = sd_bus_message_at_end(m, false);
                if (r != 0)
                        break;
                if (dict) {
                        r = sd_bus_message_enter_container(m, 'e', NULL);
                        if (r >= 0)
                                r = sd_bus_message_read_basic(m, contents[1], &key);
                }
                if (r >= 0)
                        r = client_read_json(m, &value);
                if (r >= 0 && dict)
                        r = sd_bus_message_exit_container(m);
                if (r < 0) {
                        json_object_put(value);
                        break;
                }
                if (dict)
                        json_object_object_add(array, key, value);
                else
                        json_object_array_add(array, value);
        }
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = TAKE(array);
        return 0;
}

static int read_struct(sd_bus_message *m, char type, const char *contents, json_object **ret)
{
        _cleanup_json_ json_object *array = NULL;
        json_object *value = NULL;
        int r;

        r = sd_bus_message_enter_container(m, type, contents);
        if (r < 0)
                return r;
        if (type == 'v') {
                r = client_read_json(m, &value);
                if (r < 0)
                        return r;
                array = value;
        } else {
                array = json_object_new_array();
                while ((r = sd_bus_message_at_end(m, false)) == 0) {
                        r = client_read_json(m, &value);
                        if (r < 0)
                                return r;
                        json_object_array_add(array, value);
                }
                if (r < 0)
                        return r;
        }
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = TAKE(array);
        return 0;
}

int client_read_json(sd_bus_message *m, json_object **ret)
{
        union {
                uint8_t y;
                int b;
                int16_t n;
                uint16_t q;
                int32_t i;
                uint32_t u;
                int64_t x;
                uint64_t t;
                double d;
                const char *s;
        } v;
        const char *contents;
        char type;
        int r;

        r = sd_bus_message_peek_type(m, &type, &contents);
        if (r <= 0)
                return r < 0 ? r : -ENXIO;
        if (type == 'a')
                return str_eq(contents, "y") ? read_bytes(m, ret) : read_array(m, contents, ret);
        if (type == 'v' || type == 'r' || type == '(')
                return read_struct(m, type, contents, ret);
        r = sd_bus_message_read_basic(m, type, &v);
        if (r < 0)
                return r;
        switch (type) {
        case 'y':
                *ret = json_object_new_int(v.y);
                break;
        case 'b':
                *ret = json_object_new_boolean(v.b);
                break;
        case 'n':
                *ret = json_object_new_int(v.n);
                break;
        case 'q':
                *ret = json_object_new_int(v.q);
                break;
        case 'i':
                *ret = json_object_new_int(v.i);
                break;
        case 'u':
                *ret = json_object_new_int64(v.u);
                break;
        case 'x':
                *ret = json_object_new_int64(v.x);
                break;
        case 't':
                *ret = json_object_new_uint64(v.t);
                break;
        case 'd':
                *ret = json_object_new_double(v.d);
                break;
        case 's':
        case 'o':
        case 'g':
                *ret = json_object_new_string(v.s);
                break;
        default:
                return -EOPNOTSUPP;
        }
        return *ret ? 0 : -ENOMEM;
}

int client_properties(Cli *c, const char *path, const char *interface, bool quiet, json_object **ret)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        sd_bus_message *m;
        int r;

        m = client_call_new(c, path, "org.freedesktop.DBus.Properties", "GetAll");
        if (!m)
                return -ENOTCONN;
        (void)sd_bus_message_append(m, "s", interface);
        r = client_call(c, m, 0, quiet ? &e : NULL, &reply);
        if (r < 0)
                return r;
        return client_read_json(reply, ret);
}

int client_objects(Cli *c, json_object **ret)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        sd_bus_message *m;
        int r;

        m = client_call_new(c, BUS_PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects");
        if (!m)
                return -ENOTCONN;
        r = client_call(c, m, 0, NULL, &reply);
        if (r < 0)
                return r;
        r = client_read_json(reply, ret);
        if (r < 0)
                cli_fail("vmferry-hostd's objects cannot be read: %s", strerror(-r));
        return r;
}

const char *json_str(json_object *o, const char *key)
{
        json_object *v;

        if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
                return "";
        return json_object_get_string(v);
}

uint64_t json_u64(json_object *o, const char *key)
{
        json_object *v;

        return json_object_object_get_ex(o, key, &v) ? json_object_get_uint64(v) : 0;
}
