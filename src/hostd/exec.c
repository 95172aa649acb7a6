/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A process is over when its exit was told and its output streams have ended, whichever comes first. Ids are ours, so an
 * exit told before the streams are open, or while the session was away (then asked for by process.list), is matched.
 * Output of Run is gathered by the main thread from the same kind of pipes that Exec hands out.
 */

#include "hostd/exec.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/epoll.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/capture.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/name.h"

#define START_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define REQUEST_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define TERM_GRACE_USEC (5 * USEC_PER_SEC)     /* from SIGTERM to SIGKILL, and from there to giving up */
#define TIMEOUT_GRACE_USEC (15 * USEC_PER_SEC) /* the guest keeps the time; this is for one that doesn't */

typedef struct Process {
        Jobs *jobs;
        Job *job; /* NULL: freed, while streams are still to end */
        bool is_run, tty, detach;
        uint64_t timeout_usec;
        char **argv, *user;

        uint64_t request; /* process.start under way */
        ExecStarted started;
        RunDone run_done;
        void *userdata;
        int ours[3], callers[3]; /* of stdin, stdout, stderr */
        GuestStream *stdio, *err;
        bool out_ended, err_ended; /* nothing more comes; the stream may live on for stdin */
        uint64_t n_bytes;

        bool running, exited, timed_out;
        int exit_status, exit_signal;
        WireError error; /* WIRE_OK so far */
        char *text;
        LoopTimer *timer;
        enum { IN_TIME, TERMINATED, KILLED } ending;

        Capture *captures[2]; /* of Run: stdout, stderr */
        uint8_t *input;
        size_t n_input, n_input_done;
        LoopWatch *input_watch;
} Process;

