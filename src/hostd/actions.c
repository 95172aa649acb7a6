/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A run is one action for one guest. It has a number, by which whatever ends later finds it again, or not: a
 * step whose time was over is left behind by counting on. The runs of a guest begin in order, each when the
 * one before has ended, or has shown no headway for so long that it may hang. What was done is marked when
 * the last step has succeeded, with the boot in which the first one began.
 */

#include "hostd/actions.h"

#include <glib.h>
#include <inttypes.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/action-files.h"
#include "hostd/delivery.h"
#include "hostd/exec.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "hostd/transfer.h"
#include "proto/message.h"

#define BACKOFF_USEC USEC_PER_SEC
#define BACKOFF_MAX_USEC (30 * USEC_PER_SEC)
#define PATIENCE_USEC (10 * USEC_PER_SEC) /* without headway, until the next action may begin */
#define PENDING_MAX 256u                  /* runs of a guest that have not ended: messages come fast */
#define FULL_TOLD_USEC (60 * USEC_PER_SEC)
#define REASON_SHOWN 300

typedef struct Run {
        Actions *actions;
        ActionFile *loaded;
        uint32_t id; /* another one for each attempt */
        char *guest_uuid, *guest_name;
        char *boot; /* in which it began; NULL: it has not */
        size_t step;
        unsigned n_failures;
        uint32_t job;        /* of a transfer; 0 */
        LoopTimer *timer;    /* the attempt's time, or the pause before the next */
        LoopTimer *patience; /* until it is overtaken */
        uint64_t n_bytes;    /* of the transfer, when last looked at */
        bool is_overtaken;
        enum { RUN_PENDING, RUN_AWAITS_READY, RUN_STEP, RUN_PAUSE } state;
} Run;

struct Actions {
        Jobs *jobs;
        Queue *queue;
        Caller *caller;
        ActionFiles *files;
        ActionResults *results;
        GHashTable *lines; /* guest uuid → GQueue of Run* */
        GHashTable *runs;  /* id → Run* */
        GHashTable *boots; /* guest uuid → boot id, as last seen */
        uint32_t last_id;
        uint64_t full_told_at;
        bool knows_guests;
};

static Actions *the_actions; /* for what ends late */

static void run_free(Run *run)
{
        g_hash_table_remove(run->actions->runs, GUINT_TO_POINTER(run->id));
        loop_timer_free(run->timer);
        loop_timer_free(run->patience);
        (void)action_file_unref(run->loaded);
        g_free(run->boot);
        g_free(run->guest_uuid);
        g_free(run->guest_name);
        g_free(run);
}

/* What still comes of the attempt before is not this run's any more. */
static void *run_renew(Run *run)
{
        Actions *as = run->actions;

        g_hash_table_remove(as->runs, GUINT_TO_POINTER(run->id));
        do
                as->last_id++;
        while (as->last_id == 0 || g_hash_table_contains(as->runs, GUINT_TO_POINTER(as->last_id)));
        run->id = as->last_id;
        g_hash_table_insert(as->runs, GUINT_TO_POINTER(run->id), run);
        return GUINT_TO_POINTER(run->id);
}

static Run *run_find(void *id)
{
        return the_actions ? g_hash_table_lookup(the_actions->runs, id) : NULL;
}

static void advance(Actions *as, const char *uuid);

static void run_end(Run *run, const char *why)
{
        g_autofree char *uuid = g_strdup(run->guest_uuid);
        const Action *a = run->loaded->action;
        Actions *as = run->actions;
        GQueue *line = g_hash_table_lookup(as->lines, uuid);

        if (why)
                log_guest(LOG_WARNING, uuid, run->guest_name, 0, "Action %s (%s) for guest %s failed: %.*s",
                          a->name, a->file, run->guest_name, REASON_SHOWN, why);
        else {
                log_guest(LOG_INFO, uuid, run->guest_name, 0, "Action %s for guest %s is done", a->name,
                          run->guest_name);
                if (a->once != ACTION_ONCE_ALWAYS && jobs_store(as->jobs))
                        store_mark_done(jobs_store(as->jobs), a->name, uuid, run->boot ? run->boot : "");
        }
        action_results_end(as->results, a->name, uuid, run->guest_name, why);
        g_queue_remove(line, run);
        run_free(run);
        if (g_queue_is_empty(line))
                g_hash_table_remove(as->lines, uuid);
        else
                advance(as, uuid);
}

