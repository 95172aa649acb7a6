/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * send, call, monitor.
 */

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/escape.h"
#include "cli/client.h"

static const struct option options[] = { { "queue", no_argument, NULL, 'q' },
                                         { "ttl", required_argument, NULL, 't' },
                                         { "key", required_argument, NULL, 'k' },
                                         { "timeout", required_argument, NULL, 'T' },
                                         {} };

typedef struct Words {
        const char *all[3]; /* guest, topic, text; NULL */
        size_t n;
        const char *key;
        uint64_t ttl, timeout;
        bool queue;
} Words;

static int take_option(Words *w, const char *command, int o)
{
        switch (o) {
        case 'q':
                w->queue = true;
                return EXIT_DONE;
        case 'k':
                w->key = optarg;
                return EXIT_DONE;
        case 't':
        case 'T':
                if (cli_parse_seconds(optarg, o == 't' ? &w->ttl : &w->timeout) < 0)
                        return cli_usage(command, "--%s takes seconds, not '%s'",
                                         o == 't' ? "ttl" : "timeout", optarg);
                return EXIT_DONE;
        default:
                return EXIT_USAGE;
        }
}

/* Options stand anywhere, as the synopsis shows them. A text that looks like a long one stands behind "--";
 * one like "-5" is a text. */
static int take_words(Words *w, int argc, char **argv)
{
        bool words_only = false;

        *w = (Words){ .ttl = UINT64_MAX, .timeout = UINT64_MAX };
        for (int i = 1; i < argc;) {
                bool is_option = argv[i][0] == '-' && argv[i][1] && (argv[i][1] == '-' || w->n < 2);
                int r;

                if (!words_only && strcmp(argv[i], "--") == 0) {
                        words_only = true;
                        i++;
                } else if (!words_only && is_option) {
                        optind = i;
                        r = take_option(w, argv[0], getopt_long(argc, argv, "+", options, NULL));
                        if (r != EXIT_DONE)
                                return r;
                        i = optind;
                } else if (w->n < ELEMENTSOF(w->all))
                        w->all[w->n++] = argv[i++];
                else
                        return cli_usage(
                                argv[0],
                                "one text only: quote it, or give - and write it to standard input");
        }
        if (w->ttl != UINT64_MAX && !w->queue)
                return cli_usage(argv[0], "--ttl is for what is queued: it goes with --queue");
        if (w->n < 2)
                return cli_usage(argv[0], "takes a guest, a topic, and a text or -");
        return EXIT_DONE;
}

static int message_new(Cli *c, const char *method, const Words *w, sd_bus_message **ret)
{
        _cleanup_free_ uint8_t *payload = NULL;
        _cleanup_free_ char *path = NULL;
        sd_bus_message *m;
        size_t n;
        int r;

        r = cli_payload(w->all[2], &payload, &n);
        if (r < 0) {
                cli_fail("standard input: %s",
                         r == -EFBIG ? "more than a message can carry (64 KiB)" : strerror(-r));
                return r;
        }
        r = client_guest_path(c, w->all[0], &path);
        if (r < 0)
                return r;
        m = client_call_new(c, path, IFACE_GUEST, method);
        if (!m)
                return -ENOTCONN;
        r = sd_bus_message_append(m, "s", w->all[1]);
        if (r >= 0)
                r = sd_bus_message_append_array(m, 'y', payload, n);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0 && w->queue)
                r = sd_bus_message_append(m, "{sv}", "queue", "b", true);
        if (r >= 0 && w->ttl != UINT64_MAX)
                r = sd_bus_message_append(m, "{sv}", "ttl", "t", w->ttl);
        if (r >= 0 && w->timeout != UINT64_MAX)
                r = sd_bus_message_append(m, "{sv}", "timeout", "t", w->timeout);
        if (r >= 0 && w->key)
                r = sd_bus_message_append(m, "{sv}", "key", "s", w->key);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r < 0) {
                cli_fail("the topic cannot be sent: %s", strerror(-r));
                return r;
        }
        *ret = m;
        return 0;
}

