/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* hostd/jobs: order of news, turns, limits, retention, callers that leave. The loop is real, the guest is
 * off. */

#include <glib.h>
#include <stdlib.h>

#include "base/base.h"
#include "hostd/jobs.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "../suite.h"

typedef struct Work { /* userdata of a job */
        unsigned n_started, n_cancelled;
        bool ends_when_cancelled;
} Work;

static Loop *loop;
static Host *host;
static Jobs *jobs;
static Config *config; /* host's, looked at as ours */
static Guest *guests[2];
static GString *news; /* "+1" added, "~1" changed, "p1" progress, "!1" finished, "-1" removed */
static unsigned n_freed;
static Caller *alice, *root;

static void on_added(void *userdata, Job *j)
{
        g_string_append_printf(news, "+%u ", j->id);
}

static void on_changed(void *userdata, Job *j, bool progress_only)
{
        g_string_append_printf(news, "%c%u ", progress_only ? 'p' : '~', j->id);
}

static void on_finished(void *userdata, Job *j)
{
        g_string_append_printf(news, "!%u ", j->id);
}

static void on_removed(void *userdata, Job *j)
{
        g_string_append_printf(news, "-%u ", j->id);
}

static const JobsOps jobs_ops = {
        .added = on_added,
        .changed = on_changed,
        .finished = on_finished,
        .removed = on_removed,
};

static void on_start(void *userdata, Job *j)
{
        ((Work *)userdata)->n_started++;
}

static void on_cancel(void *userdata, Job *j)
{
        Work *w = userdata;

        w->n_cancelled++;
        if (w->ends_when_cancelled)
                job_finish(jobs, j, WIRE_CANCELLED, "Cancelled", NULL);
}

static void on_free(void *userdata)
{
        n_freed++;
}

static const JobOps work_ops = { .start = on_start, .cancel = on_cancel, .free = on_free };

static void on_pause_over(void *userdata)
{
        loop_quit(loop, 0);
}

static void turn(uint64_t usec)
{
        LoopTimer *t = loop_timer_new(loop, on_pause_over, NULL);

        loop_timer_set(t, (uint64_t)g_get_monotonic_time() + usec, 0);
        (void)loop_run(loop);
        loop_timer_free(t);
}

static void set_up(void)
{
        static const GuestOps guest_ops = {};

        log_set_max_level(-1);
        (void)g_setenv("XDG_CONFIG_HOME", "/nonexistent", TRUE);
        ck_assert_int_eq(loop_new(&loop), 0);
        config = config_load(true);
        g_free(config->connect_uri);
        config->connect_uri = g_strdup("test:///default");
        g_free(config->state_dir);
        config->state_dir = g_strdup("/dev/null/none"); /* nothing outlives this hostd */
        host = host_new(config);
        jobs = jobs_new(host);
        ck_assert_ptr_nonnull(jobs);
        jobs_set_ops(jobs, &jobs_ops, NULL);
        for (size_t i = 0; i < ELEMENTSOF(guests); i++) {
                Domain *d = domain_new();
                d->uuid = g_strdup_printf("00000000-0000-0000-0000-00000000000%zu", i);
                d->name = g_strdup_printf("guest%zu", i);
                guests[i] = guest_new(d, &guest_ops, NULL);
                domain_free(d);
        }
        news = g_string_new(NULL);
        n_freed = 0;
        alice = caller_new(1000, 1000, NULL, 0, ":1.7");
        root = caller_new(0, 0, NULL, 0, ":1.8");
}

static void tear_down(void)
{
        jobs_free(jobs);
        for (size_t i = 0; i < ELEMENTSOF(guests); i++)
                guest_free(guests[i]);
        host_free(host);
        loop_free(loop);
        caller_free(alice);
        caller_free(root);
        g_string_free(news, TRUE);
}

static Job *add(JobKind kind, Guest *g, const Caller *caller, Work *w)
{
        char *text = NULL;
        Job *j = NULL;

        ck_assert_int_eq(jobs_add(jobs, kind, g, caller, "/a", "/b", &work_ops, w, &j, &text), WIRE_OK);
        ck_assert_ptr_null(text);
        return j;
}

