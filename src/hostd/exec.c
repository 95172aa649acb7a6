/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A process is over when its exit was told and its output streams have ended, whichever comes first. Ids are
 * ours, so an exit told before the streams are open, or while the session was away (then asked for by
 * process.list), is matched. Output of Run is gathered by the main thread from the same kind of pipes that
 * Exec hands out. The end of a process stays the guest's to remember until it is forgotten there, which the
 * end of its job brings about.
 */

#include "hostd/exec-private.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <sys/epoll.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/log.h"
#include "proto/limits.h"
#include "proto/message.h"

#define START_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define LIST_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define GRACE_USEC_DEFAULT (5 * USEC_PER_SEC)  /* of a guest that does not tell its own */
#define GRACE_USEC_MAX (3600 * USEC_PER_SEC)   /* as guestd.conf has it */
#define SLACK_USEC USEC_PER_SEC                /* the guest sends SIGKILL first */
#define GIVE_UP_USEC (5 * USEC_PER_SEC)        /* from SIGKILL, or where the guest does not answer */
#define TIMEOUT_SLACK_USEC (10 * USEC_PER_SEC) /* the guest keeps the time; this is for one that doesn't */

static void on_timer(void *userdata);

void exec_done_outputs(Process *p)
{
        p->input_watch = loop_watch_free(p->input_watch);
        for (size_t i = 0; i < ELEMENTSOF(p->captures); i++)
                p->captures[i] = capture_free(p->captures[i]);
        for (size_t i = 0; i < ELEMENTSOF(p->ours); i++) {
                p->ours[i] = fd_close(p->ours[i]);
                p->callers[i] = fd_close(p->callers[i]);
        }
}

static void process_free(Process *p)
{
        exec_done_outputs(p);
        loop_timer_free(p->timer);
        g_strfreev(p->argv);
        g_free(p->user);
        g_free(p->text);
        g_free(p->input);
        g_free(p);
}

Process *exec_process_new(Jobs *js, const char *const *argv, const char *user)
{
        Process *p = g_new0(Process, 1);

        p->jobs = js;
        p->argv = g_strdupv((char **)argv);
        p->user = g_strdup(user);
        p->timeout_usec = USEC_INFINITY;
        p->grace_usec = GRACE_USEC_DEFAULT;
        p->timer = loop_timer_new(loop_default(), on_timer, p);
        for (size_t i = 0; i < ELEMENTSOF(p->ours); i++)
                p->ours[i] = p->callers[i] = -EBADF;
        return p;
}

void exec_set_grace(Process *p, json_object *untrusted)
{
        int64_t grace = message_int(untrusted, "grace", (int64_t)GRACE_USEC_DEFAULT);

        p->grace_usec = MIN((uint64_t)MAX(grace, (int64_t)0), GRACE_USEC_MAX);
}

static void set_error(Process *p, WireError error, const char *text)
{
        if (p->error != WIRE_OK || error == WIRE_OK)
                return;
        p->error = error;
        p->text = job_text(p->job ? job_bare_text(p->job->guest_name, text) : text);
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

void exec_show(Process *p, uint32_t guest_pid)
{
        JobProcess *shown = job_process_new((const char *const *)p->argv);

        shown->guest_pid = guest_pid;
        shown->has_tty = p->tty;
        shown->has_spool = p->job->detached;
        job_set_process(p->jobs, p->job, shown);
}

void exec_show_exit(Process *p)
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
                sentence =
                        g_strdup_printf("%s in guest %s: %s", j->process->argv[0], j->guest_name, p->text);
        audit(p, j, p->error, sentence);
        exec_show_exit(p);
        exec_abandon_running(p);
        job_finish(p->jobs, j, p->error, sentence, NULL);
        if (j->detached)
                exec_keep(p); /* its output is still to be had */
        else if (p->exited)
                exec_tell(j, exec_request_new("process.forget", j->wire_id));

        if (p->run_done) {
                RunDone done = TAKE(p->run_done);
                RunResult r = { .exit_status = shell_status(p) };

                r.out = capture_bytes(p->captures[0], &r.n_out);
                if (p->captures[1])
                        r.err = capture_bytes(p->captures[1], &r.n_err);
                done(p->userdata, p->error, sentence, p->error == WIRE_OK ? &r : NULL);
                for (size_t k = 0; k < ELEMENTSOF(p->captures); k++)
                        p->captures[k] = capture_free(p->captures[k]);
        }
}

static bool outputs_ended(Process *p)
{
        for (size_t i = 0; i < ELEMENTSOF(p->captures); i++)
                if (p->captures[i] && !capture_is_done(p->captures[i]))
                        return false;
        /* Nobody is there any more to read what its caller may still have for it. */
        if (p->stdio && p->out_ended && p->exited)
                guest_stream_cancel(p->stdio, WIRE_CANCELLED, "The process has ended");
        return !p->stdio && !p->err;
}