int command_send(Cli *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        sd_bus_message *m;
        uint64_t id;
        Words w;
        int r = take_words(&w, argc, argv);

        if (r != EXIT_DONE)
                return r;
        if (message_new(c, "Send", &w, &m) < 0)
                return EXIT_FAILED;
        if (client_call(c, m, UINT64_MAX, NULL, &reply) < 0)
                return EXIT_FAILED;
        if (sd_bus_message_read(reply, "t", &id) >= 0 && (w.queue || c->json))
                client_print_id(c, id);
        return EXIT_DONE;
}

int command_call(Cli *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        const void *data;
        sd_bus_message *m;
        uint32_t id;
        size_t n;
        Words w;
        int r = take_words(&w, argc, argv);

        if (r != EXIT_DONE)
                return r;
        if (message_new(c, "Call", &w, &m) < 0)
                return EXIT_FAILED;
        if (w.queue) { /* the reply comes when nobody waits for it any more */
                if (client_call_queued(c, m, NULL, &id) < 0)
                        return EXIT_FAILED;
                client_print_id(c, id);
                return EXIT_DONE;
        }
        if (client_call(c, m, UINT64_MAX, NULL, &reply) < 0)
                return EXIT_FAILED;
        if (c->json) {
                json_object *j = json_object_new_object(), *v = NULL;

                if (client_read_json(reply, &v) >= 0)
                        json_object_object_add(j, "reply", v);
                cli_print_json(j);
                return EXIT_DONE;
        }
        if (sd_bus_message_read_array(reply, 'y', &data, &n) < 0)
                return cli_fail("vmferry-hostd answered Call with something else");
        if (n > 0 && fwrite(data, 1, n, stdout) != n)
                return cli_fail("standard output: %s", strerror(errno));
        if (n > 0 && isatty(STDOUT_FILENO) && ((const char *)data)[n - 1] != '\n')
                putchar('\n');
        return EXIT_DONE;
}

typedef struct Monitor {
        Cli *cli;
        const char *guest; /* NULL: all */
} Monitor;

static void monitor_text(const char *event, json_object *j)
{
        struct timespec ts;
        char when[32] = "";
        struct tm tm;

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        if (localtime_r(&ts.tv_sec, &tm))
                (void)strftime(when, sizeof(when), "%T", &tm);
        if (str_eq(event, "GuestStateChanged"))
                printf("%s.%03ld  %s  state  %s → %s\n", when, ts.tv_nsec / 1000000, json_str(j, "guest"),
                       json_str(j, "old_state"), json_str(j, "new_state"));
        else if (str_eq(event, "MessageReceived")) {
                const char *payload = json_object_get_string(json_object_object_get(j, "payload"));
                _cleanup_free_ char *shown = escape_text(payload, strlen(payload), 4096);

                printf("%s.%03ld  %s  message  %s  %s\n", when, ts.tv_nsec / 1000000, json_str(j, "guest"),
                       json_str(j, "topic"), shown ? shown : "");
        } else if (!str_eq(event, "JobRemoved")) { /* its end was told before */
                bool is_new = str_eq(event, "JobNew");
                const char *what = json_str(j, is_new ? "source" : "result"),
                           *more = json_str(j, is_new ? "destination" : "error_message");

                printf("%s.%03ld  %s  job %" PRIu64 "  %s  ", when, ts.tv_nsec / 1000000,
                       json_str(j, "guest"), json_u64(j, "id"), json_str(j, "kind"));
                cli_print_text(stdout, what);
                if (more[0])
                        fputs(is_new ? " → " : ": ", stdout);
                cli_print_text(stdout, more);
                putchar('\n');
        }
        fflush(stdout);
}

