/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A job enters the table at once and the world a turn of the loop later: the answer to whoever started it is
 * queued on the bus before that. One timer has the turns, one the retention of what has finished, and each
 * job with progress to tell has its own. Callbacks of jobs may add, finish and drop jobs, so walks go over
 * ids.
 */

#include "hostd/jobs-private.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/fs.h"
#include "hostd/quota.h"

#define RETENTION_USEC_MIN (3 * USEC_PER_SEC) /* who hears of an end asks for the rest then */

static void uid_key(uid_t uid, char ret[static 16])
{
        (void)snprintf(ret, 16, "%" PRIu32, (uint32_t)uid);
}

static bool is_transfer(const Job *j)
{
        return j->kind == JOB_PUSH || j->kind == JOB_PULL;
}

static bool place_take(Entry *e)
{
        const Config *c = host_config(e->jobs->host);
        Quota *q = e->jobs->quota;

        if (e->has_place)
                return true;
        if (is_transfer(&e->job)) {
                if (!quota_take(q, QUOTA_TRANSFERS, "", c->max_transfers))
                        return false;
                if (!quota_take(q, QUOTA_TRANSFERS, e->job.guest_uuid, c->max_transfers_per_guest)) {
                        quota_release(q, QUOTA_TRANSFERS, "");
                        return false;
                }
        } else if (e->job.kind == JOB_EXEC &&
                   !quota_take(q, QUOTA_PROCESSES, e->job.guest_uuid, c->max_processes_per_guest))
                return false;
        return e->has_place = true;
}

static void place_release(Entry *e)
{
        if (!e->has_place)
                return;
        e->has_place = false;
        if (is_transfer(&e->job)) {
                quota_release(e->jobs->quota, QUOTA_TRANSFERS, "");
                quota_release(e->jobs->quota, QUOTA_TRANSFERS, e->job.guest_uuid);
        } else if (e->job.kind == JOB_EXEC)
                quota_release(e->jobs->quota, QUOTA_PROCESSES, e->job.guest_uuid);
        loop_timer_set(e->jobs->turn, 0, 0);
}

static void count_release(Entry *e)
{
        char key[16];

        if (!e->counted)
                return;
        e->counted = false;
        if (e->limited && e->job.caller->uid != 0) {
                uid_key(e->job.caller->uid, key);
                quota_release(e->jobs->quota, QUOTA_JOBS, key);
        }
        e->jobs->n_active--;
        e->jobs->n_kept -= !e->limited;
        if (e->announced && e->jobs->ops && e->jobs->ops->count_changed)
                e->jobs->ops->count_changed(e->jobs->userdata);
}

static void entry_free(void *p)
{
        Entry *e = p;

        place_release(e);
        count_release(e);
        if (e->job.ops->free)
                e->job.ops->free(e->job.userdata);
        e->progress = loop_timer_free(e->progress);
        (void)store_item_free(e->kept);
        job_process_free(e->job.process);
        job_reports_done(&e->job.reports);
        caller_free(e->job.caller);
        g_free(e->job.guest_uuid);
        g_free(e->job.guest_name);
        g_free(e->job.source);
        g_free(e->job.destination);
        g_free(e->job.digest);
        g_free(e->job.error_message);
        g_free(e);
}

static void announce(Entry *e)
{
        Jobs *js = e->jobs;

        if (e->announced || e->job.hidden || js->freeing)
                return;
        e->announced = true;
        if (js->ops && js->ops->added)
                js->ops->added(js->userdata, &e->job);
        if (js->ops && js->ops->count_changed)
                js->ops->count_changed(js->userdata);
}

void entry_changed(Entry *e, bool progress_only)
{
        Jobs *js = e->jobs;

        if (!e->announced || js->freeing)
                return;
        e->dirty = false;
        e->told_at = fs_now_usec();
        if (js->ops && js->ops->changed)
                js->ops->changed(js->userdata, &e->job, progress_only);
}

static int compare_ids(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
        return x < y ? -1 : x > y;
}

