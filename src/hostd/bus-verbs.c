/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What can be done to a guest, for people (Manager: names and text) and for programs (Guest: bytes and
 * descriptors) alike. Each handler reads its arguments, asks for permission, which may bring the same call
 * here again, and only then looks at whether the guest exists: who may not do it does not learn that either.
 */

#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>

#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/bus-options.h"
#include "hostd/bus-room.h"
#include "hostd/delivery.h"
#include "hostd/exec.h"
#include "hostd/log.h"
#include "hostd/names.h"
#include "hostd/transfer.h"
#include "proto/limits.h"

#define PING_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define MODE_MAX 07777u

static bool is_for_people(sd_bus_message *m)
{
        return str_eq(sd_bus_message_get_interface(m), IFACE_MANAGER);
}

/* A late reply: the call is ours since its handler returned 1. */
static void send_reply(sd_bus_message *call, sd_bus_message *reply, int r)
{
        if (r >= 0)
                r = sd_bus_send(NULL, reply, NULL);
        if (r < 0 && r != -ENOTCONN) {
                log_warning("Cannot answer %s: %s", sd_bus_message_get_member(call), g_strerror(-r));
                bus_error_reply(call, WIRE_FAILED, "hostd cannot put the answer on the bus");
        }
}

/* GLib takes noncharacters for text, sd-bus refuses the whole message for one. */
static void replace_noncharacters(char *text)
{
        char *to = text;

        for (const char *p = text, *next; *p; p = next) {
                gunichar c = g_utf8_get_char(p);

                next = g_utf8_next_char(p);
                if ((c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
                        to += g_unichar_to_utf8(0xfffd, to);
                else {
                        memmove(to, p, (size_t)(next - p));
                        to += next - p;
                }
        }
        *to = 0;
}

/* Bytes of a guest as D-Bus text: as they are where they are UTF-8, U+FFFD for what is not. */
static int append_text(sd_bus_message *reply, const void *bytes, size_t n, size_t *left)
{
        g_autofree char *text = g_utf8_make_valid(n > 0 ? bytes : "", (gssize)n);

        replace_noncharacters(text);
        return bus_room_take(left, strlen(text)) ? sd_bus_message_append_basic(reply, 's', text) : -EMSGSIZE;
}

/* -EMSGSIZE: it would not fit into the message any more. */
static int append_output(sd_bus_message *call, sd_bus_message *reply, const void *bytes, size_t n,
                         size_t *left)
{
        if (is_for_people(call))
                return append_text(reply, bytes, n, left);
        return bus_room_take(left, n) ? sd_bus_message_append_array(reply, 'y', bytes, n) : -EMSGSIZE;
}

/* Ping */

static void on_pong(void *userdata, WireError error, const char *text, uint64_t rtt_usec)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata;
        int r;

        if (error != WIRE_OK) {
                bus_error_reply(call, error, text);
                return;
        }
        r = sd_bus_reply_method_return(call, "t", rtt_usec);
        if (r < 0 && r != -ENOTCONN)
                log_warning("Cannot answer Ping: %s", g_strerror(-r));
}

int bus_verb_ping(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        g_autofree char *text = NULL;
        PolkitDetails details = {};
        WireError e;
        Guest *g;
        int r;

        if ((r = bus_read_guest(userdata, m, &g, &details)) < 0)
                return r;
        if ((r = bus_authorize(userdata, m, "inspect", &details, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        if ((e = jobs_check_guest(g, &text)) != WIRE_OK)
                return bus_error_set(error, e, "%s", text);
        (void)guest_ping(g, PING_TIMEOUT_USEC, on_pong, sd_bus_message_ref(m));
        return 1;
}

/* What is not kept in the queue has no time to be kept for. */
static int check_queueing(sd_bus_message *m, bool queue, uint64_t ttl, sd_bus_error *error)
{
        if (ttl > 0 && !queue)
                return bus_error_set(error, WIRE_INVALID_ARGS,
                                     "Option \"ttl\" of %s needs \"queue\": without it nothing is kept",
                                     sd_bus_message_get_member(m));
        return 0;
}

/* Nor a job that somebody could be given once more. */
static int check_job_key(sd_bus_message *m, bool queue, const char *key, sd_bus_error *error)
{
        if (key && !queue)
                return bus_error_set(
                        error, WIRE_INVALID_ARGS,
                        "Option \"key\" of %s needs \"queue\": without it each one is carried out",
                        sd_bus_message_get_member(m));
        return 0;
}

/* Send, Call */

typedef struct MessageOptions {
        uint64_t timeout, ttl;
        bool queue;
        const char *key;
} MessageOptions;

static const BusOption message_options[] = {
        { "timeout", "t", offsetof(MessageOptions, timeout) },
        { "queue", "b", offsetof(MessageOptions, queue) },
        { "ttl", "t", offsetof(MessageOptions, ttl) },
        { "key", "s", offsetof(MessageOptions, key) },
        {},
};

static void on_sent(void *userdata, WireError error, const char *text, uint64_t id, const uint8_t *reply,
                    size_t n)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata, *answer = NULL;
        size_t left = BUS_ROOM;
        int r;

        if (error != WIRE_OK) {
                bus_error_reply(call, error, text);
                return;
        }
        r = sd_bus_message_new_method_return(call, &answer);
        if (r >= 0 && str_eq(sd_bus_message_get_member(call), "Send"))
                r = sd_bus_message_append_basic(answer, 't', &id);
        else if (r >= 0)
                r = append_output(call, answer, reply, n, &left);
        send_reply(call, answer, r);
}

static int check_message_key(const MessageOptions *o, bool is_call, sd_bus_error *error)
{
        g_autofree char *text = NULL;
        WireError e;

        if (!o->key)
                return 0;
        if (is_call && !o->queue)
                return bus_error_set(error, WIRE_INVALID_ARGS,
                                     "Option \"key\" of Call needs \"queue\": nobody keeps the answer, so a "
                                     "repeat could not be given it");
        e = delivery_check_key(o->key, &text);
        return e != WIRE_OK ? bus_error_set(error, e, "%s", text) : 0;
}

static int deliver(sd_bus_message *m, void *userdata, sd_bus_error *error, bool is_call)
{
        MessageOptions options = {};
        PolkitDetails details = {};
        DeliveryOptions sent;
        const Caller *caller;
        const char *text;
        const void *payload;
        size_t n;
        Guest *g;
        int r;

        if ((r = bus_read_guest(userdata, m, &g, &details)) < 0 ||
            (r = sd_bus_message_read(m, "s", &details.topic)) < 0)
                return r;
        if (is_for_people(m)) {
                if ((r = sd_bus_message_read(m, "s", &text)) < 0)
                        return r;
                payload = text;
                n = strlen(text);
        } else if ((r = sd_bus_message_read_array(m, 'y', &payload, &n)) < 0)
                return r;
        if ((r = bus_options_read(m, message_options, &options, error)) < 0 ||
            (r = check_queueing(m, options.queue, options.ttl, error)) < 0 ||
            (r = check_message_key(&options, is_call, error)) < 0)
                return r;
        if ((r = bus_authorize(userdata, m, "send", &details, &caller, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        if (options.queue) {
                queue_message(((Bus *)userdata)->queue, g, caller, is_call, details.topic, payload, n,
                              &(QueueOptions){ .ttl_usec = options.ttl, .key = options.key }, bus_on_queued,
                              sd_bus_message_ref(m));
                return 1;
        }
        sent = (DeliveryOptions){ .timeout_usec = options.timeout };
        if (options.key) {
                sent.keyed = true;
                sent.id = delivery_id_of_key(g, caller->uid, is_call, details.topic, options.key);
        }
        delivery_send(((Bus *)userdata)->jobs, g, caller, is_call, details.topic, payload, n, &sent, on_sent,
                      sd_bus_message_ref(m));
        return 1;
}

int bus_verb_send(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return deliver(m, userdata, error, false);
}

int bus_verb_call(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return deliver(m, userdata, error, true);
}

/* Run, Exec */

typedef struct CommandOptions {
        char **env;
        const char *cwd, *user;
        uint64_t timeout;
        BusBytes input;
        bool tty, detach, queue;
        uint16_t rows, columns;
        uint64_t ttl;
        const char *key;
} CommandOptions;

#define COMMAND_OPTIONS                                                                                     \
        { "env", "a{ss}", offsetof(CommandOptions, env) }, { "cwd", "s", offsetof(CommandOptions, cwd) },   \
                { "user", "s", offsetof(CommandOptions, user) },                                            \
                { "timeout", "t", offsetof(CommandOptions, timeout) },                                      \
                { "tty", "b", offsetof(CommandOptions, tty) },                                              \
                { "rows", "q", offsetof(CommandOptions, rows) },                                            \
                { "columns", "q", offsetof(CommandOptions, columns) },                                      \
                { "queue", "b", offsetof(CommandOptions, queue) },                                          \
                { "ttl", "t", offsetof(CommandOptions, ttl) },                                              \
                { "key", "s", offsetof(CommandOptions, key) },                                              \
        {                                                                                                   \
                "detach", "b", offsetof(CommandOptions, detach)                                             \
        }

static const BusOption run_options[] = { COMMAND_OPTIONS,
                                         { "stdin", "ay", offsetof(CommandOptions, input) },
                                         {} };
static const BusOption exec_options[] = { COMMAND_OPTIONS, {} };

static void command_options_done(CommandOptions *o)
{
        g_strfreev(o->env);
}

/* What polkit's rules and people see: the words, quoted where they need it. */
static char *command_line(char **argv)
{
        GString *s = g_string_new(NULL);

        for (; *argv; argv++) {
                bool plain = **argv &&
                             strspn(*argv, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                           "@%+=:,./_-") == strlen(*argv);
                g_autofree char *quoted = plain ? NULL : g_shell_quote(*argv);
                g_string_append_printf(s, "%s%s", s->len > 0 ? " " : "", plain ? *argv : quoted);
        }
        return g_string_free(s, FALSE);
}

/* It has run, and there is no message for what it wrote. */
static void refuse_output(sd_bus_message *call, const RunResult *result)
{
        g_autofree char *text = g_strdup_printf(
                "The command ended with status %i, but what it wrote does not fit into the %u MiB of one "
                "message on the bus: %zu bytes of output and %zu of errors%s; Exec passes on any amount",
                result->exit_status, BUS_MESSAGE_MAX >> 20, result->n_out, result->n_err,
                is_for_people(call) ? ", as text, which takes three bytes for each that is no UTF-8" : "");

        bus_error_reply(call, WIRE_TOO_LARGE, text);
}

static void on_run(void *userdata, WireError error, const char *text, const RunResult *result)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata, *reply = NULL;
        size_t left = BUS_ROOM;
        int32_t status;
        int r;

        if (error != WIRE_OK) {
                bus_error_reply(call, error, text);
                return;
        }
        status = result->exit_status;
        if ((r = sd_bus_message_new_method_return(call, &reply)) >= 0 &&
            (r = sd_bus_message_append_basic(reply, 'i', &status)) >= 0 &&
            (r = append_output(call, reply, result->out, result->n_out, &left)) >= 0)
                r = append_output(call, reply, result->err, result->n_err, &left);
        if (r == -EMSGSIZE)
                refuse_output(call, result);
        else
                send_reply(call, reply, r);
}

static void on_exec(void *userdata, WireError error, const char *text, Job *j, const int fds[3])
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata;
        _cleanup_free_ char *path = NULL;
        int r;

        if (error != WIRE_OK) {
                bus_error_reply(call, error, text);
                return;
        }
        path = bus_job_path(j->id);
        r = sd_bus_reply_method_return(call, "uohhh", j->id, path, fds[0], fds[1], fds[2]);
        if (r < 0 && r != -ENOTCONN) {
                log_warning("Cannot answer Exec: %s", g_strerror(-r));
                bus_error_reply(call, WIRE_FAILED, "The file descriptors cannot be passed on this bus");
        }
}

/* Run with "detach": it was started, and its output is to be had from its job. */
static void on_detached(void *userdata, WireError error, const char *text, Job *j, const int fds[3])
{
        on_run(userdata, error, text, &(RunResult){});
}

static int command(sd_bus_message *m, void *userdata, sd_bus_error *error, bool is_run)
{
        _cleanup_(command_options_done)
                CommandOptions o = { .timeout = USEC_INFINITY, .rows = 24, .columns = 80 };
        g_autofree char *line = NULL, *text = NULL;
        g_auto(GStrv) argv = NULL;
        PolkitDetails details = {};
        const Caller *caller;
        ExecOptions options;
        char **read = NULL;
        Bus *b = userdata;
        WireError e;
        Guest *g;
        int r;

        if ((r = bus_read_guest(b, m, &g, &details)) < 0 || (r = sd_bus_message_read_strv(m, &read)) < 0)
                return r;
        argv = read ? read : g_new0(char *, 1);
        if ((r = bus_options_read(m, is_run ? run_options : exec_options, &o, error)) < 0 ||
            (r = check_queueing(m, o.queue, o.ttl, error)) < 0 ||
            (r = check_job_key(m, o.queue, o.key, error)) < 0)
                return r;
        options = (ExecOptions){
                .env = (const char *const *)o.env,
                .cwd = o.cwd,
                .user = o.user,
                .timeout_usec = o.timeout == 0 ? USEC_INFINITY : o.timeout,
                .tty = o.tty,
                .rows = o.rows,
                .columns = o.columns,
                .detach = o.detach,
                .input = o.input.data,
                .n_input = o.input.n,
        };
        if ((e = exec_check_command((const char *const *)argv, &options, &text)) != WIRE_OK)
                return bus_error_set(error, e, "%s", text);
        if (o.detach && o.input.data)
                return bus_error_set(error, WIRE_INVALID_ARGS,
                                     "A detached command has no standard input: \"stdin\" and \"detach\" "
                                     "exclude each other");
        details.command = line = command_line(argv);
        details.user = o.user;
        if ((r = bus_authorize(b, m, "exec", &details, &caller, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        if (o.queue && !is_run)
                return bus_error_set(error, WIRE_UNSUPPORTED,
                                     "Exec hands out descriptors, so it cannot be queued; Run can");
        if (o.queue) {
                queue_command(b->queue, g, caller, (const char *const *)argv, &options,
                              &(QueueOptions){ .ttl_usec = o.ttl, .key = o.key }, bus_on_queued,
                              sd_bus_message_ref(m));
                return 1;
        }
        if (is_run && o.detach)
                exec_start(b->jobs, g, caller, (const char *const *)argv, &options, on_detached,
                           sd_bus_message_ref(m));
        else if (is_run)
                exec_run(b->jobs, g, caller, (const char *const *)argv, &options, on_run,
                         sd_bus_message_ref(m));
        else
                exec_start(b->jobs, g, caller, (const char *const *)argv, &options, on_exec,
                           sd_bus_message_ref(m));
        return 1;
}

int bus_verb_run(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return command(m, userdata, error, true);
}

int bus_verb_exec(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return command(m, userdata, error, false);
}

/* Push, Pull, PushFd, PullFd */

typedef struct FileOptions {
        uint32_t mode;
        const char *owner, *overwrite;
        bool preserve, contents, resume, queue;
        uint64_t ttl;
        const char *key;
} FileOptions;

static const BusOption file_options[] = {
        { "mode", "u", offsetof(FileOptions, mode) },
        { "owner", "s", offsetof(FileOptions, owner) },
        { "preserve", "b", offsetof(FileOptions, preserve) },
        { "contents", "b", offsetof(FileOptions, contents) },
        { "overwrite", "s", offsetof(FileOptions, overwrite) },
        { "resume", "b", offsetof(FileOptions, resume) },
        { "queue", "b", offsetof(FileOptions, queue) },
        { "ttl", "t", offsetof(FileOptions, ttl) },
        { "key", "s", offsetof(FileOptions, key) },
        {},
};

static int read_file_options(sd_bus_message *m, FileOptions *o, sd_bus_error *error)
{
        int r = bus_options_read(m, file_options, o, error);

        if (r < 0)
                return r;
        if ((r = check_queueing(m, o->queue, o->ttl, error)) < 0 ||
            (r = check_job_key(m, o->queue, o->key, error)) < 0)
                return r;
        if (o->mode != UINT32_MAX && o->mode > MODE_MAX)
                return bus_error_set(error, WIRE_INVALID_ARGS, "Option \"mode\" is at most 0%o", MODE_MAX);
        if (!str_eq(o->overwrite, "replace") && !str_eq(o->overwrite, "fail") &&
            !str_eq(o->overwrite, "update"))
                return bus_error_set(
                        error, WIRE_INVALID_ARGS,
                        "Option \"overwrite\" is \"replace\", \"fail\" or \"update\", not \"%s\"",
                        o->overwrite);
        if (o->owner && !*o->owner)
                return bus_error_set(error, WIRE_INVALID_ARGS,
                                     "Option \"owner\" is \"user:group\", \"user\" or \":group\"");
        return 0;
}

/* A pipe's reader must have opened it for reading, and so on: better said now than by a failed job. */
static int check_fd(int fd, bool is_push, sd_bus_error *error)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || flags & O_PATH || (flags & O_ACCMODE) == (is_push ? O_WRONLY : O_RDONLY))
                return bus_error_set(error, WIRE_INVALID_ARGS, "The file descriptor must be open for %s",
                                     is_push ? "reading" : "writing");
        return 0;
}

static int transfer(sd_bus_message *m, void *userdata, sd_bus_error *error, JobKind kind, bool with_fd)
{
        FileOptions o = { .mode = UINT32_MAX, .overwrite = "replace", .resume = true };
        TransferOptions options;
        const char *first = NULL, *second = NULL, *host_path, *guest_path;
        _cleanup_free_ char *path = NULL;
        g_autofree char *text = NULL;
        PolkitDetails details = {};
        const Caller *caller;
        int fd = -EBADF, r;
        Bus *b = userdata;
        WireError e;
        Guest *g;
        Job *j;

        if ((r = bus_read_guest(b, m, &g, &details)) < 0)
                return r;
        if (!with_fd)
                r = sd_bus_message_read(m, "ss", &first, &second);
        else
                r = kind == JOB_PUSH ? sd_bus_message_read(m, "hs", &fd, &second)
                                     : sd_bus_message_read(m, "sh", &first, &fd);
        if (r < 0 || (r = read_file_options(m, &o, error)) < 0 ||
            (with_fd && (r = check_fd(fd, kind == JOB_PUSH, error)) < 0))
                return r;
        host_path = kind == JOB_PUSH ? first : second;
        guest_path = kind == JOB_PUSH ? second : first;
        details.path = guest_path;
        if ((r = bus_authorize(b, m, job_kind_to_string(kind), &details, &caller, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        options = (TransferOptions){
                .mode = o.mode,
                .owner = o.owner,
                .preserve = o.preserve,
                .contents = o.contents,
                .overwrite = o.overwrite,
                .resume = o.resume,
                .detach = !with_fd,
        };
        if (o.queue && with_fd)
                return bus_error_set(error, WIRE_UNSUPPORTED, "%s cannot be queued; %s of a path can",
                                     sd_bus_message_get_member(m), kind == JOB_PUSH ? "Push" : "Pull");
        if (o.queue) {
                queue_transfer(b->queue, kind, g, caller, host_path, guest_path, &options,
                               &(QueueOptions){ .ttl_usec = o.ttl, .key = o.key }, bus_on_queued,
                               sd_bus_message_ref(m));
                return 1;
        }
        if (with_fd && (fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)) < 0)
                return bus_error_set(error, WIRE_LIMITS_EXCEEDED, "hostd is out of file descriptors");
        e = transfer_start(b->jobs, kind, g, caller, host_path, fd, guest_path, &options, &j, &text);
        if (e != WIRE_OK)
                return bus_error_set(error, e, "%s", text);
        path = bus_job_path(j->id);
        return sd_bus_reply_method_return(m, "uo", j->id, path);
}

int bus_verb_push(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return transfer(m, userdata, error, JOB_PUSH, false);
}

int bus_verb_pull(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return transfer(m, userdata, error, JOB_PULL, false);
}

int bus_verb_push_fd(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return transfer(m, userdata, error, JOB_PUSH, true);
}

int bus_verb_pull_fd(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        return transfer(m, userdata, error, JOB_PULL, true);
}