static void check_end(Process *p)
{
        if (p->running && outputs_ended(p) && (p->exited || p->error != WIRE_OK))
                finish(p);
}

/* All of the guest's grace, but only as long as it answers: nobody waits that long for a paused one. */
static void arm_kill(Process *p)
{
        uint64_t patience = fs_now_usec() + GIVE_UP_USEC;

        loop_timer_set(p->timer, exec_can_ask(p->job) ? p->kill_at : MIN(p->kill_at, patience),
                       USEC_PER_SEC / 10);
}

/* SIGTERM to all of it, SIGKILL later, and at last without the guest's word. */
static void end_process(Process *p, WireError error, const char *text)
{
        set_error(p, error, text);
        if (p->ending == IN_TIME) {
                p->ending = TERMINATED;
                (void)exec_tell_signal(p->job, SIGTERM);
                p->kill_at = fs_now_usec() + p->grace_usec + SLACK_USEC;
                arm_kill(p);
        }
        if (p->exited) {
                cancel_streams(p, error, text);
                check_end(p);
        }
}

static void on_timer(void *userdata)
{
        Process *p = userdata;

        if (p->is_abandoned) {
                exec_abandoned_timer(p);
        } else if (p->ending == IN_TIME) {
                end_process(p, WIRE_TIMEOUT, "It ran longer than its timeout");
        } else if (p->ending == TERMINATED && exec_tell_signal(p->job, SIGKILL) == 0) {
                p->ending = KILLED;
                loop_timer_set(p->timer, fs_now_usec() + GIVE_UP_USEC, USEC_PER_SEC / 10);
        } else {
                set_error(p, WIRE_INTERRUPTED, "The guest does not tell of its end");
                cancel_streams(p, p->error, p->text);
                check_end(p);
        }
}

static uint64_t timeout_slack(const Process *p)
{
        return p->grace_usec + TIMEOUT_SLACK_USEC;
}

/* Comes again, with timed_out, when what the process has left behind is ended. */
static void set_exit(Process *p, json_object *o)
{
        int64_t status = message_int(o, "exit_status", 0), sig = message_int(o, "exit_signal", 0);

        if (!p->exited) {
                p->exited = true;
                p->exit_status = (int)(status & 0xff);
                p->exit_signal = sig > 0 && sig < 128 ? (int)sig : 0;
                if (p->ending == IN_TIME)
                        loop_timer_set(p->timer, USEC_INFINITY, 0);
        }
        if (message_bool(o, "timed_out", false) && !p->timed_out) {
                p->timed_out = true;
                p->ending = KILLED; /* by the guest, soon; whoever reads its output has that long */
                set_error(p, WIRE_TIMEOUT, "It ran longer than its timeout and was ended");
                loop_timer_set(p->timer, fs_now_usec() + timeout_slack(p), USEC_PER_SEC);
        }
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
        /* Cancelled, and not by us: the reader of its output has left, which the process is to notice by
         * itself. */
        if (error != WIRE_OK && error != WIRE_CANCELLED && p->error == WIRE_OK && p->running) {
                set_error(p, error, text); /* its output is not whole, however it ends */
                (void)exec_tell_signal(p->job, SIGKILL);
                cancel_streams(p, error, text);
        }
        check_end(p);
}

static void on_stdio_closed(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
        Process *p = userdata;
        stream_closed(p, &p->stdio, error, text, n_in + n_out);
}

static void on_stderr_closed(void *userdata, WireError error, const char *text, uint64_t n_in,
                             uint64_t n_out)
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
        /* Its other half is none, so it is closed next. */
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

static void on_captured(void *userdata, bool is_too_large)
{
        Process *p = userdata;

        if (is_too_large)
                end_process(p, WIRE_TOO_LARGE,
                            "It wrote more than 16 MiB, the most that Run returns of each output; "
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
                if (p->callers[i + 1] < 0)
                        continue; /* stderr, with a terminal */
                p->captures[i] = capture_new(l, TAKE_FD(p->callers[i + 1]), CAPTURE_MAX, on_captured, p);
                if (!p->captures[i])
                        return false;
        }
        if (p->input && (!g_unix_set_fd_nonblocking(p->callers[0], TRUE, NULL) ||
                         !(p->input_watch = loop_watch_new(l, p->callers[0], EPOLLOUT, on_input, p))))
                return false;
        return true;
}

/* The guest would not start it, or it may have, and nobody knows of it. Where it is argv[0] that cannot be
 * run, Run has an ordinary result: 126 or 127. */