START_TEST(reply_comes_first)
{
        Work w = {};
        Job *j = add(JOB_PUSH, guests[0], alice, &w);

        /* Whoever added it has answered by now; nothing was told before. */
        ck_assert_str_eq(news->str, "");
        ck_assert_uint_eq(w.n_started, 0);
        ck_assert_int_eq(j->state, JOB_QUEUED);
        turn(10000);
        ck_assert_str_eq(news->str, "+1 ~1 ");
        ck_assert_uint_eq(w.n_started, 1);
        ck_assert_int_eq(j->state, JOB_RUNNING);
        ck_assert_uint_ne(j->started_at, 0);
        job_finish(jobs, j, WIRE_OK, NULL, "xxh64:0123456789abcdef");
        ck_assert_str_eq(news->str, "+1 ~1 ~1 !1 ");
        ck_assert_int_eq(j->state, JOB_DONE);
        ck_assert_str_eq(j->digest, "xxh64:0123456789abcdef");
        ck_assert_str_eq(j->error_message, "");
        ck_assert_uint_eq(jobs_n_active(jobs), 0);
        job_finish(jobs, j, WIRE_FAILED, "again", NULL);
        jobs_cancel(jobs, j);
        ck_assert_int_eq(j->state, JOB_DONE);
        ck_assert_uint_eq(w.n_cancelled, 0);
}
END_TEST

START_TEST(finished_before_its_turn)
{
        Work w = {};
        Job *j = add(JOB_PUSH, guests[0], alice, &w);

        job_finish(jobs, j, WIRE_FAILED, "bad \xff", NULL);
        turn(10000);
        ck_assert_str_eq(news->str, "+1 ~1 !1 ");
        ck_assert_uint_eq(w.n_started, 0);
        ck_assert_str_eq(j->error_message, "bad \\xff");
}
END_TEST

START_TEST(transfers_take_turns)
{
        Work w[6] = {};
        Job *j[6];

        config->max_transfers = 3;
        config->max_transfers_per_guest = 2;
        for (size_t i = 0; i < 5; i++)
                j[i] = add(JOB_PUSH, guests[0], alice, &w[i]);
        j[5] = add(JOB_PULL, guests[1], alice, &w[5]);
        turn(10000);
        ck_assert_uint_eq(w[0].n_started, 1);
        ck_assert_uint_eq(w[1].n_started, 1);
        ck_assert_uint_eq(w[2].n_started, 0);
        ck_assert_uint_eq(w[5].n_started, 1); /* not behind all of the other guest's */
        ck_assert_int_eq(j[2]->state, JOB_QUEUED);
        job_finish(jobs, j[0], WIRE_OK, NULL, NULL);
        turn(10000);
        ck_assert_uint_eq(w[2].n_started, 1);
        ck_assert_uint_eq(w[3].n_started, 0);
        /* One that waits for its guest leaves its place to others, and gets one again later. */
        job_set_state(jobs, j[1], JOB_WAITING);
        turn(10000);
        ck_assert_uint_eq(w[3].n_started, 1);
        jobs_resume(jobs, j[1]);
        turn(10000);
        ck_assert_uint_eq(w[1].n_started, 1);
        job_finish(jobs, j[2], WIRE_OK, NULL, NULL);
        turn(10000);
        ck_assert_uint_eq(w[1].n_started, 2);
        ck_assert_uint_eq(w[4].n_started, 0);
        ck_assert_int_eq(j[1]->state, JOB_RUNNING);
}
END_TEST

START_TEST(limits)
{
        g_autofree char *text = NULL;
        Work w = {};
        Job *j;

        config->max_jobs = 3;
        config->max_jobs_per_caller = 2;
        add(JOB_SEND, guests[0], alice, &w);
        j = add(JOB_SEND, guests[0], alice, &w);
        ck_assert_int_eq(jobs_add(jobs, JOB_SEND, guests[0], alice, "", "", &work_ops, &w, &j, &text),
                         WIRE_LIMITS_EXCEEDED);
        ck_assert_ptr_nonnull(strstr(text, "1000"));
        ck_assert_uint_eq(n_freed, 1); /* taken over all the same */
        g_clear_pointer(&text, g_free);
        add(JOB_SEND, guests[0], root, &w);
        ck_assert_int_eq(jobs_add(jobs, JOB_SEND, guests[0], root, "", "", &work_ops, &w, &j, &text),
                         WIRE_LIMITS_EXCEEDED);
        job_finish(jobs, jobs_find(jobs, 1), WIRE_OK, NULL, NULL);
        add(JOB_SEND, guests[0], alice, &w);
}
END_TEST

START_TEST(processes_are_limited)
{
        g_autofree char *text = NULL;
        Job *first = NULL, *j = NULL;
        Work w = {};

        config->max_processes_per_guest = 1;
        ck_assert_int_eq(
                jobs_reserve(jobs, JOB_EXEC, guests[0], alice, "ls", "", &work_ops, &w, &first, &text),
                WIRE_OK);
        ck_assert_int_eq(jobs_reserve(jobs, JOB_EXEC, guests[0], alice, "ls", "", &work_ops, &w, &j, &text),
                         WIRE_LIMITS_EXCEEDED);
        g_clear_pointer(&text, g_free);
        ck_assert_int_eq(jobs_reserve(jobs, JOB_EXEC, guests[1], alice, "ls", "", &work_ops, &w, &j, &text),
                         WIRE_OK);
        turn(10000);
        ck_assert_str_eq(news->str, "");
        jobs_drop(jobs, first);
        ck_assert_uint_eq(n_freed, 2);
        ck_assert_int_eq(
                jobs_reserve(jobs, JOB_EXEC, guests[0], alice, "ls", "", &work_ops, &w, &first, &text),
                WIRE_OK);
        jobs_announce(jobs, first);
        ck_assert_int_eq(first->state, JOB_RUNNING);
        ck_assert_str_eq(news->str, "+4 ");
        ck_assert_uint_eq(w.n_started, 0);
}
END_TEST