/* The ids of all jobs in order, so that callbacks may do to the table what they like. */
static GArray *sorted_ids(Jobs *js)
{
        GArray *a = g_array_sized_new(FALSE, FALSE, sizeof(uint32_t), g_hash_table_size(js->all));
        GHashTableIter i;
        void *e;

        g_hash_table_iter_init(&i, js->all);
        while (g_hash_table_iter_next(&i, NULL, &e))
                g_array_append_val(a, ((Entry *)e)->job.id);
        if (a->len > 1)
                qsort(a->data, a->len, sizeof(uint32_t), compare_ids);
        return a;
}

Entry *entry_find(Jobs *js, uint32_t id)
{
        return g_hash_table_lookup(js->all, GUINT_TO_POINTER(id));
}

static void start(Entry *e)
{
        e->wants_turn = false;
        e->job.state = JOB_RUNNING;
        if (e->job.started_at == 0)
                e->job.started_at = fs_realtime_usec();
        e->sample_at = 0;
        entry_changed(e, false);
        e->job.ops->start(e->job.userdata, &e->job);
}

/* Among those whose turn could come, the guest with the fewest running is served first, then the oldest job.
 */
static Entry *next_turn(Jobs *js, const GArray *a)
{
        const Config *c = host_config(js->host);
        bool full = quota_count(js->quota, QUOTA_TRANSFERS, "") >= c->max_transfers;
        uint32_t fewest = UINT32_MAX;
        Entry *best = NULL;

        for (guint i = 0; i < a->len; i++) {
                Entry *e = entry_find(js, g_array_index(a, uint32_t, i));
                uint32_t n;

                if (!e || !e->wants_turn || e->job.hidden || !e->announced)
                        continue;
                if (!is_transfer(&e->job) || e->has_place)
                        return e;
                if (full)
                        continue;
                n = quota_count(js->quota, QUOTA_TRANSFERS, e->job.guest_uuid);
                if (n < c->max_transfers_per_guest && n < fewest) {
                        fewest = n;
                        best = e;
                }
        }
        return best;
}

static void on_turn(void *userdata)
{
        Jobs *js = userdata;
        g_autoptr(GArray) a = sorted_ids(js);
        Entry *e;

        for (guint i = 0; i < a->len; i++)
                if ((e = entry_find(js, g_array_index(a, uint32_t, i))))
                        announce(e);
        while ((e = next_turn(js, a)) && place_take(e))
                start(e);
}

/* In the order in which they are to go. */
static void finished_insert(Jobs *js, Entry *e)
{
        GList *after = js->finished->tail;

        while (after && ((Entry *)after->data)->removed_at > e->removed_at)
                after = after->prev;
        g_queue_insert_after(js->finished, after, e);
}

static void arm_retention(Jobs *js)
{
        Entry *e = g_queue_peek_head(js->finished);
        uint64_t slack = MIN(host_config(js->host)->job_retention_usec / 10, USEC_PER_SEC);

        if (e && js->finished->length > host_config(js->host)->max_jobs)
                loop_timer_set(js->retention, 0, 0);
        else
                loop_timer_set(js->retention, e ? e->removed_at : USEC_INFINITY, slack);
}

static void remove_oldest(Jobs *js)
{
        Entry *e = g_queue_pop_head(js->finished);

        if (e->announced && js->ops && js->ops->removed)
                js->ops->removed(js->userdata, &e->job);
        g_hash_table_remove(js->all, GUINT_TO_POINTER(e->job.id));
}

static void on_retention(void *userdata)
{
        Jobs *js = userdata;
        uint32_t max = host_config(js->host)->max_jobs;
        uint64_t now = fs_now_usec();
        Entry *e;

        while ((e = g_queue_peek_head(js->finished)) && (e->removed_at <= now || js->finished->length > max))
                remove_oldest(js);
        arm_retention(js);
}

static void on_guest_state(void *userdata, Guest *g, GuestState old)
{
        Jobs *js = userdata;

        if (old == guest_state(g))
                return;
        if (guest_state(g) == GUEST_READY)
                jobs_tell_live_transfers(js, g);
        if (js->n_active == 0)
                return;
        g_autoptr(GArray) a = sorted_ids(js);
        for (guint i = 0; i < a->len; i++) {
                Entry *e = entry_find(js, g_array_index(a, uint32_t, i));
                if (e && e->job.guest == g && !job_state_is_final(e->job.state) && e->job.ops->guest_state)
                        e->job.ops->guest_state(e->job.userdata, &e->job);
        }
}