static void not_started(Process *p, WireError error, const char *text, const Message *m, bool may_run)
{
        ExecStarted started = TAKE(p->started);
        RunDone run_done = TAKE(p->run_done);
        Jobs *js = p->jobs;
        Job *j = p->job;
        int status = m ? (int)message_int(m->json, "exit_status", 0) : 0;
        void *userdata = p->userdata;
        g_autofree char *sentence = g_strdup_printf("Cannot run %s in guest %s: %s", p->argv[0],
                                                    j->guest_name, job_bare_text(j->guest_name, text));
        g_autofree char *line = g_strdup_printf("%s\n", sentence);

        if (error == WIRE_CANCELLED || (error == WIRE_OK && p->error != WIRE_OK))
                error = WIRE_CANCELLED;
        audit(p, j, error, sentence);
        if (!may_run || !exec_abandon(p)) {
                exec_forget(p);
                jobs_drop(js, j); /* p is gone */
        }
        if (started)
                started(userdata, error, sentence, NULL, NULL);
        else if (run_done && (status == 126 || status == 127) &&
                 (error == WIRE_NOT_FOUND || error == WIRE_PERMISSION_DENIED))
                run_done(userdata, WIRE_OK, NULL,
                         &(RunResult){
                                 .exit_status = status, .err = (uint8_t *)line, .n_err = strlen(line) });
        else if (run_done)
                run_done(userdata, error, sentence, NULL);
}

static void on_started(void *userdata, WireError error, const char *text, const Message *m)
{
        Process *p = userdata;
        Job *j = p->job;
        bool may_run = error == WIRE_OK || !m;

        p->request = 0;
        if (error == WIRE_OK && !j->guest) {
                error = WIRE_INTERRUPTED;
                text = "The domain was undefined";
        }
        if (error == WIRE_OK && p->is_run && !start_capture(p)) {
                error = WIRE_LIMITS_EXCEEDED;
                text = "hostd is out of file descriptors or memory";
        }
        if (error != WIRE_OK) {
                not_started(p, error, text, m, may_run);
                return;
        }

        exec_show(p, (uint32_t)message_int(m->json, "pid", 0));
        exec_set_grace(p, m->json);
        p->running = true;
        j->hidden = false;

        if (!j->detached) {
                p->stdio = open_stream(p, "stdio", TAKE_FD(p->ours[0]), TAKE_FD(p->ours[1]), on_stdio_ended,
                                       on_stdio_closed);
                if (!p->tty)
                        p->err = open_stream(p, "stderr", -1, TAKE_FD(p->ours[2]), on_stderr_ended,
                                             on_stderr_closed);
                if (!p->stdio || (!p->tty && !p->err))
                        set_error(p, WIRE_FAILED, "No stream to the guest could be made");
        }
        if (p->timeout_usec != USEC_INFINITY &&
            p->timeout_usec < USEC_INFINITY - fs_now_usec() - timeout_slack(p))
                loop_timer_set(p->timer, fs_now_usec() + p->timeout_usec + timeout_slack(p), USEC_PER_SEC);

        if (p->started) {
                ExecStarted started = TAKE(p->started);
                started(p->userdata, WIRE_OK, NULL, j, p->callers);
                for (size_t i = 0; i < ELEMENTSOF(p->callers); i++)
                        p->callers[i] = fd_close(p->callers[i]);
        }
        jobs_announce(p->jobs, j);
        exec_keep(p);
        if (p->error != WIRE_OK) { /* cancelled meanwhile, or without its streams */
                WireError e = p->error;
                end_process(p, e, p->text);
        }
        check_end(p);
}

static void on_listed(void *userdata, WireError error, const char *text, const Message *m)
{
        Process *p = userdata;

        p->listing = 0;
        if (error != WIRE_OK || !p->running)
                return; /* the next session will be asked again */
        json_object *list = message_obj(m->json, "processes");
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

        for (size_t i = 0; i < n; i++) {
                json_object *o = json_object_array_get_idx(list, i);
                if (!str_eq(message_str(o, "id", ""), p->job->wire_id))
                        continue;
                job_set_state(p->jobs, p->job, JOB_RUNNING);
                if (str_eq(message_str(o, "state", ""), "exited"))
                        set_exit(p, o);
                return;
        }
        if (p->exited)
                return;
        p->is_unknown = true;
        set_error(p, WIRE_INTERRUPTED, "The guest was restarted, or its daemon, and the process with it");
        cancel_streams(p, p->error, p->text);
        check_end(p);
}

/* The session is a new one: what was told while there was none is asked for. */
static void ask_for_it(Process *p)
{
        json_object *o = exec_request_new("process.list", p->job->wire_id);

        p->listing = guest_request(p->job->guest, o, NULL, 0, LIST_TIMEOUT_USEC, on_listed, p);
}