START_TEST(progress_is_told_ten_times_a_second)
{
        unsigned n = 0;
        Work w = {};
        Job *j = add(JOB_PUSH, guests[0], alice, &w);

        turn(10000);
        for (unsigned i = 1; i <= 100; i++) {
                job_set_progress(jobs, j, i * 1000, 0, 200000, 1);
                turn(4000);
        }
        turn(150000);
        for (const char *p = news->str; (p = strchr(p, 'p')); p++)
                n++;
        ck_assert_uint_ge(n, 2);
        ck_assert_uint_le(n, 10); /* half a second, on a slow machine a whole one */
        ck_assert_uint_eq(j->bytes_done, 100000);
        ck_assert_uint_gt(j->rate, 0);
        /* The last state is never held back. */
        job_set_progress(jobs, j, 200000, 1, 200000, 1);
        job_finish(jobs, j, WIRE_OK, NULL, NULL);
        ck_assert(g_str_has_suffix(news->str, "~1 !1 "));
}
END_TEST

START_TEST(caller_leaves)
{
        Work stays = { .ends_when_cancelled = true }, ends = stays;
        Job *a = add(JOB_PUSH, guests[0], alice, &stays), *b = add(JOB_PUSH, guests[0], alice, &ends);

        a->detached = true;
        turn(10000);
        jobs_caller_left(jobs, ":1.70");
        ck_assert_uint_eq(ends.n_cancelled, 0);
        jobs_caller_left(jobs, ":1.7");
        ck_assert_uint_eq(stays.n_cancelled, 0);
        ck_assert_uint_eq(ends.n_cancelled, 1);
        ck_assert_int_eq(b->state, JOB_CANCELLED);
}
END_TEST

START_TEST(retention)
{
        Work w = {};

        config->job_retention_usec = 50000;
        job_finish(jobs, add(JOB_SEND, guests[0], alice, &w), WIRE_OK, NULL, NULL);
        turn(1000);
        ck_assert_ptr_nonnull(jobs_find(jobs, 1));
        turn(200000);
        ck_assert_ptr_null(jobs_find(jobs, 1));
        ck_assert_uint_eq(n_freed, 1);
        ck_assert(g_str_has_suffix(news->str, "-1 "));
        /* Whoever waits for it asks how it has ended. */
        config->job_retention_usec = 0;
        job_finish(jobs, add(JOB_EXEC, guests[0], alice, &w), WIRE_OK, NULL, NULL);
        turn(200000);
        ck_assert_ptr_nonnull(jobs_find(jobs, 2));
}
END_TEST

START_TEST(retention_without_end)
{
        const uint64_t usec[] = { USEC_INFINITY, USEC_INFINITY - 1, USEC_INFINITY / 2 };
        Work w = {};
        Job *j;

        config->job_retention_usec = usec[_i];
        config->detached_retention_usec = usec[_i];
        job_finish(jobs, add(JOB_SEND, guests[0], alice, &w), WIRE_OK, NULL, NULL);
        j = add(JOB_EXEC, guests[0], alice, &w);
        j->detached = true;
        job_finish(jobs, j, WIRE_OK, NULL, NULL);
        turn(50000);
        ck_assert_ptr_nonnull(jobs_find(jobs, 1));
        ck_assert_ptr_nonnull(jobs_find(jobs, 2));
}
END_TEST

START_TEST(as_many_are_kept_as_may_run)
{
        Work w = {};

        config->max_jobs = 10;
        for (int i = 0; i < 50; i++) {
                job_finish(jobs, add(JOB_SEND, guests[0], alice, &w), WIRE_OK, NULL, NULL);
                turn(100);
        }
        turn(20000);
        ck_assert_uint_le(g_hash_table_size(jobs_all(jobs)), 10);
        ck_assert_ptr_nonnull(jobs_find(jobs, 50));
        ck_assert_ptr_null(jobs_find(jobs, 1));
}
END_TEST

SUITE_AROUND("hostd/jobs", set_up, tear_down, { reply_comes_first }, { finished_before_its_turn },
             { transfers_take_turns }, { limits }, { processes_are_limited },
             { progress_is_told_ten_times_a_second }, { caller_leaves }, { retention },
             { retention_without_end, 3 }, { as_many_are_kept_as_may_run })