/* Whose job it is, and what it does: those who may not look at it are told the rest. */
static void add_job(Monitor *monitor, const char *path, json_object *j)
{
        static const struct {
                const char *key, *property;
        } all[] = { { "id", "Id" },
                    { "guest", "GuestName" },
                    { "kind", "Kind" },
                    { "source", "Source" },
                    { "destination", "Destination" } };
        _cleanup_json_ json_object *p = NULL;

        if (client_properties(monitor->cli, path, IFACE_JOB, true, &p) < 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                json_object *v = json_object_object_get(p, all[i].property);
                if (v)
                        json_object_object_add(j, all[i].key, json_object_get(v));
        }
}

static int on_signal(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        static const struct {
                const char *member, *fields[6];
        } signals[] = {
                { "GuestStateChanged", { "path", "guest", "old_state", "new_state" } },
                { "MessageReceived", { "path", "guest", "topic", "payload", "id" } },
                { "JobNew", { "id", "path" } },
                { "JobRemoved", { "id", "path", "result" } },
                { "Finished", { "result", "error_name", "error_message" } },
        };
        Monitor *monitor = userdata;
        const char *member = sd_bus_message_get_member(m);

        for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
                _cleanup_json_ json_object *j = NULL;

                if (!str_eq(member, signals[i].member))
                        continue;
                j = json_object_new_object();
                if (str_eq(member, "Finished"))
                        member = "JobFinished";
                json_object_object_add(j, "event", json_object_new_string(member));
                for (size_t k = 0; signals[i].fields[k]; k++) {
                        json_object *v = NULL;

                        if (client_read_json(m, &v) < 0)
                                return 0;
                        json_object_object_add(j, signals[i].fields[k], v);
                }
                if (str_eq(member, "JobFinished"))
                        json_object_object_add(j, "path",
                                               json_object_new_string(sd_bus_message_get_path(m)));
                if (str_has_prefix(member, "Job"))
                        add_job(monitor, json_str(j, "path"), j);
                if (monitor->guest && !str_eq(json_str(j, "guest"), monitor->guest))
                        return 0;
                if (monitor->cli->json)
                        cli_print_json(TAKE(j));
                else
                        monitor_text(member, j);
                return 0;
        }
        return 0;
}

int command_monitor(Cli *c, int argc, char **argv)
{
        Monitor monitor = { .cli = c, .guest = argc > 1 ? argv[1] : NULL };
        _cleanup_free_ char *path = NULL;
        int r;

        if (argc > 2)
                return cli_usage("monitor", "takes one guest, or none for all");
        if (!client_bus(c))
                return EXIT_FAILED;
        r = sd_bus_match_signal(c->bus, NULL, BUS_NAME, BUS_PATH, IFACE_MANAGER, NULL, on_signal, &monitor);
        if (r >= 0)
                r = sd_bus_match_signal(c->bus, NULL, BUS_NAME, NULL, IFACE_JOB, "Finished", on_signal,
                                        &monitor);
        if (r < 0)
                return cli_fail("cannot listen on the bus: %s", strerror(-r));
        /* Starts hostd where it is not running, and refuses a guest that does not exist. A UUID becomes the
         * name. */
        if (monitor.guest) {
                _cleanup_json_ json_object *p = NULL;

                if (client_guest_path(c, monitor.guest, &path) < 0 ||
                    client_properties(c, path, IFACE_GUEST, false, &p) < 0)
                        return EXIT_FAILED;
                monitor.guest = strdup(json_str(p, "Name"));
        } else {
                _cleanup_json_ json_object *p = NULL;

                if (client_properties(c, BUS_PATH, IFACE_MANAGER, false, &p) < 0)
                        return EXIT_FAILED;
        }
        for (;;) {
                r = sd_bus_process(c->bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(c->bus, UINT64_MAX);
                if (r < 0 && r != -EINTR)
                        return cli_fail("the connection to the bus was lost: %s", strerror(-r));
                if (ferror(stdout))
                        return EXIT_DONE;
        }
}
