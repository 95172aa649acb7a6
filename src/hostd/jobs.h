/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * All jobs: ids, limits, whose turn it is, retention, cancelling those whose caller left. Main thread only.
 */

#include "hostd/host.h"
#include "hostd/job.h"
#include "hostd/quota.h"
#include "hostd/store.h"

typedef struct Jobs Jobs;

typedef struct JobsOps { /* the bus listens */
        void (*added)(void *userdata, Job *j);
        void (*changed)(void *userdata, Job *j, bool progress_only); /* progress at most 10 a second a job */
        void (*reported)(void *userdata, Job *j, guint from);        /* j->reports has more, from there on */
        void (*finished)(void *userdata, Job *j);                    /* state, error and counts are final */
        void (*removed)(void *userdata, Job *j); /* retention is over; freed behind this */
        void (*count_changed)(void *userdata);   /* jobs_n_active() is another */
} JobsOps;

Jobs *jobs_new(Host *h);
Jobs *jobs_free(Jobs *js);
void jobs_set_ops(Jobs *js, const JobsOps *ops, void *userdata);

/* A new job, queued; its start() is called from the loop when its turn comes, never before this returns, so
 * that a method's reply precedes the job's first signal. WIRE_OK, or LimitsExceeded with a malloc'ed
 * sentence. Takes userdata over in both cases. source and destination are copied; caller is copied. */
WireError jobs_add(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                   const char *destination, const JobOps *ops, void *userdata, Job **ret, char **ret_text);
/* As jobs_add(), but nobody sees the job and start() is not called: its place among the limits is taken.
 * Then jobs_announce(), which makes it a running job, or jobs_drop(), which undoes it (calls ops->free). */
WireError jobs_reserve(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                       const char *destination, const JobOps *ops, void *userdata, Job **ret,
                       char **ret_text);
void jobs_announce(Jobs *js, Job *j);
/* As a reserved one, for what j, which is about to finish, leaves in its guest: it has j's wire id and
 * place. */
Job *jobs_reserve_after(Jobs *js, Job *j, const JobOps *ops, void *userdata);
void jobs_drop(Jobs *js, Job *j);
/* A job that waits, or is held back in the queue, could go on: start() is called again when its turn comes.
 */
void jobs_resume(Jobs *js, Job *j);

Host *jobs_host(Jobs *js);
/* WIRE_OK, or NotReady with a malloc'ed sentence that says what the guest is instead. */
WireError jobs_check_guest(const Guest *g, char **ret_text);
Quota *jobs_quota(Jobs *js);            /* what is counted of guests and callers, here and by others */
bool jobs_is_ending(const Jobs *js);    /* hostd ends: what is written down stays */
uint32_t jobs_n_active(const Jobs *js); /* not finished, not hidden */
Job *jobs_find(Jobs *js, uint32_t id);
GHashTable *jobs_all(Jobs *js);     /* id → Job*, borrowed; hidden ones are among them */
void jobs_cancel(Jobs *js, Job *j); /* no effect on a finished one */
void jobs_caller_left(Jobs *js, const char *sender);

void job_set_state(Jobs *js, Job *j,
                   JobState s);  /* RUNNING or WAITING; a waiting job's place is free for others */
uint64_t job_rate(const Job *j); /* as rate, and less the longer nothing has moved */
void job_set_progress(Jobs *js, Job *j, uint64_t bytes_done, uint64_t files_done, uint64_t bytes_total,
                      uint64_t files_total);
/* More of j->reports than the `from` that were there before. */
void job_reported(Jobs *js, Job *j, guint from);
/* Taken over. Before the job is announced, which tells of its interfaces; later only the same, changed. */
void job_set_process(Jobs *js, Job *j, JobProcess *p);
/* Once; message is made fit for the bus here. No op but free is called any
 * more, and that only when the job is removed: let go of descriptors and children yourself. */
void job_finish(Jobs *js, Job *j, WireError error, const char *message, const char *digest);

/* Called once when the job has finished, from job_finish(); then the job is looked at only. One a job. */
typedef void (*JobEnded)(void *userdata, const Job *j);
void job_on_end(Job *j, JobEnded ended, void *userdata);

/* What outlives hostd (jobs-keep.c). */
typedef struct JobKeep {
        bool is_queued;                  /* waits for its guest; false: under way, and to be gone on with */
        uint64_t created_at, expires_at; /* µs since the epoch; expires_at 0: never */
        const char *key;                 /* idempotency; NULL */
        const void *payload;
        size_t n_payload;
        StoreDone done; /* may be NULL; userdata must outlive the write: an id, not an object */
        void *userdata;
} JobKeep;
/* Writes the job down, with what its engine needs to begin again (params, an object, taken over; the wire id
 * is added); replaces what was there, and goes when the job finishes. 0; -ENOTSUP: there is no store. */
int jobs_keep(Jobs *js, Job *j, json_object *params, const JobKeep *keep);
void jobs_forget(Jobs *js, Job *j);      /* earlier or later than by its end */
const StoreItem *job_kept(const Job *j); /* without params and payload; NULL: not kept */
/* A job of an earlier hostd under its id, owner and wire id; waiting, or queued as the item says. Its guest
 * may be found later, or never: then guest_state() of ops is called without one. Takes userdata over. No
 * limits. NULL: the item is no good. */
Job *jobs_restore(Jobs *js, const StoreItem *item, const char *source, const char *destination,
                  const JobOps *ops, void *userdata);
/* A new job that waits in the queue: hidden until jobs_show(), never started by itself. No limits: queue.c
 * has its own. */
Job *jobs_add_queued(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                     const char *destination, const JobOps *ops, void *userdata);
void jobs_show(Jobs *js, Job *j);    /* a hidden queued job is announced, still queued */
void jobs_release(Jobs *js, Job *j); /* a queued job's turn has come: start() is called from the loop */
Store *jobs_store(Jobs *js);         /* NULL: there is none */
void jobs_tell_live_transfers(Jobs *js, Guest *g);
