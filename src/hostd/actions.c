/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A run is one action for one guest. It has a number, by which whatever ends later finds it again, or not: a
 * step whose time was over is left behind by counting on. What was done is marked when the last step has
 * succeeded.
 */

#include "hostd/actions.h"

#include <glib.h>
#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "base/base.h"
#include "base/fs.h"
#include "base/ini.h"
#include "hostd/delivery.h"
#include "hostd/exec.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "hostd/transfer.h"
#include "proto/message.h"

#define BACKOFF_USEC USEC_PER_SEC
#define BACKOFF_MAX_USEC (30 * USEC_PER_SEC)
#define SETTLE_USEC (200 * USEC_PER_MSEC) /* an editor writes more than once */
#define PENDING_MAX 256u                  /* runs that wait, of a guest: messages come fast */
#define REASON_SHOWN 300

typedef struct Loaded {
        Action *action;
        unsigned n_refs; /* the list's, and each run's */
} Loaded;

typedef struct Result {
        char *guest_name, *reason;
        const char *result;
        uint64_t at;
} Result;

typedef struct Run {
        Actions *actions;
        Loaded *loaded;
        uint32_t id; /* another one for each attempt */
        char *guest_uuid, *guest_name;
        size_t step;
        unsigned n_failures;
        uint32_t job;     /* of a transfer; 0 */
        LoopTimer *timer; /* the attempt's time, or the pause before the next */
        enum { RUN_PENDING, RUN_AWAITS_READY, RUN_STEP, RUN_PAUSE } state;
} Run;

struct Actions {
        Jobs *jobs;
        Queue *queue;
        Caller *caller;
        GPtrArray *loaded;   /* Loaded*, in order */
        GHashTable *lines;   /* guest uuid → GQueue of Run*, the head is under way */
        GHashTable *runs;    /* id → Run* */
        GHashTable *results; /* "action\nguest uuid" → Result* */
        GHashTable *boots;   /* guest uuid → boot id, as last seen */
        uint32_t last_id;
        int inotify_fd;
        LoopWatch *watch;
        LoopTimer *reload;
};

static Actions *the_actions; /* for what ends late */

static Loaded *loaded_unref(Loaded *l)
{
        if (--l->n_refs == 0) {
                (void)action_free(l->action);
                g_free(l);
        }
        return NULL;
}

static void free_loaded(void *p)
{
        (void)loaded_unref(p);
}

static void free_result(void *p)
{
        Result *r = p;

        g_free(r->guest_name);
        g_free(r->reason);
        g_free(r);
}

static void set_result(Run *run, const char *result, const char *reason)
{
        Result *r = g_new0(Result, 1);

        *r = (Result){
                .guest_name = g_strdup(run->guest_name),
                .reason = job_text(reason),
                .result = result,
                .at = fs_realtime_usec(),
        };
        g_hash_table_replace(run->actions->results,
                             g_strdup_printf("%s\n%s", run->loaded->action->name, run->guest_uuid), r);
}

static void run_free(Run *run)
{
        g_hash_table_remove(run->actions->runs, GUINT_TO_POINTER(run->id));
        loop_timer_free(run->timer);
        (void)loaded_unref(run->loaded);
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
        const char *boot = g_hash_table_lookup(as->boots, uuid);

        if (why)
                log_guest(LOG_WARNING, uuid, run->guest_name, 0, "Action %s (%s) for guest %s failed: %.*s",
                          a->name, a->file, run->guest_name, REASON_SHOWN, why);
        else {
                log_guest(LOG_INFO, uuid, run->guest_name, 0, "Action %s for guest %s is done", a->name,
                          run->guest_name);
                if (a->once != ACTION_ONCE_ALWAYS && jobs_store(as->jobs))
                        store_mark_done(jobs_store(as->jobs), a->name, uuid, boot ? boot : "");
        }
        set_result(run, why ? "failed" : "done", why);
        g_queue_remove(line, run);
        run_free(run);
        if (g_queue_is_empty(line))
                g_hash_table_remove(as->lines, uuid);
        else
                advance(as, uuid);
}

static void step_begin(Run *run);

