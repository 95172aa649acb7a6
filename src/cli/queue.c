/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * queue.
 */

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "cli/client.h"
#include "cli/table.h"

DEFINE_CLEANUP(Table *, table_free);

static const char *format_time(uint64_t usec, char *buf, size_t n)
{
        time_t seconds = (time_t)(usec / USEC_PER_SEC);
        struct tm tm;

        if (usec == 0 || !localtime_r(&seconds, &tm) || strftime(buf, n, "%F %T", &tm) == 0)
                (void)snprintf(buf, n, "never");
        return buf;
}

/* What waits for the guest, at its first item. */
static int list(Cli *c, const char *guest, sd_bus_message **ret)
{
        sd_bus_message *m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "ListQueue");
        int r = m ? client_append(m, "s", guest) : -ENOTCONN;

        if (r >= 0)
                r = client_call(c, m, UINT64_MAX, NULL, ret);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(*ret, 'a', "(usstt)");
        if (r < 0)
                cli_fail("the answer cannot be read: %s", strerror(-r));
        return r;
}

/* An id is of any guest: who mistypes it does not mean another one's. */
static int drop(Cli *c, const char *guest, const char *text)
{
        _cleanup_message_ sd_bus_message *items = NULL;
        bool is_there = false;
        sd_bus_message *m;
        unsigned long id;
        uint32_t other;
        char *end;

        errno = 0;
        id = strtoul(text, &end, 10);
        if (errno || *end || end == text || id > UINT32_MAX)
                return cli_usage("queue", "'%s' is not the id of an item", text);
        if (list(c, guest, &items) < 0)
                return EXIT_FAILED;
        while (!is_there && sd_bus_message_read(items, "(usstt)", &other, NULL, NULL, NULL, NULL) > 0)
                is_there = other == id;
        if (!is_there)
                return cli_fail("nothing with the id %lu waits for %s", id, guest);
        m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "DropQueued");
        if (!m)
                return EXIT_FAILED;
        (void)sd_bus_message_append(m, "u", (uint32_t)id);
        return client_call(c, m, UINT64_MAX, NULL, NULL) < 0 ? EXIT_FAILED : EXIT_DONE;
}

int command_queue(Cli *c, int argc, char **argv)
{
        static const char *const headings[] = { "ID", "KIND", "QUEUED", "EXPIRES", "WHAT", NULL };
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_(table_freep) Table *table = NULL;
        const char *kind, *description;
        uint64_t created_at, expires_at;
        char buf[64];
        uint32_t id;
        int r;

        if (argc == 4 && str_eq(argv[2], "drop"))
                return drop(c, argv[1], argv[3]);
        if (argc != 2)
                return cli_usage("queue", "takes a guest, and drop with an id to take an item out");
        r = list(c, argv[1], &reply);
        if (r < 0)
                return EXIT_FAILED;
        table = c->json ? NULL : table_new(headings);
        while ((r = sd_bus_message_read(reply, "(usstt)", &id, &kind, &description, &created_at,
                                        &expires_at)) > 0) {
                if (c->json) {
                        json_object *o = json_object_new_object();

                        json_object_object_add(o, "id", json_object_new_int64(id));
                        json_object_object_add(o, "kind", json_object_new_string(kind));
                        json_object_object_add(o, "description", json_object_new_string(description));
                        json_object_object_add(o, "queued_at", json_object_new_uint64(created_at));
                        json_object_object_add(o, "expires_at", json_object_new_uint64(expires_at));
                        cli_print_json(o);
                        continue;
                }
                (void)snprintf(buf, sizeof(buf), "%" PRIu32, id);
                table_add(table, buf);
                table_add(table, kind);
                table_add(table, format_time(created_at, buf, sizeof(buf)));
                table_add(table, format_time(expires_at, buf, sizeof(buf)));
                table_add(table, description);
        }
        if (r < 0)
                return cli_fail("the answer cannot be read: %s", strerror(-r));
        if (table)
                table_print(table);
        return EXIT_DONE;
}
