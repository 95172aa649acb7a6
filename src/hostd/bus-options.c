/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/bus-options.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>

#include "base/base.h"
#include "hostd/bus-error.h"
#include "proto/limits.h"
#include "proto/name.h"

#define OPTIONS_MAX 64 /* keys of one table: seen ones are bits */

static int read_environment(sd_bus_message *m, const char *key, char ***ret, sd_bus_error *error)
{
        g_autoptr(GPtrArray) env = g_ptr_array_new_with_free_func(g_free);
        const char *name, *value;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{ss}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(m, "{ss}", &name, &value)) > 0) {
                if (!name_is_variable(name))
                        return bus_error_set(error, WIRE_INVALID_ARGS,
                                             "Option \"%s\": \"%s\" is no name of a variable", key, name);
                if (env->len >= ARGV_MAX)
                        return bus_error_set(error, WIRE_TOO_LARGE, "Option \"%s\" may have %u elements",
                                             key, ARGV_MAX);
                g_ptr_array_add(env, g_strdup_printf("%s=%s", name, value));
        }
        if (r < 0 || (r = sd_bus_message_exit_container(m)) < 0)
                return r;
        g_ptr_array_add(env, NULL);
        *ret = (char **)g_ptr_array_free(g_steal_pointer(&env), FALSE);
        return 0;
}

static int read_value(sd_bus_message *m, const BusOption *o, void *at, sd_bus_error *error)
{
        static const uint8_t nothing[1];
        const void *bytes;
        size_t n;
        int r, flag;

        if (str_eq(o->type, "b")) {
                r = sd_bus_message_read_basic(m, 'b', &flag);
                if (r >= 0)
                        *(bool *)at = flag;
                return r;
        }
        if (str_eq(o->type, "ay")) {
                r = sd_bus_message_read_array(m, 'y', &bytes, &n);
                if (r >= 0)
                        *(BusBytes *)at = (BusBytes){ n > 0 ? bytes : nothing, n };
                return r;
        }
        if (str_eq(o->type, "a{ss}"))
                return read_environment(m, o->key, at, error);
        return sd_bus_message_read_basic(m, o->type[0], at);
}

int bus_options_read(sd_bus_message *m, const BusOption *table, void *ret, sd_bus_error *error)
{
        const char *key, *contents;
        uint64_t seen = 0;
        char type;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                const BusOption *o = table;
                size_t i = 0;

                if ((r = sd_bus_message_read_basic(m, 's', &key)) < 0)
                        return r;
                while (o && o->key && !str_eq(o->key, key))
                        o++, i++;
                if (!o || !o->key)
                        return bus_error_set(error, WIRE_INVALID_ARGS, "There is no option \"%s\" of %s",
                                             key, sd_bus_message_get_member(m));
                if (i >= OPTIONS_MAX || seen & UINT64_C(1) << i)
                        return bus_error_set(error, WIRE_INVALID_ARGS, "Option \"%s\" is given twice", key);
                seen |= UINT64_C(1) << i;
                if ((r = sd_bus_message_peek_type(m, &type, &contents)) < 0)
                        return r;
                if (type != 'v' || !str_eq(contents, o->type))
                        return bus_error_set(error, WIRE_INVALID_ARGS,
                                             "Option \"%s\" must have the type \"%s\", not \"%s\"", key,
                                             o->type, contents ? contents : "");
                if ((r = sd_bus_message_enter_container(m, 'v', o->type)) < 0 ||
                    (r = read_value(m, o, (char *)ret + o->offset, error)) < 0 ||
                    (r = sd_bus_message_exit_container(m)) < 0 || (r = sd_bus_message_exit_container(m)) < 0)
                        return r;
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}