static void on_guest_notify(void *userdata, Guest *g, const Message *m)
{
        Jobs *js = userdata;

        if (js->n_active == 0)
                return;
        g_autoptr(GArray) a = sorted_ids(js);
        for (guint i = 0; i < a->len; i++) {
                Entry *e = entry_find(js, g_array_index(a, uint32_t, i));
                if (e && e->job.guest == g && !job_state_is_final(e->job.state) && e->job.ops->notify)
                        e->job.ops->notify(e->job.userdata, &e->job, m);
        }
}

static void on_guest_removed(void *userdata, Guest *g)
{
        Jobs *js = userdata;
        g_autoptr(GArray) a = sorted_ids(js);

        for (guint i = 0; i < a->len; i++) {
                Entry *e = entry_find(js, g_array_index(a, uint32_t, i));
                if (!e || e->job.guest != g)
                        continue;
                e->job.guest = NULL;
                if (job_state_is_final(e->job.state))
                        continue;
                if (e->job.ops
                            ->guest_state) /* it has streams and requests of the guest to see ended first */
                        e->job.ops->guest_state(e->job.userdata, &e->job);
                else
                        job_finish(js, &e->job, WIRE_INTERRUPTED, "The domain was undefined", NULL);
        }
}

static void on_reloaded(void *userdata)
{
        Jobs *js = userdata;
        loop_timer_set(js->turn, 0, 0);
}

static void on_guest_added(void *userdata, Guest *g)
{
        jobs_guest_found(userdata, g);
        if (guest_state(g) == GUEST_READY)
                on_guest_state(userdata, g, GUEST_OFF);
}

static void on_complete(void *userdata)
{
        jobs_guests_known(userdata);
}

static const HostListener listener = {
        .guest_added = on_guest_added,
        .complete = on_complete,
        .guest_removed = on_guest_removed,
        .guest_state = on_guest_state,
        .guest_notify = on_guest_notify,
        .reloaded = on_reloaded,
};

Jobs *jobs_new(Host *h)
{
        Jobs *js = g_new0(Jobs, 1);

        js->host = h;
        js->quota = quota_new();
        js->all = g_hash_table_new_full(NULL, NULL, NULL, entry_free);
        js->finished = g_queue_new();
        if (store_open(host_config(h)->state_dir, &js->store) >= 0)
                js->last_id = store_last_id(js->store);
        js->turn = loop_timer_new(loop_default(), on_turn, js);
        js->retention = loop_timer_new(loop_default(), on_retention, js);
        if (!js->turn || !js->retention)
                return jobs_free(js);
        host_listen(h, &listener, js);
        return js;
}

Jobs *jobs_free(Jobs *js)
{
        if (!js)
                return NULL;
        js->freeing = true;
        js->ops = NULL;
        g_queue_free(js->finished);
        g_hash_table_unref(js->all);
        loop_timer_free(js->turn);
        loop_timer_free(js->retention);
        quota_free(js->quota);
        (void)store_free(js->store);
        g_free(js);
        return NULL;
}

void jobs_set_ops(Jobs *js, const JobsOps *ops, void *userdata)
{
        js->ops = ops;
        js->userdata = userdata;
}

WireError jobs_check_guest(const Guest *g, char **ret_text)
{
        if (guest_state(g) == GUEST_READY)
                return WIRE_OK;
        *ret_text = g_strdup_printf("Guest %s is not ready but %s: %s", guest_name(g),
                                    guest_state_to_string(guest_state(g)), guest_state_reason(g));
        return WIRE_NOT_READY;
}

static void random_id(char ret[static 33])
{
        for (size_t i = 0; i < 32; i += 8)
                (void)snprintf(ret + i, 9, "%08" PRIx32, g_random_int());
}

