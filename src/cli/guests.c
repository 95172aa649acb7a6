/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * list, status, wait, ping.
 */

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

#include "cli/client.h"
#include "cli/table.h"

DEFINE_CLEANUP(Table *, table_free);

static uint64_t realtime_usec(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static const char *since(uint64_t t, char *buf, size_t size)
{
        uint64_t now = realtime_usec();

        return t == 0 ? "" : format_span(now > t ? now - t : 0, buf, size);
}

static int by_name(const void *a, const void *b)
{
        return strcmp(json_str(*(json_object *const *)a, "Name"),
                      json_str(*(json_object *const *)b, "Name"));
}

/* A guest's daemon older than the host's is worth an upgrade. */
static bool is_outdated(json_object *guest, json_object *manager)
{
        const char *agent = json_str(guest, "AgentVersion"), *hostd = json_str(manager, "Version");

        return agent[0] && hostd[0] && strverscmp(agent, hostd) < 0;
}

static void agent_cell(Table *t, json_object *guest, json_object *manager)
{
        const char *agent = json_str(guest, "AgentVersion");
        _cleanup_free_ char *text = NULL;

        if (is_outdated(guest, manager) && asprintf(&text, "%s (outdated)", agent) < 0)
                text = NULL;
        table_add(t, text ? text : agent);
}

int command_list(Cli *c, int argc, char **argv)
{
        static const char *const headings[] = {
                "NAME", "STATE", "AGENT", "UPTIME", "HOSTNAME", "UUID", NULL
        };
        _cleanup_json_ json_object *objects = NULL, *manager = NULL, *guests = json_object_new_array();
        _cleanup_(table_freep) Table *table = NULL;
        char buf[32];

        if (argc > 1)
                return cli_usage("list", "takes no arguments");
        if (client_objects(c, &objects) < 0)
                return EXIT_FAILED;
        json_object_object_foreach(objects, path, interfaces)
        {
                json_object *g;

                (void)path;
                if (json_object_object_get_ex(interfaces, IFACE_GUEST, &g))
                        json_object_array_add(guests, json_object_get(g));
        }
        json_object_array_sort(guests, by_name);
        (void)client_properties(c, BUS_PATH, IFACE_MANAGER, true, &manager);
        if (c->json) {
                for (size_t i = 0; i < json_object_array_length(guests); i++) {
                        json_object *g = json_object_array_get_idx(guests, i);

                        json_object_object_add(g, "Outdated",
                                               json_object_new_boolean(is_outdated(g, manager)));
                        cli_print_json(json_object_get(g));
                }
                return EXIT_DONE;
        }
        table = table_new(headings);
        for (size_t i = 0; i < json_object_array_length(guests); i++) {
                json_object *g = json_object_array_get_idx(guests, i);

                table_add(table, json_str(g, "Name"));
                table_add(table, json_str(g, "State"));
                agent_cell(table, g, manager);
                table_add(table, since(json_u64(g, "ReadySince"), buf, sizeof(buf)));
                table_add(table, json_str(g, "Hostname"));
                table_add(table, json_str(g, "Uuid"));
        }
        table_print(table);
        return EXIT_DONE;
}

static void print_value(const char *key, json_object *v)
{
        char buf[32];

        if (json_object_is_type(v, json_type_array)) {
                printf("%18s:", key);
                for (size_t i = 0; i < json_object_array_length(v); i++)
                        printf(" %s", json_object_get_string(json_object_array_get_idx(v, i)));
                putchar('\n');
        } else if (str_eq(key, "ReadySince")) {
                uint64_t t = json_object_get_uint64(v);
                time_t seconds = (time_t)(t / USEC_PER_SEC);
                struct tm tm;
                char when[64] = "";

                if (t > 0 && localtime_r(&seconds, &tm))
                        (void)strftime(when, sizeof(when), "%F %T %Z", &tm);
                printf("%18s: %s%s%s%s\n", key, t ? when : "-", t ? " (" : "", since(t, buf, sizeof(buf)),
                       t ? ")" : "");
        } else if (str_has_prefix(key, "Bytes")) {
                printf("%18s: %s\n", key, format_bytes(json_object_get_uint64(v), buf, sizeof(buf)));
        } else {
                const char *s = json_object_get_string(v);

                printf("%18s: %s\n", key, s && s[0] ? s : "-");
        }
}

int command_status(Cli *c, int argc, char **argv)
{
        _cleanup_json_ json_object *p = NULL;
        _cleanup_free_ char *path = NULL;

        if (argc != 2)
                return cli_usage("status", "takes one guest");
        if (client_guest_path(c, argv[1], &path) < 0 ||
            client_properties(c, path, IFACE_GUEST, false, &p) < 0)
                return EXIT_FAILED;
        if (c->json) {
                cli_print_json(TAKE(p));
                return EXIT_DONE;
        }
        printf("%s: %s\n", json_str(p, "Name"), json_str(p, "State"));
        json_object_object_foreach(p, key, v)
        {
                if (str_eq(key, "Name") || str_eq(key, "State"))
                        continue;
                if (json_object_is_type(v, json_type_object)) {
                        json_object_object_foreach(v, k, s) if (str_eq(k, "PRETTY_NAME") ||
                                                                !str_eq(key, "OsRelease"))
                                print_value(str_eq(key, "OsRelease") ? key : k, s);
                } else
                        print_value(key, v);
        }
        return EXIT_DONE;
}

int command_wait(Cli *c, int argc, char **argv)
{
        static const struct option options[] = { { "timeout", required_argument, NULL, 't' }, {} };
        uint64_t timeout = UINT64_MAX;
        sd_bus_message *m;
        int o;

        while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
                if (o != 't')
                        return EXIT_USAGE;
                else if (cli_parse_seconds(optarg, &timeout) < 0)
                        return cli_usage("wait", "--timeout takes seconds, not '%s'", optarg);
        if (argc - optind != 1)
                return cli_usage("wait", "takes one guest");
        m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "WaitReady");
        if (!m || client_append(m, "st", argv[optind], timeout) < 0)
                return EXIT_FAILED;
        if (client_call(c, m, UINT64_MAX, NULL, NULL) < 0)
                return EXIT_FAILED;
        if (c->json) {
                json_object *j = json_object_new_object();

                json_object_object_add(j, "guest", json_object_new_string(argv[optind]));
                json_object_object_add(j, "state", json_object_new_string("ready"));
                cli_print_json(j);
        }
        return EXIT_DONE;
}