static void step_done(Run *run)
{
        run->job = 0;
        (void)run_renew(run);
        run->n_failures = 0;
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
                queue_push(as->queue, g, as->caller, s->from, s->to, &o, &(QueueOptions){}, on_queued, ref);
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
        loop_timer_set(run->timer,
                       timeout < USEC_INFINITY - fs_now_usec() ? fs_now_usec() + timeout : USEC_INFINITY, 0);
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

static void on_timer(void *userdata)
{
        Run *run = userdata;
        uint32_t job = run->job;

        switch (run->state) {
        case RUN_PENDING:
                break;
        case RUN_AWAITS_READY:
                run_end(run, "the guest was not ready in time");
                break;
        case RUN_PAUSE:
                step_begin(run);
                break;
        case RUN_STEP: {
                Job *j = job ? jobs_find(run->actions->jobs, job) : NULL;
                if (j) {
                        job_on_end(j, NULL, NULL);
                        jobs_cancel(run->actions->jobs, j);
                }
                step_failed(run, "it took longer than its timeout");
                break;
        }
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

/* The head of the line begins, or goes on waiting. */
static void advance(Actions *as, const char *uuid)
{
        GQueue *line = g_hash_table_lookup(as->lines, uuid);
        Run *run = line ? g_queue_peek_head(line) : NULL;
        Guest *g = host_find_guest_uuid(jobs_host(as->jobs), uuid);
        const Action *a;

        if (!run || (run->state != RUN_PENDING && run->state != RUN_AWAITS_READY))
                return;
        a = run->loaded->action;
        if (a->on == ACTION_ON_STARTED && g && guest_state(g) != GUEST_READY) {
                if (run->state == RUN_PENDING) {
                        run->state = RUN_AWAITS_READY;
                        loop_timer_set(run->timer,
                                       a->timeout_usec < USEC_INFINITY - fs_now_usec()
                                               ? fs_now_usec() + a->timeout_usec
                                               : USEC_INFINITY,
                                       0);
                }
                return;
        }
        if (was_done(as, a,
                     uuid)) { /* by the boot id, which a guest that was only started had not told yet */
                g_queue_pop_head(line);
                run_free(run);
                if (g_queue_is_empty(line))
                        g_hash_table_remove(as->lines, uuid);
                else
                        advance(as, uuid);
                return;
        }
        set_result(run, "running", NULL);
        step_begin(run);
}

static bool is_pending(GQueue *line, const char *name)
{
        for (GList *l = line->head; l; l = l->next)
                if (str_eq(((Run *)l->data)->loaded->action->name, name))
                        return true;
        return false;
}

static void trigger(Actions *as, Guest *g, ActionOn on, const char *topic)
{
        g_autofree char *uuid = g_strdup(guest_uuid(g));

        for (guint n = 0; n < as->loaded->len; n++) {
                Loaded *l = g_ptr_array_index(as->loaded, n);
                const Action *a = l->action;
                GQueue *line = g_hash_table_lookup(as->lines, uuid);

                if (a->on != on || (topic && !str_eq(a->topic, topic)) ||
                    !action_is_for(a, guest_domain(g)->name, uuid))
                        continue;
                if (on != ACTION_ON_STARTED && was_done(as, a, uuid))
                        continue;
                if (line && (line->length >= PENDING_MAX || (!topic && is_pending(line, a->name))))
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
                l->n_refs++;
                (void)run_renew(run);
                set_result(run, "waiting", NULL);
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

/* Loading */

static void on_complaint(void *userdata, const char *file, unsigned line, const char *why)
{
        log_warning("%s:%u: %s", file, line, why);
}

/* The directory, or where it would be made. */
static void watch(Actions *as, const char *directory)
{
        g_autofree char *parent = g_path_get_dirname(directory);

        if (as->inotify_fd >= 0 && inotify_add_watch(as->inotify_fd, directory,
                                                     IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM |
                                                             IN_MOVED_TO | IN_ONLYDIR) < 0)
                (void)inotify_add_watch(as->inotify_fd, parent, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
}

static void load(Actions *as)
{
        char **dirs = action_directories(host_config(jobs_host(as->jobs))->user), **files = NULL;
        int r;

        for (char **d = dirs; *d; d++) /* again and again: it may not have been there before */
                watch(as, *d);
        r = ini_list_files((const char *const *)dirs, ".action", &files);
        if (r < 0)
                log_warning("The directories of actions cannot be read: %s", strerror(-r));
        g_ptr_array_set_size(as->loaded, 0);
        for (char **f = files; f && *f; f++) {
                Action *a;

                r = action_load(*f, on_complaint, NULL, &a);
                if (r < 0) {
                        log_warning("%s: the action is not used%s%s", *f, r == -EINVAL ? "" : ": ",
                                    r == -EINVAL ? "" : strerror(-r));
                        continue;
                }
                Loaded *l = g_new0(Loaded, 1);
                *l = (Loaded){ .action = a, .n_refs = 1 };
                g_ptr_array_add(as->loaded, l);
        }
        ini_files_free(files);
        g_strfreev(dirs);
}

static void on_reload(void *userdata)
{
        load(userdata);
}

static void on_files_changed(void *userdata, uint32_t events)
{
        Actions *as = userdata;
        char buffer[4096];

        while (read(as->inotify_fd, buffer, sizeof(buffer)) > 0)
                ;
        loop_timer_set(as->reload, fs_now_usec() + SETTLE_USEC, 0);
}

static const HostListener listener = {
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
                .loaded = g_ptr_array_new_with_free_func(free_loaded),
                .lines = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_line),
                .runs = g_hash_table_new(NULL, NULL),
                .results = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_result),
                .boots = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
                .inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK),
                .reload = loop_timer_new(loop_default(), on_reload, as),
        };
        the_actions = as;
        if (!as->reload)
                return actions_free(as);
        if (as->inotify_fd >= 0)
                as->watch = loop_watch_new(loop_default(), as->inotify_fd, EPOLLIN, on_files_changed, as);
        load(as);
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
        g_hash_table_unref(as->results);
        g_hash_table_unref(as->boots);
        g_ptr_array_unref(as->loaded);
        loop_watch_free(as->watch);
        loop_timer_free(as->reload);
        fd_close(as->inotify_fd);
        (void)caller_free(as->caller);
        g_free(as);
        return NULL;
}

void actions_each(const Actions *as, const ActionsEach *each, void *userdata)
{
        for (guint n = 0; n < as->loaded->len; n++) {
                const Action *a = ((const Loaded *)g_ptr_array_index(as->loaded, n))->action;
                g_autofree char *prefix = g_strdup_printf("%s\n", a->name);
                GHashTableIter i;
                void *key, *p;

                each->action(userdata, a);
                g_hash_table_iter_init(&i, as->results);
                while (g_hash_table_iter_next(&i, &key, &p)) {
                        const Result *r = p;
                        if (g_str_has_prefix(key, prefix))
                                each->result(userdata,
                                             &(ActionResult){ r->guest_name, r->result, r->reason, r->at });
                }
                each->action_end(userdata);
        }
}