static void be_patient(Run *run)
{
        loop_timer_set(run->patience, fs_now_usec() + PATIENCE_USEC, PATIENCE_USEC / 8);
}

static void on_patience(void *userdata)
{
        Run *run = userdata;
        const Job *j = run->job ? jobs_find(run->actions->jobs, run->job) : NULL;

        if (j && j->bytes_done != run->n_bytes) {
                run->n_bytes = j->bytes_done;
                be_patient(run);
                return;
        }
        run->is_overtaken = true;
        advance(run->actions, run->guest_uuid);
}

static void step_begin(Run *run);

static void step_done(Run *run)
{
        run->job = 0;
        (void)run_renew(run);
        run->n_failures = 0;
        be_patient(run);
        if (++run->step == run->loaded->action->n_steps)
                run_end(run, NULL);
        else
                step_begin(run);
}

static void step_failed(Run *run, const char *why)
{
        const Action *a = run->loaded->action;
        uint64_t pause;

        run->job = 0;
        (void)run_renew(run);
        if (run->n_failures++ >= a->n_retries) {
                g_autofree char *text = g_strdup_printf("step %s: %s", a->steps[run->step].name, why);
                run_end(run, text);
                return;
        }
        pause = MIN(BACKOFF_USEC << MIN(run->n_failures - 1, 10u), BACKOFF_MAX_USEC);
        run->state = RUN_PAUSE;
        loop_timer_set(run->timer, fs_now_usec() + pause, pause / 8);
}

static void on_transferred(void *userdata, const Job *j)
{
        Run *run = run_find(userdata);

        if (!run)
                return;
        if (j->error == WIRE_OK)
                step_done(run);
        else
                step_failed(run, j->error_message);
}

static void on_ran(void *userdata, WireError error, const char *text, const RunResult *r)
{
        Run *run = run_find(userdata);

        if (!run)
                return;
        if (error != WIRE_OK)
                step_failed(run, text);
        else if (r->exit_status != 0) {
                size_t n = MIN(r->n_err, (size_t)REASON_SHOWN);
                g_autofree char *said = g_strndup(n > 0 ? (const char *)r->err : "", n);
                g_autofree char *shown = job_text(g_strchomp(said));
                g_autofree char *why =
                        g_strdup_printf("exit status %d%s%s", r->exit_status, *shown ? ": " : "", shown);
                step_failed(run, why);
        } else
                step_done(run);
}

static void on_delivered(void *userdata, WireError error, const char *text, uint64_t id,
                         const uint8_t *reply, size_t n)
{
        Run *run = run_find(userdata);

        if (!run)
                return;
        if (error == WIRE_OK)
                step_done(run);
        else
                step_failed(run, text);
}

static void on_queued(void *userdata, WireError error, const char *text, const Job *j)
{
        on_delivered(userdata, error, text, 0, NULL, 0);
}

static void step_transfer(Run *run, Guest *g, const ActionStep *s, bool queue, void *ref)
{
        TransferOptions o = {
                .mode = s->mode,
                .owner = s->owner,
                .overwrite = s->overwrite,
                .preserve = s->preserve,
                .resume = true,
                .detach = true,
        };
        bool is_push = s->verb == STEP_PUSH;
        g_autofree char *text = NULL;
        Actions *as = run->actions;
        Job *j;

        if (queue) {
                queue_transfer(as->queue, JOB_PUSH, g, as->caller, s->from, s->to, &o, &(QueueOptions){},
                               on_queued, ref);
                return;
        }
        if (transfer_start(as->jobs, is_push ? JOB_PUSH : JOB_PULL, g, as->caller, is_push ? s->from : s->to,
                           -1, is_push ? s->to : s->from, &o, &j, &text) != WIRE_OK) {
                step_failed(run, text);
                return;
        }
        run->job = j->id;
        job_on_end(j, on_transferred, ref);
}

