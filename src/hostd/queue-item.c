/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * How an item is carried out once as the guest sees it: a message keeps its id, and a command its process
 * id, through all repeats, and guestd remembers both. A push is a transfer, which finds what is there
 * already.
 */

#include "hostd/queue-private.h"

#include <glib.h>
#include <inttypes.h>
#include <signal.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/delivery.h"
#include "proto/message.h"

#define REQUEST_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define KILL_GRACE_USEC (5 * USEC_PER_SEC)

static QueueItem *item_of(void *userdata, uint32_t id)
{
        return queue_find(userdata, id);
}

Job *item_job(const QueueItem *i)
{
        return jobs_find(queue_jobs(i->queue), i->id);
}

QueueItem *item_free(QueueItem *i)
{
        if (!i)
                return NULL;
        if (i->request)
                guest_cancel(i->guest, i->request);
        if (i->delivery)
                delivery_cancel(i->delivery);
        (void)loop_timer_free(i->timer);
        g_free(i->guest_uuid);
        g_free(i->guest_name);
        g_free(i->topic);
        g_free(i->payload);
        if (i->start)
                json_object_put(i->start);
        g_free(i);
        return NULL;
}

void item_audit(const QueueItem *i, const Job *j, WireError error, const char *text)
{
        bool is_message = j->kind == JOB_SEND, is_push = j->kind == JOB_PUSH;
        g_autofree char *id = is_message ? g_strdup_printf("%" PRIu64, i->message_id) : g_strdup(j->wire_id);
        const JobProcess *p = j->process;
        AuditEntry a = {
                .verb = !is_message  ? job_kind_to_string(j->kind)
                        : i->is_call ? "call"
                                     : "send",
                .caller = j->caller,
                .guest_uuid = j->guest_uuid,
                .guest_name = j->guest_name,
                .job = j->id,
                .id = id,
                .command = p ? (const char *const *)p->argv : NULL,
                .user = message_str(i->start, "user", NULL),
                .topic = i->topic,
                .has_bytes = is_message,
                .n_bytes = i->n_payload,
                .has_exit = p && p->exited,
                .exit_status = !p                   ? 0
                               : p->exit_signal > 0 ? 128 + p->exit_signal
                                                    : p->exit_status,
                .error = error,
                .text = text,
        };

        if (is_push || j->kind == JOB_PULL) {
                a.path = is_push ? j->destination : j->source;
                a.host_path = is_push ? j->source : j->destination;
        }
        audit_write(&a);
}

/* Messages */

static void on_delivered(void *userdata, WireError error, const char *text, uint64_t id,
                         const uint8_t *reply, size_t n)
{
        QueueItem *i = userdata;
        Job *j = item_job(i);

        i->delivery = NULL;
        if (!j || job_state_is_final(j->state))
                return;
        if (error == WIRE_INTERRUPTED || error == WIRE_NOT_READY || error == WIRE_LIMITS_EXCEEDED)
                queue_retry(i, error);
        else
                job_finish(queue_jobs(i->queue), j, error, text, NULL);
}

static void message_start(QueueItem *i, Job *j, Guest *g)
{
        Delivery *d = delivery_send(queue_jobs(i->queue), g, j->caller, i->is_call, i->topic, i->payload,
                                    i->n_payload,
                                    &(DeliveryOptions){ .timeout_usec = USEC_INFINITY,
                                                        .id = i->message_id,
                                                        .keyed = i->is_keyed,
                                                        .queued = true },
                                    on_delivered, i);

        if (d) /* else the item may be gone */
                i->delivery = d;
}

static void on_message_cancel(void *userdata, Job *j)
{
        QueueItem *i = item_of(userdata, j->id);

        job_finish(queue_jobs(userdata), j, WIRE_CANCELLED,
                   i && i->is_running ? "Cancelled while it was under way; it may have arrived"
                                      : "Cancelled",
                   NULL);
}

static void on_start(void *userdata, Job *j)
{
        /* The queue starts its items itself. */
}

static void on_free(void *userdata)
{
        /* The queue has the item. */
}