Entry *entry_new(Jobs *js, uint32_t id, JobKind kind, const char *uuid, const char *name,
                 const Caller *caller, const char *source, const char *destination, const JobOps *ops,
                 void *userdata)
{
        Entry *e = g_new0(Entry, 1);

        e->jobs = js;
        e->counted = true; /* from here on entry_free() undoes it all */
        e->job = (Job){
                .id = id,
                .wire_id = "",
                .kind = kind,
                .state = JOB_QUEUED,
                .guest_uuid = g_strdup(uuid),
                .guest_name = job_text(name),
                .source = job_text(source),
                .destination = job_text(destination),
                .caller = caller_copy(caller),
                .bytes_total = UINT64_MAX,
                .files_total = UINT64_MAX,
                .digest = g_strdup(""),
                .error_message = g_strdup(""),
                .ops = ops,
                .userdata = userdata,
        };
        random_id(e->job.wire_id);
        js->n_active++;
        js->n_kept++;
        g_hash_table_insert(js->all, GUINT_TO_POINTER(id), e);
        return e;
}

static WireError add(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                     const char *destination, const JobOps *ops, void *userdata, bool hidden, Job **ret,
                     char **ret_text)
{
        const Config *c = host_config(js->host);
        Entry *e;
        char key[16];

        uid_key(caller->uid, key);
        if (js->n_active - js->n_kept >= c->max_jobs) {
                *ret_text =
                        g_strdup_printf("There are %" PRIu32
                                        " jobs, the most that hostd has at once (MaxJobs= of hostd.conf)",
                                        js->n_active - js->n_kept);
                goto refused;
        }
        if (caller->uid != 0 && !quota_take(js->quota, QUOTA_JOBS, key, c->max_jobs_per_caller)) {
                *ret_text = g_strdup_printf("User %s has %" PRIu32
                                            " jobs already, the most that one user may have at once "
                                            "(MaxJobsPerCaller= of hostd.conf)",
                                            key, quota_count(js->quota, QUOTA_JOBS, key));
                goto refused;
        }

        e = entry_new(js, jobs_next_id(js), kind, guest_uuid(g), guest_name(g), caller, source, destination,
                      ops, userdata);
        e->limited = true;
        js->n_kept--;
        e->wants_turn = !hidden;
        e->job.guest = g;
        e->job.hidden = hidden;
        if (kind == JOB_EXEC && !place_take(e)) {
                *ret_text = g_strdup_printf("Guest %s has %" PRIu32
                                            " processes started from here, the most at once "
                                            "(MaxProcessesPerGuest= of hostd.conf)",
                                            e->job.guest_name, c->max_processes_per_guest);
                g_hash_table_remove(js->all, GUINT_TO_POINTER(e->job.id));
                return WIRE_LIMITS_EXCEEDED;
        }
        if (!hidden)
                loop_timer_set(js->turn, 0, 0);
        *ret = &e->job;
        return WIRE_OK;

refused:
        if (ops->free)
                ops->free(userdata);
        return WIRE_LIMITS_EXCEEDED;
}

WireError jobs_add(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                   const char *destination, const JobOps *ops, void *userdata, Job **ret, char **ret_text)
{
        return add(js, kind, g, caller, source, destination, ops, userdata, false, ret, ret_text);
}

WireError jobs_reserve(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                       const char *destination, const JobOps *ops, void *userdata, Job **ret,
                       char **ret_text)
{
        return add(js, kind, g, caller, source, destination, ops, userdata, true, ret, ret_text);
}

Job *jobs_reserve_after(Jobs *js, Job *j, const JobOps *ops, void *userdata)
{
        Entry *e = entry_new(js, jobs_next_id(js), j->kind, j->guest_uuid, j->guest_name, j->caller, "", "",
                             ops, userdata);

        memcpy(e->job.wire_id, j->wire_id, sizeof(e->job.wire_id));
        e->job.guest = j->guest;
        e->job.hidden = true;
        e->has_place = entry(j)->has_place;
        entry(j)->has_place = false;
        return &e->job;
}

void jobs_announce(Jobs *js, Job *j)
{
        j->hidden = false;
        j->state = JOB_RUNNING;
        j->started_at = fs_realtime_usec();
        announce(entry(j));
}

void jobs_drop(Jobs *js, Job *j)
{
        g_hash_table_remove(js->all, GUINT_TO_POINTER(j->id));
}

