/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * actions. Checking needs no hostd: the files are read here, by the same code. If one runs, it is asked for
 * its guests, for a pattern that matches none of them is often a mistake; it is not started for that.
 */

#include <stdio.h>
#include <time.h>

#include "base/base.h"
#include "base/ini.h"
#include "cli/client.h"
#include "cli/table.h"
#include "hostd/action.h"

DEFINE_CLEANUP(Table *, table_free);

static void on_complaint(void *userdata, const char *file, unsigned line, const char *why)
{
        (void)fprintf(stderr, "%s:%u: %s\n", file, line, why);
}

/* ListGuests' reply, at its array; NULL where nobody answers. */
static sd_bus_message *ask_guests(const Cli *c)
{
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;

        if ((c->host   ? sd_bus_open_system_remote(&bus, c->host)
             : c->user ? sd_bus_open_user(&bus)
                       : sd_bus_open_system(&bus)) < 0 ||
            sd_bus_message_new_method_call(bus, &m, BUS_NAME, BUS_PATH, IFACE_MANAGER, "ListGuests") < 0 ||
            sd_bus_message_set_auto_start(m, false) < 0 || sd_bus_call(bus, m, 0, NULL, &reply) < 0)
                return NULL;
        return TAKE(reply);
}

static bool matches_any(const char *pattern, sd_bus_message *guests)
{
        const char *name, *uuid;
        bool found = false;

        if (sd_bus_message_rewind(guests, true) < 0 ||
            sd_bus_message_enter_container(guests, 'a', "(ssso)") < 0)
                return true;
        while (!found && sd_bus_message_read(guests, "(ssso)", &name, &uuid, NULL, NULL) > 0)
                found = action_pattern_matches(pattern, name, uuid);
        return found;
}

/* Whether it is good. */
static bool check_file(const char *file, sd_bus_message *guests)
{
        Action *a = NULL;
        int r = action_load(file, on_complaint, NULL, &a);

        if (r < 0 && r != -EINVAL)
                (void)fprintf(stderr, "%s: %s\n", file, strerror(-r));
        for (char **pattern = a && guests ? a->guests : NULL; pattern && *pattern; pattern++)
                if (!matches_any(*pattern, guests))
                        (void)fprintf(stderr,
                                      "%s:%u: note: Guests=: '%s' matches no domain of this host yet\n",
                                      file, a->guests_line, *pattern);
        (void)action_free(a);
        return r >= 0;
}

static void on_unreadable(void *userdata, const char *dir, int r)
{
        bool *good = userdata;

        *good = false;
        (void)fprintf(stderr, "%s: %s\n", dir, strerror(-r));
}

static int check(Cli *c, char **names)
{
        _cleanup_message_ sd_bus_message *guests = ask_guests(c);
        char **dirs, **files = NULL;
        bool good = true;
        int r;

        for (; *names; names++) {
                good = check_file(*names, guests) && good;
                if (!names[1])
                        return good ? EXIT_DONE : EXIT_FAILED;
        }
        dirs = action_directories(c->user);
        r = action_list_files(dirs, on_unreadable, &good, &files);
        if (r < 0)
                good = cli_fail("the actions cannot be listed: %s", strerror(-r)) == EXIT_DONE;
        for (char **f = files; f && *f; f++)
                good = check_file(*f, guests) && good;
        ini_files_free(files);
        for (char **d = dirs; *d; d++)
                free(*d);
        free(dirs);
        return good ? EXIT_DONE : EXIT_FAILED;
}

static void add_row(Table *t, const char *name, const char *on, const char *once, const char *guest,
                    const char *result, const char *reason, const char *file)
{
        const char *const cells[] = { name, on, once, guest, result, reason, file };

        for (size_t i = 0; i < ELEMENTSOF(cells); i++)
                table_add(t, cells[i]);
}

static int read_action(Cli *c, Table *t, sd_bus_message *m)
{
        const char *name, *file, *description, *on, *once, *guest, *result, *reason;
        json_object *o, *list = json_object_new_array(), *guests;
        size_t n = 0;
        uint64_t at;
        int r;

        r = sd_bus_message_read(m, "sssss", &name, &file, &description, &on, &once);
        if (r < 0 || (r = client_read_json(m, &guests)) < 0 ||
            (r = sd_bus_message_enter_container(m, 'a', "(ssts)")) < 0) {
                json_object_put(list);
                return r;
        }
        while ((r = sd_bus_message_read(m, "(ssts)", &guest, &result, &at, &reason)) > 0) {
                if (t)
                        add_row(t, name, on, once, guest, result, reason, file);
                n++;
                o = json_object_new_object();
                json_object_object_add(o, "guest", json_object_new_string(guest));
                json_object_object_add(o, "result", json_object_new_string(result));
                json_object_object_add(o, "at", json_object_new_uint64(at));
                json_object_object_add(o, "reason", json_object_new_string(reason));
                json_object_array_add(list, o);
        }
        if (t && n == 0)
                add_row(t, name, on, once, "", "", "", file);
        if (t || r < 0) {
                json_object_put(guests);
                json_object_put(list);
        } else {
                o = json_object_new_object();
                json_object_object_add(o, "name", json_object_new_string(name));
                json_object_object_add(o, "file", json_object_new_string(file));
                json_object_object_add(o, "description", json_object_new_string(description));
                json_object_object_add(o, "on", json_object_new_string(on));
                json_object_object_add(o, "once", json_object_new_string(once));
                json_object_object_add(o, "guests", guests);
                json_object_object_add(o, "results", list);
                cli_print_json(o);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

int command_actions(Cli *c, int argc, char **argv)
{
        static const char *const headings[] = { "ACTION", "ON",     "ONCE", "GUEST",
                                                "RESULT", "REASON", "FILE", NULL };
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_(table_freep) Table *table = NULL;
        sd_bus_message *m;
        int r;

        if (argc >= 2 && str_eq(argv[1], "check"))
                return check(c, argv + 2);
        if (argc != 1)
                return cli_usage("actions", "takes nothing, or check and perhaps files");
        m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "ListActions");
        if (!m)
                return EXIT_FAILED;
        r = client_call(c, m, UINT64_MAX, NULL, &reply);
        if (r < 0)
                return EXIT_FAILED;
        table = c->json ? NULL : table_new(headings);
        r = sd_bus_message_enter_container(reply, 'a', "(sssssasa(ssts))");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'r', "sssssasa(ssts)")) > 0) {
                r = read_action(c, table, reply);
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
        }
        if (r < 0)
                return cli_fail("the answer cannot be read: %s", strerror(-r));
        if (table)
                table_print(table);
        return EXIT_DONE;
}