static void on_message_guest_state(void *userdata, Job *j)
{
        if (!j->guest)
                job_finish(queue_jobs(userdata), j, WIRE_INTERRUPTED, "The domain was undefined", NULL);
}

const JobOps queue_message_ops = {
        .start = on_start,
        .cancel = on_message_cancel,
        .free = on_free,
        .guest_state = on_message_guest_state,
};

/* Commands */

void item_show_process(const QueueItem *i, Job *j)
{
        json_object *list = message_obj(i->start, "argv");
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
        g_autofree const char **argv = g_new0(const char *, n + 1);

        for (size_t k = 0; k < n; k++)
                argv[k] = json_object_get_string(json_object_array_get_idx(list, k)) ?: "";
        job_set_process(queue_jobs(i->queue), j, job_process_new(argv));
}

static json_object *request_new(const char *method, const Job *j)
{
        json_object *o = json_object_new_object();

        json_object_object_add(o, "method", json_object_new_string(method));
        json_object_object_add(o, "id", json_object_new_string(j->wire_id));
        return o;
}

/* One at a time: item_free() takes it back. */
static void ask(QueueItem *i, Guest *g, json_object *json, GuestReply done)
{
        i->guest = g;
        i->request = guest_request(g, json, NULL, 0, REQUEST_TIMEOUT_USEC, done, i);
}

static void on_ignored(void *userdata, WireError error, const char *text, const Message *m)
{
}

static void tell_guest(Job *j, const char *method, int signal)
{
        json_object *o;

        if (!j->guest || guest_state(j->guest) != GUEST_READY)
                return;
        o = request_new(method, j);
        if (signal)
                json_object_object_add(o, "signal", json_object_new_int(signal));
        (void)guest_request(j->guest, o, NULL, 0, REQUEST_TIMEOUT_USEC, on_ignored, NULL);
}

static void command_end(QueueItem *i, Job *j, WireError error, const char *text)
{
        item_audit(i, j, error, text);
        job_finish(queue_jobs(i->queue), j, error, text, NULL);
}

static void command_exited(QueueItem *i, Job *j, json_object *o)
{
        int64_t status = message_int(o, "exit_status", 0), sig = message_int(o, "exit_signal", 0);
        bool timed_out = message_bool(o, "timed_out", false);

        if (j->process) {
                j->process->exited = true;
                j->process->exit_signal = sig > 0 && sig < 128 ? (int32_t)sig : 0;
                j->process->exit_status = j->process->exit_signal ? -1 : (int32_t)(status & 0xff);
        }
        tell_guest(j, "process.forget", 0);
        command_end(i, j,
                    i->is_cancelled ? WIRE_CANCELLED
                    : timed_out     ? WIRE_TIMEOUT
                                    : WIRE_OK,
                    i->is_cancelled ? "Cancelled"
                    : timed_out     ? "It ran longer than its timeout and was ended"
                                    : NULL);
}

/* It was started before, by a hostd that did not hear of it: what became of it? */
static void on_listed(void *userdata, WireError error, const char *text, const Message *m)
{
        QueueItem *i = userdata;
        Job *j = item_job(i);

        i->request = 0;
        if (!j || job_state_is_final(j->state))
                return;
        if (error != WIRE_OK) {
                queue_retry(i, WIRE_INTERRUPTED); /* it was started */
                return;
        }
        json_object *list = message_obj(m->json, "processes");
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

        for (size_t k = 0; k < n; k++) {
                json_object *o = json_object_array_get_idx(list, k);
                if (!str_eq(message_str(o, "id", ""), j->wire_id))
                        continue;
                if (str_eq(message_str(o, "state", ""), "exited"))
                        command_exited(i, j, o);
                return; /* else its end will be told */
        }
        command_end(i, j, WIRE_INTERRUPTED,
                    "It was started once, and the guest was restarted since: its end is not known");
}

/* For this one alone: what the guest says of further pages is not followed. */
static void ask_list(QueueItem *i, Job *j)
{
        json_object *o = request_new("process.list", j);

        ask(i, j->guest, o, on_listed);
}