static void process_free(Process *p)
{
        for (size_t i = 0; i < ELEMENTSOF(p->ours); i++) {
                fd_close(p->ours[i]);
                fd_close(p->callers[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(p->captures); i++)
                capture_free(p->captures[i]);
        loop_watch_free(p->input_watch);
        loop_timer_free(p->timer);
        g_strfreev(p->argv);
        g_free(p->user);
        g_free(p->text);
        g_free(p->input);
        g_free(p);
}

static void set_error(Process *p, WireError error, const char *text)
{
        if (p->error != WIRE_OK || error == WIRE_OK)
                return;
        p->error = error;
        p->text = job_text(p->job ? job_bare_text(p->job, text) : text);
}

static json_object *request_new(const char *method, const char *id)
{
        json_object *o = json_object_new_object();
        json_object_object_add(o, "method", json_object_new_string(method));
        if (id)
                json_object_object_add(o, "id", json_object_new_string(id));
        return o;
}

static void on_ignored(void *userdata, WireError error, const char *text, const Message *m)
{
        if (error != WIRE_OK)
                log_debug("A request about a process was not answered well: %s", text);
}

static bool can_ask(const Process *p)
{
        return p->job && p->job->guest && guest_state(p->job->guest) == GUEST_READY;
}

static int send_signal(Process *p, int signal)
{
        json_object *o;

        if (p->exited)
                return -ESRCH;
        if (!can_ask(p))
                return -ENOTCONN;
        o = request_new("process.kill", p->job->wire_id);
        json_object_object_add(o, "signal", json_object_new_int(signal));
        json_object_object_add(o, "tree", json_object_new_boolean(true));
        (void)guest_request(p->job->guest, o, NULL, 0, REQUEST_TIMEOUT_USEC, on_ignored, NULL);
        return 0;
}

static void cancel_streams(Process *p, WireError error, const char *text)
{
        if (p->stdio)
                guest_stream_cancel(p->stdio, error, text);
        if (p->err)
                guest_stream_cancel(p->err, error, text);
}

static int shell_status(const Process *p)
{
        return p->exit_signal > 0 ? 128 + p->exit_signal : p->exit_status;
}

static void audit(Process *p, const Job *j, WireError error, const char *text)
{
        audit_write(&(AuditEntry){
                .verb = "exec",
                .caller = j->caller,
                .guest_uuid = j->guest_uuid,
                .guest_name = j->guest_name,
                .job = j->hidden ? 0 : j->id,
                .id = j->wire_id,
                .command = (const char *const *)p->argv,
                .user = p->user,
                .has_bytes = true,
                .n_bytes = p->n_bytes,
                .has_exit = p->exited,
                .exit_status = shell_status(p),
                .error = error,
                .text = text,
        });
}

static void show_exit(Process *p)
{
        JobProcess *shown = p->job->process;

        if (!shown || !p->exited || shown->exited)
                return;
        shown->exited = true;
        shown->exit_status = p->exit_signal > 0 ? -1 : p->exit_status;
        shown->exit_signal = p->exit_signal;
        job_set_process(p->jobs, p->job, shown);
}

static void finish(Process *p)
{
        Job *j = p->job;
        g_autofree char *sentence = NULL;

        p->running = false;
        p->input_watch = loop_watch_free(p->input_watch);
        p->callers[0] = fd_close(p->callers[0]);
        loop_timer_set(p->timer, USEC_INFINITY, 0);
        if (p->error != WIRE_OK)
                sentence = g_strdup_printf("%s in guest %s: %s", j->process->argv[0], j->guest_name, p->text);
        audit(p, j, p->error, sentence);
        show_exit(p);
        job_finish(p->jobs, j, p->error, sentence, NULL);

        if (p->run_done) {
                RunDone done = TAKE(p->run_done);
                RunResult r = { .exit_status = shell_status(p) };

                r.out = capture_bytes(p->captures[0], &r.n_out);
                r.err = capture_bytes(p->captures[1], &r.n_err);
                done(p->userdata, p->error, sentence, p->error == WIRE_OK ? &r : NULL);
                for (size_t k = 0; k < ELEMENTSOF(p->captures); k++)
                        p->captures[k] = capture_free(p->captures[k]);
        }
        if (p->stdio) /* its half for stdin, which nobody reads any more */
                guest_stream_cancel(p->stdio, WIRE_CANCELLED, "The process has ended");
        if (p->err)
                guest_stream_cancel(p->err, WIRE_CANCELLED, "The process has ended");
}

static bool outputs_ended(const Process *p)
{
        if ((p->stdio && !p->out_ended) || (p->err && !p->err_ended))
                return false;
        for (size_t i = 0; i < ELEMENTSOF(p->captures); i++)
                if (p->captures[i] && !capture_is_done(p->captures[i]))
                        return false;
        return true;
}

static void check_end(Process *p)
{
        if (p->running && outputs_ended(p) && (p->exited || p->error != WIRE_OK))
                finish(p);
}

/* SIGTERM to all of it, SIGKILL later, and at last without the guest's word. */
static void end_process(Process *p, WireError error, const char *text)
{
        set_error(p, error, text);
        p->detach = false;
        if (p->exited) {
                cancel_streams(p, error, text);
                check_end(p);
                return;
        }
        if (p->ending != IN_TIME)
                return;
        p->ending = TERMINATED;
        (void)send_signal(p, SIGTERM);
        loop_timer_set(p->timer, fs_now_usec() + TERM_GRACE_USEC, USEC_PER_SEC / 10);
}

static void on_timer(void *userdata)
{
        Process *p = userdata;

        if (p->ending == IN_TIME) {
                end_process(p, WIRE_TIMEOUT, "It ran longer than its timeout");
        } else if (p->ending == TERMINATED && send_signal(p, SIGKILL) == 0) {
                p->ending = KILLED;
                loop_timer_set(p->timer, fs_now_usec() + TERM_GRACE_USEC, USEC_PER_SEC / 10);
        } else {
                set_error(p, WIRE_INTERRUPTED, "The guest does not tell of its end");
                finish(p);
        }
}

static void set_exit(Process *p, json_object *o)
{
        int64_t status = message_int(o, "exit_status", 0), sig = message_int(o, "exit_signal", 0);

        if (p->exited)
                return;
        p->exited = true;
        p->exit_status = (int)(status & 0xff);
        p->exit_signal = sig > 0 && sig < 128 ? (int)sig : 0;
        p->timed_out = message_bool(o, "timed_out", false);
        if (p->timed_out)
                set_error(p, WIRE_TIMEOUT, "It ran longer than its timeout and was ended");
        loop_timer_set(p->timer, USEC_INFINITY, 0);
        if (p->error == WIRE_CANCELLED || p->error == WIRE_TOO_LARGE)
                cancel_streams(p, p->error, p->text);
        check_end(p);
}

static void stream_closed(Process *p, GuestStream **stream, WireError error, const char *text, uint64_t n)
{
        *stream = NULL;
        p->n_bytes += n;
        if (!p->job) {
                if (!p->stdio && !p->err)
                        process_free(p);
                return;
        }
        /* Cancelled, and not by us: the reader of its output has left, which the process is to notice by itself. */
        if (error != WIRE_OK && error != WIRE_CANCELLED && p->error == WIRE_OK && p->running) {
                set_error(p, error, text); /* its output is not whole, however it ends */
                (void)send_signal(p, SIGKILL);
                cancel_streams(p, error, text);
        }
        check_end(p);
}

static void on_stdio_closed(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
        Process *p = userdata;
        stream_closed(p, &p->stdio, error, text, n_in + n_out);
}

static void on_stderr_closed(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
        Process *p = userdata;
        stream_closed(p, &p->err, error, text, n_out);
}

static void on_stdio_ended(void *userdata)
{
        Process *p = userdata;
        p->out_ended = true;
        if (p->job)
                check_end(p);
}

static void on_stderr_ended(void *userdata)
{
        Process *p = userdata;
        p->err_ended = true;
        if (p->job)
                check_end(p);
}

static GuestStream *open_stream(Process *p, const char *kind, int in_fd, int out_fd, void (*ended)(void *),
                                void (*closed)(void *, WireError, const char *, uint64_t, uint64_t))
{
        json_object *o = json_object_new_object();

        json_object_object_add(o, "kind", json_object_new_string(kind));
        json_object_object_add(o, "process", json_object_new_string(p->job->wire_id));
        return guest_stream_open(p->job->guest, &(GuestStreamConfig){
                                                        .params = o,
                                                        .in_fd = in_fd,
                                                        .out_fd = out_fd,
                                                        .ended = ended,
                                                        .closed = closed,
                                                        .userdata = p,
                                                });
}

static void on_spool_closed(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
}

static int on_kill(void *userdata, int signal)
{
        return send_signal(userdata, signal);
}

static int on_resize(void *userdata, uint16_t rows, uint16_t columns)
{
        Process *p = userdata;
        json_object *o;

        if (!p->tty)
                return -ENOTTY;
        if (p->exited)
                return -ESRCH;
        if (!can_ask(p))
                return -ENOTCONN;
        o = request_new("process.resize", p->job->wire_id);
        json_object_object_add(o, "rows", json_object_new_int(rows));
        json_object_object_add(o, "columns", json_object_new_int(columns));
        (void)guest_request(p->job->guest, o, NULL, 0, REQUEST_TIMEOUT_USEC, on_ignored, NULL);
        return 0;
}

static int on_attach(void *userdata, int ret_fds[2])
{
        static const char *const outputs[] = { "stdout", "stderr" };
        Process *p = userdata;
        int fds[2] = { -EBADF, -EBADF };

        if (!p->job->detached)
                return -ENOTSUP;
        if (!can_ask(p))
                return -ENOTCONN;
        for (size_t i = 0; i < 2; i++) {
                json_object *o = json_object_new_object();
                int pipes[2];

                if (pipe2(pipes, O_CLOEXEC) < 0) {
                        int r = -errno;
                        json_object_put(o);
                        fd_close(fds[0]);
                        return r;
                }
                fds[i] = pipes[0];
                json_object_object_add(o, "kind", json_object_new_string("spool"));
                json_object_object_add(o, "process", json_object_new_string(p->job->wire_id));
                json_object_object_add(o, "output", json_object_new_string(outputs[i]));
                (void)guest_stream_open(p->job->guest, &(GuestStreamConfig){
                                                               .params = o,
                                                               .in_fd = -1,
                                                               .out_fd = pipes[1],
                                                               .closed = on_spool_closed,
                                                       });
        }
        ret_fds[0] = fds[0];
        ret_fds[1] = fds[1];
        return 0;
}

static void on_captured(void *userdata, bool is_too_large)
{
        Process *p = userdata;

        if (is_too_large)
                end_process(p, WIRE_TOO_LARGE, "It wrote more than 16 MiB, the most that Run returns of each output; "
                                               "Exec has no such limit");
        check_end(p);
}

static void on_input(void *userdata, uint32_t events)
{
        Process *p = userdata;
        ssize_t n = write(p->callers[0], p->input + p->n_input_done, p->n_input - p->n_input_done);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n > 0)
                p->n_input_done += (size_t)n;
        if (n >= 0 && p->n_input_done < p->n_input)
                return;
        p->input_watch = loop_watch_free(p->input_watch); /* all is written, or nobody reads it any more */
        p->callers[0] = fd_close(p->callers[0]);
}

static bool start_capture(Process *p)
{
        Loop *l = loop_default();

        for (size_t i = 0; i < ELEMENTSOF(p->captures); i++) {
                p->captures[i] = capture_new(l, TAKE_FD(p->callers[i + 1]), CAPTURE_MAX, on_captured, p);
                if (!p->captures[i])
                        return false;
        }
        if (p->input && (!g_unix_set_fd_nonblocking(p->callers[0], TRUE, NULL) ||
                         !(p->input_watch = loop_watch_new(l, p->callers[0], EPOLLOUT, on_input, p))))
                return false;
        return true;
}

/* The guest would not start it. Where it is argv[0] that cannot be run, Run has an ordinary result: 126 or 127. */
static void not_started(Process *p, WireError error, const char *text, const Message *m)
{
        ExecStarted started = TAKE(p->started);
        RunDone run_done = TAKE(p->run_done);
        Jobs *js = p->jobs;
        Job *j = p->job;
        int status = m ? (int)message_int(m->json, "exit_status", 0) : error == WIRE_NOT_FOUND ? 127 : 0;
        void *userdata = p->userdata;
        g_autofree char *sentence = g_strdup_printf("Cannot run %s in guest %s: %s", p->argv[0], j->guest_name,
                                                    job_bare_text(j, text));
        g_autofree char *line = g_strdup_printf("%s\n", sentence);

        if (error == WIRE_CANCELLED || (error == WIRE_OK && p->error != WIRE_OK))
                error = WIRE_CANCELLED;
        audit(p, j, error, sentence);
        jobs_drop(js, j); /* p is gone */
        if (started)
                started(userdata, error, sentence, NULL, NULL);
        else if (run_done && (status == 126 || status == 127) &&
                 (error == WIRE_NOT_FOUND || error == WIRE_PERMISSION_DENIED))
                run_done(userdata, WIRE_OK, NULL,
                         &(RunResult){ .exit_status = status, .err = (uint8_t *)line, .n_err = strlen(line) });
        else if (run_done)
                run_done(userdata, error, sentence, NULL);
}

static void on_started(void *userdata, WireError error, const char *text, const Message *m)
{
        Process *p = userdata;
        Job *j = p->job;

        p->request = 0;
        if (error == WIRE_OK && !j->guest) {
                error = WIRE_INTERRUPTED;
                text = "The domain was undefined";
        }
        if (error == WIRE_OK && p->is_run && !start_capture(p)) {
                (void)send_signal(p, SIGKILL);
                error = WIRE_LIMITS_EXCEEDED;
                text = "hostd is out of file descriptors or memory";
        }
        if (error != WIRE_OK) {
                not_started(p, error, text, error == WIRE_OK ? NULL : m);
                return;
        }

        JobProcess *shown = job_process_new((const char *const *)p->argv);
        shown->guest_pid = (uint32_t)message_int(m->json, "pid", 0);
        shown->kill = on_kill;
        shown->resize = on_resize;
        shown->attach = on_attach;
        job_set_process(p->jobs, j, shown);
        p->running = true;
        j->hidden = false;

        if (!p->detach) {
                p->stdio = open_stream(p, "stdio", TAKE_FD(p->ours[0]), TAKE_FD(p->ours[1]), on_stdio_ended,
                                       on_stdio_closed);
                if (!p->tty)
                        p->err = open_stream(p, "stderr", -1, TAKE_FD(p->ours[2]), on_stderr_ended, on_stderr_closed);
                if (!p->stdio || (!p->tty && !p->err))
                        set_error(p, WIRE_FAILED, "No stream to the guest could be made");
        }
        if (p->timeout_usec != USEC_INFINITY && p->timeout_usec < USEC_INFINITY - fs_now_usec() - TIMEOUT_GRACE_USEC)
                loop_timer_set(p->timer, fs_now_usec() + p->timeout_usec + TIMEOUT_GRACE_USEC, USEC_PER_SEC);

        if (p->started) {
                ExecStarted started = TAKE(p->started);
                started(p->userdata, WIRE_OK, NULL, j, p->callers);
                for (size_t i = 0; i < ELEMENTSOF(p->callers); i++)
                        p->callers[i] = fd_close(p->callers[i]);
        }
        jobs_announce(p->jobs, j);
        if (p->error != WIRE_OK) { /* cancelled meanwhile, or without its streams */
                WireError e = p->error;
                end_process(p, e, p->text);
        }
        check_end(p);
}

/* The session is a new one: what was told while there was none is asked for. */
static void on_listed(void *userdata, WireError error, const char *text, const Message *m)
{
        uint32_t id = GPOINTER_TO_UINT(((gpointer *)userdata)[1]);
        Jobs *js = ((gpointer *)userdata)[0];
        Job *j;

        g_free(userdata);
        if (error != WIRE_OK || !(j = jobs_find(js, id)) || job_state_is_final(j->state))
                return; /* the next session will be asked again */
        Process *p = j->userdata;
        json_object *list = message_obj(m->json, "processes");
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

        for (size_t i = 0; i < n; i++) {
                json_object *o = json_object_array_get_idx(list, i);
                if (!str_eq(message_str(o, "id", ""), j->wire_id))
                        continue;
                job_set_state(js, j, JOB_RUNNING);
                if (str_eq(message_str(o, "state", ""), "exited"))
                        set_exit(p, o);
                return;
        }
        if (p->exited)
                return;
        set_error(p, WIRE_INTERRUPTED, "The guest was restarted, or its daemon, and the process with it");
        cancel_streams(p, p->error, p->text);
        check_end(p);
}

static void on_guest_state(void *userdata, Job *j)
{
        Process *p = userdata;
        bool off = !j->guest || guest_state(j->guest) == GUEST_OFF;

        if (!p->running)
                return;
        if (off) {
                set_error(p, WIRE_INTERRUPTED, j->guest ? "The guest was stopped" : "The domain was undefined");
                cancel_streams(p, p->error, p->text);
                check_end(p);
        } else if (guest_state(j->guest) == GUEST_READY) {
                gpointer *ref = g_new0(gpointer, 2);
                ref[0] = p->jobs;
                ref[1] = GUINT_TO_POINTER(j->id);
                if (p->ending != IN_TIME)
                        (void)send_signal(p, p->ending == KILLED ? SIGKILL : SIGTERM);
                (void)guest_request(j->guest, request_new("process.list", NULL), NULL, 0, REQUEST_TIMEOUT_USEC, on_listed,
                                    ref);
        } else if (p->detach)
                job_set_state(p->jobs, j, JOB_WAITING);
}

static void on_notify(void *userdata, Job *j, const Message *m)
{
        if (str_eq(message_str(m->json, "method", ""), "process.exited") &&
            str_eq(message_str(m->json, "id", ""), j->wire_id))
                set_exit(userdata, m->json);
}

static void on_start(void *userdata, Job *j)
{
        /* Reserved jobs are started by the guest's answer. */
}

static void on_cancel(void *userdata, Job *j)
{
        Process *p = userdata;

        if (p->running)
                end_process(p, WIRE_CANCELLED, "Cancelled");
        else
                set_error(p, WIRE_CANCELLED, "Cancelled"); /* on_started() looks */
}

static void on_free(void *userdata)
{
        Process *p = userdata;

        if (p->request != 0 && p->job && p->job->guest)
                guest_cancel(p->job->guest, p->request);
        if (p->job && p->job->detached && p->exited && can_ask(p))
                (void)guest_request(p->job->guest, request_new("process.forget", p->job->wire_id), NULL, 0,
                                    REQUEST_TIMEOUT_USEC, on_ignored, NULL);
        p->job = NULL;
        p->running = false;
        if (p->stdio || p->err)
                cancel_streams(p, WIRE_INTERRUPTED, "hostd ends");
        else
                process_free(p);
}

static const JobOps ops = {
        .start = on_start,
        .cancel = on_cancel,
        .free = on_free,
        .guest_state = on_guest_state,
        .notify = on_notify,
};

WireError exec_check_command(const char *const *argv, const ExecOptions *options, char **ret_text)
{
        size_t n = 0, n_env = 0, n_bytes = 0;

        for (; argv[n]; n++)
                n_bytes += strlen(argv[n]) + 1;
        for (; options->env && options->env[n_env]; n_env++)
                n_bytes += strlen(options->env[n_env]) + 1;
        if (n == 0 || !*argv[0])
                *ret_text = g_strdup("argv must name a command");
        else if (options->cwd && !name_is_absolute_path(options->cwd))
                *ret_text = g_strdup("cwd must be an absolute path");
        if (*ret_text)
                return WIRE_INVALID_ARGS;
        if (n <= ARGV_MAX && n_env <= ARGV_MAX && n_bytes <= ARGV_BYTES_MAX)
                return WIRE_OK;
        *ret_text = g_strdup_printf("argv and env may have %u elements each and %u bytes together", ARGV_MAX, ARGV_BYTES_MAX);
        return WIRE_TOO_LARGE;
}

static json_object *start_request(const Job *j, const char *const *argv, const ExecOptions *o, bool is_run)
{
        json_object *json = request_new("process.start", j->wire_id), *list = json_object_new_array();

        for (; *argv; argv++)
                json_object_array_add(list, json_object_new_string(*argv));
        json_object_object_add(json, "argv", list);
        if (o->env) {
                json_object *env = json_object_new_object();
                for (const char *const *e = o->env; *e; e++) {
                        const char *eq = strchr(*e, '=');
                        g_autofree char *key = g_strndup(*e, eq ? (size_t)(eq - *e) : strlen(*e));
                        json_object_object_add(env, key, json_object_new_string(eq ? eq + 1 : ""));
                }
                json_object_object_add(json, "env", env);
        }
        if (o->cwd)
                json_object_object_add(json, "cwd", json_object_new_string(o->cwd));
        if (o->user)
                json_object_object_add(json, "user", json_object_new_string(o->user));
        if (o->timeout_usec <= INT64_MAX)
                json_object_object_add(json, "timeout", json_object_new_int64((int64_t)o->timeout_usec));
        json_object_object_add(json, "tty", json_object_new_boolean(o->tty));
        if (o->tty) {
                json_object_object_add(json, "rows", json_object_new_int(o->rows));
                json_object_object_add(json, "columns", json_object_new_int(o->columns));
        }
        json_object_object_add(json, "detach", json_object_new_boolean(o->detach));
        json_object_object_add(json, "stdin", json_object_new_boolean(!o->detach && (!is_run || o->input)));
        json_object_object_add(json, "stdout", json_object_new_boolean(!o->detach));
        json_object_object_add(json, "stderr", json_object_new_boolean(!o->detach && !o->tty));
        return json;
}

static int make_pipes(Process *p, const ExecOptions *o)
{
        for (int i = 0; i < 3; i++) {
                bool is_null = o->detach || (i == 2 && o->tty);
                int fds[2];

                if (i == 0 && p->is_run && !o->input)
                        continue;
                if (is_null) {
                        p->callers[i] = open("/dev/null", (i == 0 ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
                        if (p->callers[i] < 0)
                                return -errno;
                        continue;
                }
                if (pipe2(fds, O_CLOEXEC) < 0)
                        return -errno;
                p->ours[i] = fds[i == 0 ? 0 : 1];
                p->callers[i] = fds[i == 0 ? 1 : 0];
        }
        return 0;
}

static WireError begin(Process *p, Guest *g, const Caller *caller, const char *const *argv, const ExecOptions *o,
                       char **ret_text)
{
        g_autofree char *line = g_strjoinv(" ", (char **)argv);
        WireError error;
        int r;

        p->ours[0] = p->ours[1] = p->ours[2] = -EBADF;
        p->callers[0] = p->callers[1] = p->callers[2] = -EBADF;
        p->argv = g_strdupv((char **)argv);
        p->user = g_strdup(o->user);
        p->tty = o->tty;
        p->detach = o->detach;
        p->timeout_usec = o->timeout_usec;
        p->timer = loop_timer_new(loop_default(), on_timer, p);
        if (p->is_run && o->input) {
                p->input = g_memdup2(o->input, MAX(o->n_input, 1));
                p->n_input = o->n_input;
        }

        if ((error = exec_check_command(argv, o, ret_text)) == WIRE_OK &&
            (error = jobs_check_guest(g, ret_text)) == WIRE_OK && !o->detach && !guest_domain(g)->data_socket) {
                *ret_text = g_strdup_printf("Guest %s has no data channel, which a command's output needs; "
                                            "\"vmferry enable %s\" adds it",
                                            guest_name(g), guest_name(g));
                error = WIRE_NO_CHANNEL;
        }
        if (error == WIRE_OK && (!p->timer || (r = make_pipes(p, o)) < 0)) {
                *ret_text = g_strdup("hostd is out of file descriptors or memory");
                error = WIRE_LIMITS_EXCEEDED;
        }
        if (error != WIRE_OK) {
                process_free(p);
                return error;
        }
        error = jobs_reserve(p->jobs, JOB_EXEC, g, caller, line, "", &ops, p, &p->job, ret_text);
        if (error != WIRE_OK)
                return error;
        p->job->detached = o->detach;
        p->request = guest_request(g, start_request(p->job, argv, o, p->is_run), NULL, 0, START_TIMEOUT_USEC, on_started, p);
        return WIRE_OK;
}

void exec_start(Jobs *js, Guest *g, const Caller *caller, const char *const *argv, const ExecOptions *options,
                ExecStarted started, void *userdata)
{
        g_autofree char *text = NULL;
        Process *p = g_new0(Process, 1);
        WireError error;

        p->jobs = js;
        p->started = started;
        p->userdata = userdata;
        error = begin(p, g, caller, argv, options, &text);
        if (error != WIRE_OK)
                started(userdata, error, text, NULL, NULL);
}

void exec_run(Jobs *js, Guest *g, const Caller *caller, const char *const *argv, const ExecOptions *options, RunDone done,
              void *userdata)
{
        g_autofree char *text = NULL;
        Process *p = g_new0(Process, 1);
        WireError error;

        p->jobs = js;
        p->is_run = true;
        p->run_done = done;
        p->userdata = userdata;
        error = begin(p, g, caller, argv, options, &text);
        if (error != WIRE_OK)
                done(userdata, error, text, NULL);
}
