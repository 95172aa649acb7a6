/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/local-client.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/base.h"
#include "base/fs.h"
#include "guestd/config.h"
#include "guestd/localsock.h"
#include "guestd/payload.h"
#include "proto/limits.h"
#include "proto/message.h"

#define EXIT_USAGE 2
/* A line of the daemon: its own bound on what it says, envelope and escapes included. */
#define LINE_BYTES_MAX (LOCALSOCK_OUTPUT_MAX + 65536u)

const char local_client_help[] =
        "  send TOPIC [TEXT|-]           message to the host; returns when guestd keeps it\n"
        "  call TOPIC [TEXT|-]           message to the host; prints the answer\n"
        "  listen [--json] TOPIC...      prints the host's messages, one a line\n";

typedef struct Connection {
        int fd;
        char *line; /* the buffer: what was read and not consumed */
        size_t n, n_consumed;
} Connection;

static void connection_done(Connection *c)
{
        (void)fd_close(c->fd);
        free(c->line);
}

static int fail(const char *what, const char *why)
{
        (void)fprintf(stderr, "vmferry-guestd: %s: %s\n", what, why);
        return EXIT_FAILURE;
}

static int usage(const char *verb)
{
        (void)fprintf(stderr, "Usage: vmferry-guestd %s\n",
                      str_eq(verb, "listen") ? "listen [--json] TOPIC..."
                      : str_eq(verb, "call") ? "call TOPIC [TEXT|-]"
                                             : "send TOPIC [TEXT|-]");
        return EXIT_USAGE;
}

static int connection_open(Connection *c, const char *path)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        c->line = malloc(LINE_BYTES_MAX + 1);
        return c->line ? 0 : -ENOMEM;
}

static int connection_say(Connection *c, json_object *o)
{
        const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
        int r = text ? fs_write_all(c->fd, text, strlen(text)) : -ENOMEM;
        return r < 0 ? r : fs_write_all(c->fd, "\n", 1);
}

/* The next line, without its end; valid until the next call. -ECONNRESET: guestd has gone. */
static int connection_hear(Connection *c, const char **ret, size_t *ret_n)
{
        memmove(c->line, c->line + c->n_consumed, c->n - c->n_consumed);
        c->n -= c->n_consumed;
        c->n_consumed = 0;
        size_t n_scanned = 0;
        for (;;) {
                char *end = memchr(c->line + n_scanned, '\n', c->n - n_scanned);
                if (end) {
                        *end = 0;
                        *ret = c->line;
                        *ret_n = (size_t)(end - c->line);
                        c->n_consumed = *ret_n + 1;
                        return 0;
                }
                n_scanned = c->n;
                if (c->n == LINE_BYTES_MAX)
                        return -EMSGSIZE;
                ssize_t k = read(c->fd, c->line + c->n, LINE_BYTES_MAX - c->n);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        return k < 0 ? -errno : -ECONNRESET;
                c->n += (size_t)k;
        }
}

static int stdin_read(uint8_t **ret, size_t *ret_n)
{
        _cleanup_free_ uint8_t *data = malloc(PAYLOAD_MAX + 1);
        size_t n = 0;
        int r = data ? fs_read_all(STDIN_FILENO, data, PAYLOAD_MAX + 1, &n) : -ENOMEM;
        if (r < 0)
                return r;
        if (n > PAYLOAD_MAX)
                return -E2BIG;
        *ret_n = n;
        *ret = TAKE(data);
        return 0;
}

static json_object *request_new(const char *method, const char *topic)
{
        json_object *o = json_object_new_object();
        if (o) {
                (void)json_object_object_add(o, "method", json_object_new_string(method));
                (void)json_object_object_add(o, "topic", json_object_new_string(topic));
        }
        return o;
}

/* Says o, hears its answer. The exit status; with `prints`, the answer's payload goes to stdout. */
static int converse(Connection *c, json_object *o, const char *what, bool prints)
{
        const char *line;
        size_t n, n_payload = 0;
        int r = connection_say(c, o);
        if (r >= 0)
                r = connection_hear(c, &line, &n);
        if (r < 0)
                return fail(what, r == -ECONNRESET ? "guestd closed the connection" : strerror(-r));
        json_object *answer = json_tokener_parse(line);
        const char *text = "guestd's answer is no JSON";
        WireError e = answer ? message_get_error(answer, &text) : WIRE_PROTOCOL;
        _cleanup_free_ uint8_t *payload = NULL;
        int status = EXIT_SUCCESS;
        if (e != WIRE_OK) {
                _cleanup_free_ char *why = NULL;
                status = asprintf(&why, "%s: %s", wire_error_to_string(e), text) < 0 ? fail(what, text)
                                                                                     : fail(what, why);
        } else if (prints && payload_get(answer, &payload, &n_payload) >= 0) {
                r = fs_write_all(STDOUT_FILENO, payload, n_payload);
                status = r < 0 ? fail("stdout", strerror(-r)) : EXIT_SUCCESS;
        }
        json_object_put(answer);
        return status;
}

