/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * jobs, cancel.
 */

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include "cli/client.h"
#include "cli/table.h"

DEFINE_CLEANUP(Table *, table_free);

static int by_id(const void *a, const void *b)
{
        uint64_t x = json_u64(*(json_object *const *)a, "Id"), y = json_u64(*(json_object *const *)b, "Id");

        return x < y ? -1 : x > y;
}

static bool is_over(json_object *j)
{
        const char *s = json_str(j, "State");

        return str_eq(s, "done") || str_eq(s, "failed") || str_eq(s, "cancelled");
}

static void add_row(Table *t, json_object *j)
{
        uint64_t total = json_u64(j, "BytesTotal"), done = json_u64(j, "BytesDone");
        char buf[64], amount[32];

        snprintf(buf, sizeof(buf), "%" PRIu64, json_u64(j, "Id"));
        table_add(t, buf);
        table_add(t, json_str(j, "GuestName"));
        table_add(t, json_str(j, "Kind"));
        table_add(t, json_str(j, "State"));
        if (total > 0 && total != UINT64_MAX)
                snprintf(buf, sizeof(buf), "%.0f%% of %s", 100.0 * (double)done / (double)total,
                         format_bytes(total, amount, sizeof(amount)));
        else if (done > 0)
                snprintf(buf, sizeof(buf), "%s", format_bytes(done, amount, sizeof(amount)));
        else
                buf[0] = 0;
        table_add(t, buf);
        table_add(t, json_str(j, "Source"));
        table_add(t, json_str(j, "Destination"));
}

int command_jobs(Cli *c, int argc, char **argv)
{
        static const char *const headings[] = { "ID",       "GUEST",  "KIND",        "STATE",
                                                "PROGRESS", "SOURCE", "DESTINATION", NULL };
        static const struct option options[] = { { "all", no_argument, NULL, 'a' }, {} };
        _cleanup_json_ json_object *objects = NULL, *list = json_object_new_array();
        _cleanup_(table_freep) Table *table = NULL;
        bool all = false;
        int o;

        while ((o = getopt_long(argc, argv, "a", options, NULL)) >= 0) {
                if (o != 'a')
                        return EXIT_USAGE;
                all = true;
        }
        if (argc > optind)
                return cli_usage("jobs", "takes no arguments");
        if (client_objects(c, &objects) < 0)
                return EXIT_FAILED;
        json_object_object_foreach(objects, path, interfaces)
        {
                json_object *j, *p;

                (void)path;
                if (!json_object_object_get_ex(interfaces, IFACE_JOB, &j) || (!all && is_over(j)))
                        continue;
                if (json_object_object_get_ex(interfaces, IFACE_PROCESS, &p))
                        json_object_object_add(j, "Process", json_object_get(p));
                json_object_array_add(list, json_object_get(j));
        }
        json_object_array_sort(list, by_id);
        if (c->json) {
                for (size_t i = 0; i < json_object_array_length(list); i++)
                        cli_print_json(json_object_get(json_object_array_get_idx(list, i)));
                return EXIT_DONE;
        }
        table = table_new(headings);
        for (size_t i = 0; i < json_object_array_length(list); i++)
                add_row(table, json_object_array_get_idx(list, i));
        table_print(table);
        return EXIT_DONE;
}

int command_cancel(Cli *c, int argc, char **argv)
{
        _cleanup_free_ char *path = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        sd_bus_message *m;
        char *end;
        unsigned long id;
        int r;

        if (argc != 2)
                return cli_usage("cancel", "takes the id of a job");
        errno = 0;
        id = strtoul(argv[1], &end, 10);
        if (errno || *end || end == argv[1] || id > UINT32_MAX)
                return cli_usage("cancel", "'%s' is not the id of a job", argv[1]);
        if (asprintf(&path, "/org/vmferry1/job/%lu", id) < 0)
                return cli_fail("no memory");
        m = client_call_new(c, path, IFACE_JOB, "Cancel");
        if (!m)
                return EXIT_FAILED;
        r = client_call(c, m, UINT64_MAX, &e, NULL);
        if (r >= 0) {
                if (c->json) {
                        json_object *j = json_object_new_object();

                        json_object_object_add(j, "id", json_object_new_int64((int64_t)id));
                        cli_print_json(j);
                }
                return EXIT_DONE;
        }
        if (sd_bus_error_has_name(&e, SD_BUS_ERROR_UNKNOWN_OBJECT))
                return cli_fail("there is no job %lu", id);
        return client_print_error(&e, r);
}