static void step_begin(Run *run)
{
        const Action *a = run->loaded->action;
        const ActionStep *s = &a->steps[run->step];
        uint64_t timeout = s->timeout_usec ? s->timeout_usec : a->timeout_usec;
        ExecOptions exec = {
                .env = (const char *const *)s->env,
                .cwd = s->cwd,
                .user = s->user,
                .timeout_usec = timeout,
                .rows = 24,
                .columns = 80,
        };
        Actions *as = run->actions;
        Guest *g = host_find_guest_uuid(jobs_host(as->jobs), run->guest_uuid);
        bool queue = a->on == ACTION_ON_STOPPED;
        void *ref = run_renew(run);

        if (!g) {
                run_end(run, "the domain was undefined");
                return;
        }
        run->state = RUN_STEP;
        loop_timer_set(run->timer, usec_add(fs_now_usec(), timeout), 0);
        switch (s->verb) {
        case STEP_PUSH:
        case STEP_PULL:
                step_transfer(run, g, s, queue, ref);
                break;
        case STEP_RUN:
                if (queue)
                        queue_command(as->queue, g, as->caller, (const char *const *)s->argv, &exec,
                                      &(QueueOptions){}, on_queued, ref);
                else
                        exec_run(as->jobs, g, as->caller, (const char *const *)s->argv, &exec, on_ran, ref);
                break;
        case STEP_SEND:
        case STEP_CALL:
                if (queue)
                        queue_message(as->queue, g, as->caller, false, s->topic, s->text, strlen(s->text),
                                      &(QueueOptions){}, on_queued, ref);
                else
                        delivery_send(as->jobs, g, as->caller, s->verb == STEP_CALL, s->topic, s->text,
                                      strlen(s->text), &(DeliveryOptions){ .timeout_usec = timeout },
                                      on_delivered, ref);
                break;
        }
}

/* Whatever the attempt has under way ends unheard. */
static void abandon_job(Run *run)
{
        Job *j = run->job ? jobs_find(run->actions->jobs, run->job) : NULL;

        run->job = 0;
        if (!j)
                return;
        job_on_end(j, NULL, NULL);
        jobs_cancel(run->actions->jobs, j);
}

static void on_timer(void *userdata)
{
        Run *run = userdata;

        switch (run->state) {
        case RUN_PENDING:
                break;
        case RUN_AWAITS_READY:
                run_end(run, "the guest was not ready in time");
                break;
        case RUN_PAUSE:
                step_begin(run);
                break;
        case RUN_STEP:
                abandon_job(run);
                step_failed(run, "it took longer than its timeout");
                break;
        }
}

static bool was_done(const Actions *as, const Action *a, const char *uuid)
{
        const char *boot = g_hash_table_lookup(as->boots, uuid);

        if (a->once == ACTION_ONCE_ALWAYS || !jobs_store(as->jobs))
                return false;
        return store_was_done(jobs_store(as->jobs), a->name, uuid,
                              a->once == ACTION_ONCE_GUEST ? NULL
                              : boot                       ? boot
                                                           : "");
}

static void await_ready(Run *run)
{
        if (run->state == RUN_AWAITS_READY)
                return;
        run->state = RUN_AWAITS_READY;
        loop_timer_set(run->timer, usec_add(fs_now_usec(), run->loaded->action->timeout_usec), 0);
        be_patient(run);
}

/* Whether anything became of it, of which others may have heard meanwhile. */
static bool run_begin(Run *run, GQueue *line)
{
        const Action *a = run->loaded->action;
        Actions *as = run->actions;
        Guest *g = host_find_guest_uuid(jobs_host(as->jobs), run->guest_uuid);

        if (run->state != RUN_PENDING && run->state != RUN_AWAITS_READY)
                return false;
        if (a->on == ACTION_ON_STARTED && g && guest_state(g) != GUEST_READY) {
                await_ready(run);
                return false;
        }
        if (was_done(as, a, run->guest_uuid)) {
                /* By the boot id, which a guest that was only started had not told yet. */
                action_results_keep(as->results, a->name, run->guest_uuid, run->guest_name);
                g_queue_remove(line, run);
                if (g_queue_is_empty(line))
                        g_hash_table_remove(as->lines, run->guest_uuid);
                run_free(run);
                return true;
        }
        g_free(run->boot);
        run->boot = g_strdup(g_hash_table_lookup(as->boots, run->guest_uuid));
        action_results_set(as->results, a->name, run->guest_uuid, run->guest_name, "running");
        be_patient(run);
        step_begin(run);
        return true;
}