static int speak(Connection *c, int argc, char *argv[], const char *method, bool prints)
{
        _cleanup_free_ uint8_t *from_stdin = NULL;
        const char *text = argc > 2 ? argv[2] : "";
        size_t n = strlen(text);
        if (str_eq(text, "-")) {
                int r = stdin_read(&from_stdin, &n);
                if (r < 0)
                        return fail("stdin",
                                    r == -E2BIG ? "more than the 64 KiB of a message" : strerror(-r));
                text = (const char *)from_stdin;
        }
        if (n > PAYLOAD_MAX)
                return fail(argv[1], "more than the 64 KiB of a message");
        json_object *o = request_new(method, argv[1]);
        int status = o && payload_put(o, text, n) >= 0 ? converse(c, o, argv[1], prints)
                                                       : fail(argv[1], "out of memory");
        json_object_put(o);
        return status;
}

static int message_print(const char *line, bool with_topic)
{
        json_object *o = json_tokener_parse(line);
        _cleanup_free_ uint8_t *payload = NULL;
        size_t n_payload = 0;
        int r = 0;
        if (o && str_eq(message_str(o, "event", ""), "message") &&
            payload_get(o, &payload, &n_payload) >= 0) {
                const char *topic = message_str(o, "topic", "");
                payload[n_payload] = '\n'; /* over the NUL that payload_get() has put there */
                if (with_topic)
                        r = fs_write_all(STDOUT_FILENO, topic, strlen(topic));
                if (r >= 0 && with_topic)
                        r = fs_write_all(STDOUT_FILENO, "\t", 1);
                if (r >= 0)
                        r = fs_write_all(STDOUT_FILENO, payload, n_payload + 1);
        }
        json_object_put(o);
        return r;
}

static int event_print(const char *line, size_t n, bool is_json, bool with_topic)
{
        if (!is_json)
                return message_print(line, with_topic);
        int r = fs_write_all(STDOUT_FILENO, line, n);
        return r < 0 ? r : fs_write_all(STDOUT_FILENO, "\n", 1);
}

static int listen_to(Connection *c, int argc, char *argv[])
{
        bool is_json = argc > 1 && str_eq(argv[1], "--json");
        int first = is_json ? 2 : 1;
        for (int i = first; i < argc; i++) {
                json_object *o = request_new("subscribe", argv[i]);
                int r = o ? connection_say(c, o) : -ENOMEM;
                json_object_put(o);
                if (r < 0)
                        return fail(argv[i], strerror(-r));
        }
        /* The answers come in between the first messages. */
        for (int n_answers = 0;;) {
                const char *line, *text;
                size_t n;
                int r = connection_hear(c, &line, &n);
                if (r < 0)
                        return fail("listen",
                                    r == -ECONNRESET ? "guestd closed the connection" : strerror(-r));
                json_object *o = json_tokener_parse(line);
                bool is_event = o && message_str(o, "event", NULL);
                WireError e = o && !is_event ? message_get_error(o, &text) : WIRE_OK;
                int status =
                        e == WIRE_OK
                                ? EXIT_SUCCESS
                                : fail(n_answers < argc - first ? argv[first + n_answers] : "guestd", text);
                n_answers += !is_event;
                json_object_put(o);
                if (status != EXIT_SUCCESS)
                        return status;
                r = is_event ? event_print(line, n, is_json, argc - first > 1) : 0;
                if (r < 0)
                        return fail("stdout", strerror(-r));
        }
}

bool local_client_is_verb(const char *verb)
{
        return str_eq(verb, "send") || str_eq(verb, "call") || str_eq(verb, "listen");
}

int local_client_main(int argc, char *argv[], const char *socket_path)
{
        _cleanup_(connection_done) Connection c = { .fd = -EBADF };
        bool is_json = argc > 1 && str_eq(argv[1], "--json");
        if (argc < 2 || (str_eq(argv[0], "listen") ? is_json && argc < 3 : argc > 3))
                return usage(argv[0]);
        const char *path = socket_path ?: SOCKET_PATH;
        int r = connection_open(&c, path);
        if (r < 0)
                return fail(path, strerror(-r));
        if (str_eq(argv[0], "listen"))
                return listen_to(&c, argc, argv);
        return speak(&c, argc, argv, str_eq(argv[0], "call") ? "call" : "publish", str_eq(argv[0], "call"));
}