void jobs_resume(Jobs *js, Job *j)
{
        if (j->state != JOB_WAITING)
                return;
        entry(j)->wants_turn = true;
        loop_timer_set(js->turn, 0, 0);
}

Host *jobs_host(Jobs *js)
{
        return js->host;
}

Quota *jobs_quota(Jobs *js)
{
        return js->quota;
}

bool jobs_is_ending(const Jobs *js)
{
        return js->freeing;
}

uint32_t jobs_n_active(const Jobs *js)
{
        return js->n_active;
}

Job *jobs_find(Jobs *js, uint32_t id)
{
        Entry *e = entry_find(js, id);
        return e ? &e->job : NULL;
}

GHashTable *jobs_all(Jobs *js)
{
        return js->all;
}

void jobs_cancel(Jobs *js, Job *j)
{
        if (!job_state_is_final(j->state))
                j->ops->cancel(j->userdata, j);
}

void jobs_caller_left(Jobs *js, const char *sender)
{
        g_autoptr(GArray) a = sorted_ids(js);

        for (guint i = 0; i < a->len; i++) {
                Entry *e = entry_find(js, g_array_index(a, uint32_t, i));
                if (e && !e->job.detached && str_eq(e->job.caller->sender, sender))
                        jobs_cancel(js, &e->job);
        }
}

void job_set_state(Jobs *js, Job *j, JobState s)
{
        Entry *e = entry(j);

        if (j->state == s || job_state_is_final(j->state) || job_state_is_final(s))
                return;
        j->state = s;
        if (s == JOB_WAITING) {
                j->rate = 0;
                if (is_transfer(j))
                        place_release(e);
        }
        entry_changed(e, false);
}

void job_reported(Jobs *js, Job *j, guint from)
{
        if (entry(j)->announced && !js->freeing && js->ops && js->ops->reported)
                js->ops->reported(js->userdata, j, from);
}

void job_set_process(Jobs *js, Job *j, JobProcess *p)
{
        g_assert(j->process == p || !entry(j)->announced);
        if (j->process != p)
                job_process_free(j->process);
        j->process = p;
        entry_changed(entry(j), false);
}

/* What a message's job has to say is in the answer of its method. */
static uint64_t retention(Jobs *js, const Job *j)
{
        const Config *c = host_config(js->host);
        uint64_t usec =
                j->kind == JOB_EXEC && j->detached ? c->detached_retention_usec : c->job_retention_usec;

        return j->kind == JOB_SEND ? usec : MAX(usec, RETENTION_USEC_MIN);
}

void job_finish(Jobs *js, Job *j, WireError error, const char *message, const char *digest)
{
        Entry *e = entry(j);
        uint64_t took;

        if (job_state_is_final(j->state))
                return;
        announce(e);
        j->hidden = false;
        j->state = error == WIRE_OK ? JOB_DONE : error == WIRE_CANCELLED ? JOB_CANCELLED : JOB_FAILED;
        j->error = error;
        if (error != WIRE_OK) {
                g_free(j->error_message);
                j->error_message = job_text(message);
        }
        if (digest) {
                g_free(j->digest);
                j->digest = job_text(digest);
        }
        j->finished_at = fs_realtime_usec();
        if (j->started_at == 0)
                j->started_at = j->finished_at;
        /* What is left to read of a finished job's rate is its mean. */
        took = j->finished_at > j->started_at ? j->finished_at - j->started_at : 1;
        j->rate = (uint64_t)((double)j->bytes_done * USEC_PER_SEC / (double)took);
        e->wants_turn = false;
        e->progress = loop_timer_free(e->progress);
        entry_forget(e);
        place_release(e);
        entry_changed(e, false);
        if (!js->freeing && js->ops && js->ops->finished)
                js->ops->finished(js->userdata, j);
        count_release(e);

        e->removed_at = usec_add(fs_now_usec(), retention(js, j));
        finished_insert(js, e);
        arm_retention(js); /* never removed from here: the finisher still holds the job */
        if (e->ended && !js->freeing)
                TAKE(e->ended)(e->ended_userdata, j);
}