int command_ping(Cli *c, int argc, char **argv)
{
        uint64_t n = 1, n_good = 0, least = UINT64_MAX, most = 0, sum = 0;
        const char *guest;
        int o;

        while ((o = getopt(argc, argv, "c:")) >= 0) {
                char *end = NULL;

                if (o != 'c')
                        return EXIT_USAGE;
                errno = 0;
                n = strtoull(optarg, &end, 10);
                if (errno || *end || n == 0 || optarg[0] == '-')
                        return cli_usage("ping", "-c takes a positive number, not '%s'", optarg);
        }
        if (argc - optind != 1)
                return cli_usage("ping", "takes one guest");
        guest = argv[optind];
        for (uint64_t i = 0; i < n; i++) {
                _cleanup_message_ sd_bus_message *reply = NULL;
                sd_bus_message *m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "Ping");
                uint64_t rtt;

                if (!m || client_append(m, "s", guest) < 0)
                        return EXIT_FAILED;
                if (client_call(c, m, UINT64_MAX, NULL, &reply) >= 0 &&
                    sd_bus_message_read(reply, "t", &rtt) >= 0) {
                        n_good++;
                        sum += rtt;
                        least = MIN(least, rtt);
                        most = MAX(most, rtt);
                        if (c->json) {
                                json_object *j = json_object_new_object();

                                json_object_object_add(j, "guest", json_object_new_string(guest));
                                json_object_object_add(j, "seq", json_object_new_uint64(i + 1));
                                json_object_object_add(j, "rtt_usec", json_object_new_uint64(rtt));
                                cli_print_json(j);
                        } else {
                                printf("%s: seq=%" PRIu64 " time=%.3f ms\n", guest, i + 1,
                                       (double)rtt / 1e3);
                                fflush(stdout);
                        }
                }
                if (i + 1 < n)
                        (void)usleep(1000 * 1000);
        }
        if (!c->json && n > 1)
                printf("%" PRIu64 " of %" PRIu64 " answered; least/mean/most %.3f/%.3f/%.3f ms\n", n_good, n,
                       n_good ? (double)least / 1e3 : 0, n_good ? (double)sum / (double)n_good / 1e3 : 0,
                       (double)most / 1e3);
        return n_good == n ? EXIT_DONE : EXIT_FAILED;
}