/* Begins what may: the first that has not ended, and what stands behind one that may hang. */
static void advance(Actions *as, const char *untrusted_uuid)
{
        g_autofree char *uuid = g_strdup(untrusted_uuid); /* a run's own may go with it */
        GQueue *line;
        GList *l;

again:
        line = g_hash_table_lookup(as->lines, uuid);
        for (l = line ? line->head : NULL; l; l = l->next) {
                if (run_begin(l->data, line))
                        goto again;
                if (!((const Run *)l->data)->is_overtaken)
                        return;
        }
}

/* The guest has booted once more: what the boot before has seen of this counts for nothing. */
static void run_restart(Run *run)
{
        abandon_job(run);
        (void)run_renew(run);
        loop_timer_set(run->timer, USEC_INFINITY, 0);
        run->state = RUN_PENDING;
        run->step = 0;
        run->n_failures = 0;
        run->is_overtaken = false;
}

static Run *find_pending(GQueue *line, const char *name)
{
        for (GList *l = line->head; l; l = l->next)
                if (str_eq(((Run *)l->data)->loaded->action->name, name))
                        return l->data;
        return NULL;
}

/* Whether the event is served by a run that is there already. */
static bool is_served(Actions *as, GQueue *line, const Action *a, const char *uuid)
{
        Run *run = line ? find_pending(line, a->name) : NULL;
        const char *boot = g_hash_table_lookup(as->boots, uuid);

        if (run && a->on == ACTION_ON_READY && a->once == ACTION_ONCE_BOOT && run->boot && boot &&
            !str_eq(run->boot, boot))
                run_restart(run);
        return run != NULL;
}

/* A guest may send faster than an action works. */
static bool is_full(Actions *as, GQueue *line, const Action *a, const Guest *g)
{
        uint64_t now = fs_now_usec();

        if (!line || line->length < PENDING_MAX)
                return false;
        if (as->full_told_at == 0 || now > as->full_told_at + FULL_TOLD_USEC)
                log_guest(LOG_WARNING, guest_uuid(g), guest_name(g), 0,
                          "Action %s for guest %s is left out: %u wait for that guest already", a->name,
                          guest_name(g), PENDING_MAX);
        as->full_told_at = now;
        return true;
}

static void trigger(Actions *as, Guest *g, ActionOn on, const char *topic)
{
        g_autofree char *uuid = g_strdup(guest_uuid(g));
        GPtrArray *all = action_files_all(as->files);

        for (guint n = 0; n < all->len; n++) {
                ActionFile *l = g_ptr_array_index(all, n);
                const Action *a = l->action;
                GQueue *line = g_hash_table_lookup(as->lines, uuid);

                if (a->on != on || (topic && !str_eq(a->topic, topic)) ||
                    !action_is_for(a, guest_domain(g)->name, uuid))
                        continue;
                /* Of a start, the boot is not known yet. */
                if ((on != ACTION_ON_STARTED || a->once != ACTION_ONCE_BOOT) && was_done(as, a, uuid)) {
                        if (!line || !find_pending(line, a->name))
                                action_results_keep(as->results, a->name, uuid, guest_name(g));
                        continue;
                }
                if ((!topic && is_served(as, line, a, uuid)) || is_full(as, line, a, g))
                        continue;
                if (!line) {
                        line = g_queue_new();
                        g_hash_table_insert(as->lines, g_strdup(uuid), line);
                }
                Run *run = g_new0(Run, 1);
                *run = (Run){ .actions = as,
                              .loaded = l,
                              .guest_uuid = g_strdup(uuid),
                              .guest_name = g_strdup(guest_name(g)) };
                run->timer = loop_timer_new(loop_default(), on_timer, run);
                run->patience = loop_timer_new(loop_default(), on_patience, run);
                l->n_refs++;
                (void)run_renew(run);
                action_results_set(as->results, a->name, uuid, run->guest_name, "waiting");
                g_queue_push_tail(line, run);
        }
        advance(as, uuid);
}

