/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/process-record.h"

#include <fcntl.h>
#include <signal.h>

#include "base/escape.h"
#include "guestd/log.h"
#include "guestd/spool.h"
#include "proto/message.h"

#define LIST_BYTES_MAX 65536u /* of one answer to process.list, and one process more */

static void put(json_object *o, const char *key, json_object *value)
{
        (void)json_object_object_add(o, key, value);
}

static void reply_error(Processes *ps, uint64_t token, WireError error, const char *why)
{
        ps->ops->reply(ps->userdata, token, message_error(error, "%s", why));
}

static void reply_ok(Processes *ps, uint64_t token)
{
        ps->ops->reply(ps->userdata, token, json_object_new_object());
}

static void reply_done(Processes *ps, uint64_t token, int error)
{
        if (error == 0)
                reply_ok(ps, token);
        else if (error == ESRCH)
                reply_error(ps, token, WIRE_NOT_FOUND, "the process has ended");
        else if (error == ENOTTY)
                reply_error(ps, token, WIRE_INVALID_ARGS, "the process has left its terminal");
        else
                reply_error(ps, token, wire_error_from_errno(error), strerror(error));
}

void process_ask(Process *p, uint64_t token, SupervisorWordType type, int32_t a, int32_t b)
{
        Processes *ps = p->owner;
        uint32_t serial = p->supervisor_answers ? ++p->n_asked_ever ?: ++p->n_asked_ever : 0;
        if (p->control < 0)
                reply_done(ps, token, ESRCH);
        else if (p->n_asked == PROCESS_ASKED_MAX)
                reply_error(ps, token, WIRE_LIMITS_EXCEEDED, "the process is asked too much at once");
        else if (supervisor_ask(p->control, type, a, b, serial) < 0)
                reply_error(ps, token, WIRE_FAILED, "the process's supervisor is not to be reached");
        else if (serial) {
                p->asked[p->n_asked].serial = serial;
                p->asked[p->n_asked++].token = token;
        } else
                reply_ok(ps, token);
}

void process_on_done(Process *p, uint32_t serial, int error)
{
        for (size_t i = 0; i < p->n_asked; i++) {
                if (p->asked[i].serial != serial)
                        continue;
                uint64_t token = p->asked[i].token;
                p->asked[i] = p->asked[--p->n_asked];
                reply_done(p->owner, token, error);
                return;
        }
}

void process_forget_asked(Process *p)
{
        while (p->n_asked > 0)
                reply_done(p->owner, p->asked[--p->n_asked].token, ESRCH);
}

static void call_start(Processes *ps, uint64_t token, json_object *params)
{
        _cleanup_(process_spec_done) ProcessSpec spec = { 0 };
        const char *why = "";
        WireError e = process_spec_parse(params, &spec, &why);
        if (e == WIRE_OK && !policy_may(ps->config.policy, POLICY_EXEC)) {
                e = WIRE_PERMISSION_DENIED;
                why = "the guest's policy (guestd.conf) does not allow to execute";
        } else if (e == WIRE_OK && processes_find(ps, spec.id)) {
                e = WIRE_EXISTS;
                why = "there is a process of this id already";
        } else if (e == WIRE_OK && processes_n_running(ps) >= ps->config.n_max) {
                e = WIRE_LIMITS_EXCEEDED;
                why = "as many processes as the guest allows (ProcessesMax=) are running";
        }
        _cleanup_free_ char *command = spec.argv ? process_spec_command(&spec, PROCESS_COMMAND_MAX) : NULL;
        if (e != WIRE_OK) {
                log_audit("exec", spec.id ?: "-", wire_error_to_string(e), "command=\"%s\"", command ?: "");
                reply_error(ps, token, e, why);
                return;
        }
        _cleanup_(process_freep) Process *made = process_new(ps, spec.id);
        json_object *argv = process_shorten_argv(spec.argv);
        if (made) {
                made->argv = argv;
                made->token = token;
                made->detached = spec.detach;
                made->tty = spec.tty;
                made->command = TAKE(command);
                made->user =
                        spec.user ? escape_text(spec.user, strlen(spec.user), PROCESS_COMMAND_MAX) : NULL;
        } else
                json_object_put(argv);
        if (!made || !made->argv || !made->command || (spec.user && !made->user) ||
            processes_add(ps, made) < 0) {
                reply_error(ps, token, WIRE_FAILED, "out of memory");
                return;
        }
        Process *p = TAKE(made);
        int r = process_fork(p, &spec);
        if (r < 0)
                process_fail(p, SUPERVISOR_SETUP, -r);
}

