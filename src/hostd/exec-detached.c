/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Detached processes: the job is kept in the store from before its start until it is forgotten, so that an
 * id that was given out means the same process after hostd's restart; what has become of it says the guest
 * (process.list). Its output is in the guest, and shown from there as often as asked.
 */

#include "hostd/exec-private.h"

#include <fcntl.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/log.h"
#include "proto/message.h"

/* Nobody waits for its ends: the reader sees the end of the pipe. With `ended` a reader that leaves ends the
 * stream. */
static void on_spool_ended(void *userdata)
{
}

static void on_spool_closed(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
        if (error != WIRE_OK && error != WIRE_CANCELLED)
                log_debug("A detached process's output was not sent to its end: %s", text);
}

int exec_attach(const Job *j, int ret_fds[2])
{
        static const char *const outputs[] = { "stdout", "stderr" };
        int pipes[2][2];

        if (!j->process->has_spool)
                return -ENOTSUP;
        if (!exec_can_ask(j))
                return -ENOTCONN;
        if (pipe2(pipes[0], O_CLOEXEC) < 0)
                return -errno;
        if (pipe2(pipes[1], O_CLOEXEC) < 0) {
                int r = -errno;
                fd_close(pipes[0][0]);
                fd_close(pipes[0][1]);
                return r;
        }
        for (size_t i = 0; i < 2; i++) {
                json_object *o = json_object_new_object();

                json_object_object_add(o, "kind", json_object_new_string("spool"));
                json_object_object_add(o, "process", json_object_new_string(j->wire_id));
                json_object_object_add(o, "output", json_object_new_string(outputs[i]));
                (void)guest_stream_open(j->guest, &(GuestStreamConfig){
                                                          .params = o,
                                                          .in_fd = -1,
                                                          .out_fd = pipes[i][1],
                                                          .ended = on_spool_ended,
                                                          .closed = on_spool_closed,
                                                  });
                ret_fds[i] = pipes[i][0];
        }
        return 0;
}

static json_object *end_format(const Process *p)
{
        const Job *j = p->job;
        json_object *o = json_object_new_object();

        json_object_object_add(o, "at", json_object_new_int64((int64_t)j->finished_at));
        json_object_object_add(o, "exited", json_object_new_boolean(p->exited));
        json_object_object_add(o, "exit_status", json_object_new_int(p->exit_status));
        json_object_object_add(o, "exit_signal", json_object_new_int(p->exit_signal));
        if (j->error != WIRE_OK) {
                json_object_object_add(o, "error", json_object_new_string(wire_error_to_string(j->error)));
                json_object_object_add(o, "message", json_object_new_string(j->error_message));
        }
        return o;
}

void exec_keep(Process *p)
{
        const Job *j = p->job;
        json_object *o, *argv;

        if (!j->detached)
                return;
        o = json_object_new_object();
        argv = json_object_new_array();
        for (char **a = p->argv; *a; a++)
                json_object_array_add(argv, json_object_new_string(*a));
        json_object_object_add(o, "argv", argv);
        if (p->user)
                json_object_object_add(o, "user", json_object_new_string(p->user));
        if (j->process)
                json_object_object_add(o, "pid", json_object_new_int64(j->process->guest_pid));
        json_object_object_add(o, "grace", json_object_new_int64((int64_t)p->grace_usec));
        if (job_state_is_final(j->state))
                json_object_object_add(o, "end", end_format(p));
        if (p->is_abandoned)
                json_object_object_add(o, "abandoned", json_object_new_boolean(true));
        (void)jobs_keep(p->jobs, p->job, o,
                        &(JobKeep){ .created_at = j->started_at > 0 ? j->started_at : fs_realtime_usec() });
}

void exec_forget(Process *p)
{
        if (!p->job->detached || jobs_is_ending(p->jobs))
                return;
        jobs_forget(p->jobs, p->job);
        if (p->exited)
                exec_tell(p->job, exec_request_new("process.forget", p->job->wire_id));
}

/* What an earlier hostd has written down of its end. */
static void restore_end(Process *p, json_object *end)
{
        const char *name = message_str(end, "error", NULL);
        WireError error = name ? wire_error_from_string(name) : WIRE_OK;

        p->exited = message_bool(end, "exited", false);
        p->exit_status = (int)message_int(end, "exit_status", 0);
        p->exit_signal = (int)message_int(end, "exit_signal", 0);
        exec_show_exit(p);
        job_finish(p->jobs, p->job, error, message_str(end, "message", ""), NULL);
        p->job->finished_at = (uint64_t)message_int(end, "at", (int64_t)p->job->finished_at);
        exec_keep(p);
}

static char **argv_parse(json_object *o)
{
        size_t n = json_object_is_type(o, json_type_array) ? json_object_array_length(o) : 0;
        char **argv = g_new0(char *, n + 1);

        for (size_t i = 0; i < n; i++)
                argv[i] = g_strdup(json_object_get_string(json_object_array_get_idx(o, i)) ?: "");
        return argv;
}

int exec_restore(Jobs *js, const StoreItem *item)
{
        g_auto(GStrv) argv = argv_parse(message_obj(item->params, "argv"));
        json_object *end = message_obj(item->params, "end");
        g_autofree char *line = g_strjoinv(" ", argv);
        Process *p =
                exec_process_new(js, (const char *const *)argv, message_str(item->params, "user", NULL));

        if (!argv[0]) {
                exec_job_ops.free(p);
                return -EINVAL;
        }
        p->job = jobs_restore(js, item, line, "", &exec_job_ops, p);
        if (!p->job)
                return -EINVAL;
        p->is_abandoned = message_bool(item->params, "abandoned", false);
        if (p->is_abandoned) {
                p->job->hidden = true; /* as it was */
                return 0;
        }
        p->job->started_at = item->created_at;
        exec_set_grace(p, item->params);
        exec_show(p, (uint32_t)message_int(item->params, "pid", 0));
        if (json_object_is_type(end, json_type_object))
                restore_end(p, end);
        else
                p->running = true;
        return 0;
}