static void on_guest_state(void *userdata, Job *j)
{
        Process *p = userdata;
        bool off = !j->guest || guest_state(j->guest) == GUEST_OFF;

        if (p->is_abandoned) {
                exec_abandoned_guest_state(p);
                return;
        }
        if (!p->running)
                return;
        if (p->ending == TERMINATED)
                arm_kill(p);
        if (off) {
                set_error(p, WIRE_INTERRUPTED,
                          j->guest ? "The guest was stopped" : "The domain was undefined");
                cancel_streams(p, p->error, p->text);
                check_end(p);
        } else if (guest_state(j->guest) == GUEST_READY) {
                if (p->ending != IN_TIME)
                        (void)exec_tell_signal(j, p->ending == KILLED ? SIGKILL : SIGTERM);
                if (p->listing == 0)
                        ask_for_it(p);
        } else if (j->detached)
                job_set_state(p->jobs, j, JOB_WAITING);
}

static void on_notify(void *userdata, Job *j, const Message *m)
{
        Process *p = userdata;

        if (!str_eq(message_str(m->json, "method", ""), "process.exited") ||
            !str_eq(message_str(m->json, "id", ""), j->wire_id))
                return;
        if (p->is_abandoned)
                exec_abandoned_ended(p);
        else
                set_exit(p, m->json);
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

        if (p->job && p->job->guest) {
                guest_cancel(p->job->guest, p->request);
                guest_cancel(p->job->guest, p->listing);
        }
        if (p->job && !p->job->hidden)
                exec_forget(p);
        p->job = NULL;
        p->running = false;
        if (p->stdio || p->err)
                cancel_streams(p, WIRE_INTERRUPTED, "hostd ends");
        else
                process_free(p);
}

const JobOps exec_job_ops = {
        .start = on_start,
        .cancel = on_cancel,
        .free = on_free,
        .guest_state = on_guest_state,
        .notify = on_notify,
};

static int make_pipes(Process *p, const ExecOptions *o)
{
        for (int i = 0; i < 3; i++) {
                bool is_null = o->detach || (i == 2 && o->tty);
                int fds[2];

                if (p->is_run && (i == 0 ? !o->input : is_null))
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

static WireError ask_start(Process *p, Guest *g, const Caller *caller, const char *const *argv,
                           const ExecOptions *o, char **ret_text)
{
        g_autofree char *line = g_strjoinv(" ", (char **)argv);
        WireError error;
        int r;

        p->tty = o->tty;
        p->timeout_usec = o->timeout_usec;
        if (p->is_run && o->input) {
                p->input = g_memdup2(o->input, MAX(o->n_input, 1));
                p->n_input = o->n_input;
        }

        if ((error = exec_check_command(argv, o, ret_text)) == WIRE_OK &&
            (error = jobs_check_guest(g, ret_text)) == WIRE_OK && !o->detach &&
            !guest_domain(g)->data_socket) {
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
        error = jobs_reserve(p->jobs, JOB_EXEC, g, caller, line, "", &exec_job_ops, p, &p->job, ret_text);
        if (error != WIRE_OK)
                return error;
        p->job->detached = o->detach;
        exec_keep(p);
        p->request = guest_request(g, exec_request_start(p->job, argv, o, p->is_run), NULL, 0,
                                   START_TIMEOUT_USEC, on_started, p);
        return WIRE_OK;
}

/* p is gone with an error. */
static WireError begin(Process *p, Guest *g, const Caller *caller, const char *const *argv,
                       const ExecOptions *o, char **ret_text)
{
        WireError error = ask_start(p, g, caller, argv, o, ret_text);

        if (error != WIRE_OK)
                audit_write(&(AuditEntry){
                        .verb = "exec",
                        .caller = caller,
                        .guest_uuid = guest_uuid(g),
                        .guest_name = guest_name(g),
                        .command = argv,
                        .user = o->user,
                        .refused = true,
                        .error = error,
                        .text = *ret_text,
                });
        return error;
}

void exec_start(Jobs *js, Guest *g, const Caller *caller, const char *const *argv,
                const ExecOptions *options, ExecStarted started, void *userdata)
{
        g_autofree char *text = NULL;
        Process *p = exec_process_new(js, argv, options->user);
        WireError error;

        p->started = started;
        p->userdata = userdata;
        error = begin(p, g, caller, argv, options, &text);
        if (error != WIRE_OK)
                started(userdata, error, text, NULL, NULL);
}

void exec_run(Jobs *js, Guest *g, const Caller *caller, const char *const *argv, const ExecOptions *options,
              RunDone done, void *userdata)
{
        g_autofree char *text = NULL;
        Process *p = exec_process_new(js, argv, options->user);
        WireError error;

        p->is_run = true;
        p->run_done = done;
        p->userdata = userdata;
        error = begin(p, g, caller, argv, options, &text);
        if (error != WIRE_OK)
                done(userdata, error, text, NULL);
}