static void call_kill(Processes *ps, uint64_t token, Process *p, json_object *params)
{
        int64_t signal = message_int(params, "signal", SIGTERM);
        bool tree = message_bool(params, "tree", true);
        if (signal < 1 || signal > SIGRTMAX)
                reply_error(ps, token, WIRE_INVALID_ARGS, "no such signal");
        else {
                log_audit("exec", p->id, p->control < 0 ? wire_error_to_string(WIRE_NOT_FOUND) : "ok",
                          "kill=%d tree=%d", (int)signal, tree);
                process_ask(p, token, SUPERVISOR_SIGNAL, (int32_t)signal, tree);
        }
}

static void call_resize(Processes *ps, uint64_t token, Process *p, json_object *params)
{
        uint16_t rows, columns;
        if (process_size_parse(params, &rows, &columns) != WIRE_OK)
                reply_error(ps, token, WIRE_INVALID_ARGS, "rows and columns are between 0 and 65535");
        else if (!p->tty)
                reply_error(ps, token, WIRE_INVALID_ARGS, "the process has no terminal");
        else
                process_ask(p, token, SUPERVISOR_RESIZE, rows, columns);
}

static void call_forget(Processes *ps, uint64_t token, Process *p)
{
        if (p->state != PROCESS_EXITED) {
                reply_error(ps, token, WIRE_INVALID_ARGS, "the process is running");
                return;
        }
        p->is_forgotten = true;
        if (p->control >= 0)
                (void)supervisor_say(p->control, SUPERVISOR_RELEASE, 0, 0);
        process_settle(p);
        reply_ok(ps, token);
}

static uint64_t process_lost_bytes(const Process *p, const char *name)
{
        _cleanup_close_ int fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? 0 : spool_lost(fd, name);
}

static json_object *process_describe(const Process *p)
{
        json_object *o = json_object_new_object();
        if (!o)
                return NULL;
        put(o, "id", json_object_new_string(p->id));
        put(o, "argv", json_object_get(p->argv));
        put(o, "pid", json_object_new_int(p->pid));
        put(o, "state", json_object_new_string(p->state == PROCESS_EXITED ? "exited" : "running"));
        put(o, "detached", json_object_new_boolean(p->detached));
        put(o, "tty", json_object_new_boolean(p->tty));
        if (p->state == PROCESS_EXITED)
                process_put_exit(p, o);
        if (p->dir) {
                put(o, "stdout_lost",
                    json_object_new_int64((int64_t)process_lost_bytes(p, SUPERVISOR_STDOUT)));
                put(o, "stderr_lost",
                    json_object_new_int64((int64_t)process_lost_bytes(p, SUPERVISOR_STDERR)));
        }
        return o;
}

/* In pieces that fit a message: "next" is the "from" to go on with. Numbers, not places: what is dropped in
 * between moves nothing. */
static void call_list(Processes *ps, uint64_t token, json_object *params)
{
        json_object *reply = json_object_new_object(), *list = json_object_new_array();
        int64_t from = message_int(params, "from", 0);
        const char *id = message_str(params, "id", NULL);
        size_t bytes = 0, i = 0;
        for (; list && i < ps->n && bytes < LIST_BYTES_MAX; i++) {
                const Process *p = ps->items[i];
                if (p->state == PROCESS_STARTING || p->serial < (uint64_t)MAX(from, (int64_t)0) ||
                    (id && !str_eq(id, p->id)))
                        continue;
                json_object *o = process_describe(p);
                const char *text = o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : NULL;
                bytes += text ? strlen(text) : 0;
                (void)json_object_array_add(list, o);
        }
        if (reply && i < ps->n)
                put(reply, "next", json_object_new_int64((int64_t)ps->items[i]->serial));
        if (reply)
                put(reply, "processes", list);
        else
                json_object_put(list);
        ps->ops->reply(ps->userdata, token, reply);
}

void process_call(Processes *ps, uint64_t token, const char *method, json_object *params)
{
        if (str_eq(method, "process.start")) {
                call_start(ps, token, params);
                return;
        }
        if (str_eq(method, "process.list")) {
                call_list(ps, token, params);
                return;
        }
        bool is_kill = str_eq(method, "process.kill"), is_resize = str_eq(method, "process.resize");
        if (!is_kill && !is_resize && !str_eq(method, "process.forget")) {
                reply_error(ps, token, WIRE_UNSUPPORTED, "no such method");
                return;
        }
        Process *p = processes_find(ps, message_str(params, "id", ""));
        if (!p)
                reply_error(ps, token, WIRE_NOT_FOUND, "no such process");
        else if (is_kill)
                call_kill(ps, token, p, params);
        else if (is_resize)
                call_resize(ps, token, p, params);
        else
                call_forget(ps, token, p);
}