static void on_started(void *userdata, WireError error, const char *text, const Message *m)
{
        QueueItem *i = userdata;
        Job *j = item_job(i);

        i->request = 0;
        if (!j || job_state_is_final(j->state))
                return;
        if (error == WIRE_INTERRUPTED || error == WIRE_NOT_READY || error == WIRE_LIMITS_EXCEEDED ||
            (error == WIRE_TIMEOUT && !m) || (error == WIRE_OK && !j->guest)) {
                queue_retry(i, error);
                return;
        }
        if (error != WIRE_OK && error != WIRE_EXISTS) {
                command_end(i, j, error, text);
                return;
        }
        if (j->process) {
                j->process->guest_pid = (uint32_t)message_int(m->json, "pid", 0);
                job_set_process(queue_jobs(i->queue), j, j->process);
        }
        if (i->is_cancelled)
                tell_guest(j, "process.kill", SIGTERM);
        if (error == WIRE_EXISTS || message_bool(m->json, "duplicate", false))
                ask_list(i, j);
}

static void command_start(QueueItem *i, Job *j, Guest *g)
{
        json_object *o = NULL;

        if (json_object_deep_copy(i->start, &o, NULL) < 0) {
                command_end(i, j, WIRE_FAILED, "No memory");
                return;
        }
        json_object_object_add(o, "method", json_object_new_string("process.start"));
        json_object_object_add(o, "id", json_object_new_string(j->wire_id));
        json_object_object_add(o, "detach", json_object_new_boolean(true));
        json_object_object_add(o, "once", json_object_new_boolean(true));
        ask(i, g, o, on_started);
}

static void on_command_notify(void *userdata, Job *j, const Message *m)
{
        QueueItem *i = item_of(userdata, j->id);

        if (i && i->is_running && str_eq(message_str(m->json, "method", ""), "process.exited") &&
            str_eq(message_str(m->json, "id", ""), j->wire_id))
                command_exited(i, j, m->json);
}

static void on_kill_timer(void *userdata)
{
        QueueItem *i = userdata;
        Job *j = item_job(i);

        if (!j || job_state_is_final(j->state))
                return;
        tell_guest(j, "process.kill", SIGKILL);
        command_end(i, j, WIRE_CANCELLED, "Cancelled; the guest does not tell of its end");
}

static void on_command_cancel(void *userdata, Job *j)
{
        QueueItem *i = item_of(userdata, j->id);

        if (!i)
                return;
        i->is_cancelled = true;
        if (!i->is_running || !j->guest || guest_state(j->guest) != GUEST_READY) {
                command_end(i, j, WIRE_CANCELLED, "Cancelled");
                return;
        }
        tell_guest(j, "process.kill", SIGTERM);
        if (!i->timer)
                i->timer = loop_timer_new(loop_default(), on_kill_timer, i);
        if (i->timer)
                loop_timer_set(i->timer, fs_now_usec() + KILL_GRACE_USEC, 0);
}

static void on_command_guest_state(void *userdata, Job *j)
{
        QueueItem *i = item_of(userdata, j->id);

        if (!i)
                return;
        if (!j->guest)
                command_end(i, j, WIRE_INTERRUPTED, "The domain was undefined");
        else if (i->is_running && !i->request && guest_state(j->guest) != GUEST_READY)
                queue_retry(i, WIRE_INTERRUPTED); /* asked again then: it may have ended meanwhile */
}

const JobOps queue_command_ops = {
        .start = on_start,
        .cancel = on_command_cancel,
        .free = on_free,
        .guest_state = on_command_guest_state,
        .notify = on_command_notify,
};

void item_run(QueueItem *i, Guest *g)
{
        Jobs *js = queue_jobs(i->queue);
        Job *j = item_job(i);

        i->is_running = true;
        if (j->kind == JOB_PUSH || j->kind == JOB_PULL) {
                jobs_release(js, j);
                return;
        }
        if (j->started_at == 0)
                j->started_at = fs_realtime_usec();
        job_set_state(js, j, JOB_RUNNING);
        if (j->kind == JOB_EXEC)
                command_start(i, j, g);
        else
                message_start(i, j, g);
}