static void on_guest_state(void *userdata, Guest *g, GuestState old)
{
        GuestState now = guest_state(g);
        Actions *as = userdata;

        if (now == old)
                return;
        if (now == GUEST_READY) {
                const char *boot = guest_facts(g)->boot_id;
                g_hash_table_replace(as->boots, g_strdup(guest_uuid(g)), g_strdup(boot ? boot : ""));
        }
        if (old == GUEST_OFF)
                trigger(as, g, ACTION_ON_STARTED, NULL);
        if (now == GUEST_READY)
                trigger(as, g, ACTION_ON_READY, NULL);
        if (now == GUEST_OFF)
                trigger(as, g, ACTION_ON_STOPPED, NULL);
}

static void on_guest_request(void *userdata, Guest *g, uint32_t id, const Message *m)
{
        const char *topic = message_str(m->json, "topic", NULL);

        if (topic && str_eq(message_str(m->json, "method", ""), "message.publish"))
                trigger(userdata, g, ACTION_ON_MESSAGE, topic);
}

/* A domain that was started before anything else was known of it. */
static void on_guest_added(void *userdata, Guest *g)
{
        Actions *as = userdata;

        if (as->knows_guests && guest_state(g) != GUEST_OFF)
                trigger(as, g, ACTION_ON_STARTED, NULL);
}

static void on_complete(void *userdata)
{
        Actions *as = userdata;

        as->knows_guests = true;
        action_files_meet_guests(as->files);
}

static void on_reload(void *userdata)
{
        action_files_load(((Actions *)userdata)->files);
}

static const HostListener listener = {
        .guest_added = on_guest_added,
        .complete = on_complete,
        .guest_state = on_guest_state,
        .guest_request = on_guest_request,
        .reloaded = on_reload,
};

static Caller *own_caller(void)
{
        int n = getgroups(0, NULL);
        g_autofree gid_t *groups = g_new0(gid_t, (gsize)MAX(n, 0) + 1);

        n = n > 0 ? getgroups(n, groups) : 0;
        return caller_new(getuid(), getgid(), groups, (size_t)MAX(n, 0), NULL);
}

static void free_line(void *p)
{
        g_queue_free(p);
}

Actions *actions_new(Jobs *js, Queue *q)
{
        Actions *as = g_new0(Actions, 1);

        *as = (Actions){
                .jobs = js,
                .queue = q,
                .caller = own_caller(),
                .lines = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_line),
                .runs = g_hash_table_new(NULL, NULL),
                .results = action_results_new(jobs_store(js)),
                .boots = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
                .files = action_files_new(jobs_host(js)),
        };
        the_actions = as;
        if (!as->files)
                return actions_free(as);
        host_listen(jobs_host(js), &listener, as);
        return as;
}

Actions *actions_free(Actions *as)
{
        g_autoptr(GPtrArray) runs = g_ptr_array_new();
        GHashTableIter i;
        void *p;

        if (!as)
                return NULL;
        the_actions = NULL;
        g_hash_table_iter_init(&i, as->runs);
        while (g_hash_table_iter_next(&i, NULL, &p))
                g_ptr_array_add(runs, p);
        for (guint n = 0; n < runs->len; n++)
                run_free(g_ptr_array_index(runs, n));
        g_hash_table_unref(as->lines);
        g_hash_table_unref(as->runs);
        (void)action_results_free(as->results);
        g_hash_table_unref(as->boots);
        (void)action_files_free(as->files);
        (void)caller_free(as->caller);
        g_free(as);
        return NULL;
}

void actions_each(const Actions *as, const ActionsEach *each, void *userdata)
{
        const GPtrArray *all = action_files_all(as->files);

        for (guint n = 0; n < all->len; n++) {
                const Action *a = ((const ActionFile *)g_ptr_array_index(all, n))->action;

                each->action(userdata, a);
                action_results_each(as->results, a->name, each->result, userdata);
                each->action_end(userdata);
        }
}
