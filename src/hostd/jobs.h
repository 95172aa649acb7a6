/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * All jobs: ids, limits, whose turn it is, retention, cancelling those whose caller left. Main thread only.
 */

#include "hostd/host.h"
#include "hostd/job.h"

typedef struct Jobs Jobs;

typedef struct JobsOps { /* the bus listens */
        void (*added)(void *userdata, Job *j);
        void (*changed)(void *userdata, Job *j, bool progress_only); /* progress at most 10 a second a job */
        void (*finished)(void *userdata, Job *j);                    /* state, error and counts are final */
        void (*removed)(void *userdata, Job *j);                     /* retention is over; freed behind this */
} JobsOps;

Jobs *jobs_new(Host *h);
Jobs *jobs_free(Jobs *js);
void jobs_set_ops(Jobs *js, const JobsOps *ops, void *userdata);

/* A new job, queued; its start() is called from the loop when its turn comes, never before this returns, so that a
 * method's reply precedes the job's first signal. WIRE_OK, or LimitsExceeded with a malloc'ed sentence. Takes userdata
 * over in both cases. source and destination are copied; caller is copied. */
WireError jobs_add(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source, const char *destination,
                   const JobOps *ops, void *userdata, Job **ret, char **ret_text);
Job *jobs_find(Jobs *js, uint32_t id);
GHashTable *jobs_all(Jobs *js); /* id → Job*, borrowed */
void jobs_cancel(Jobs *js, Job *j); /* no effect on a finished one */
void jobs_caller_left(Jobs *js, const char *sender);

void job_set_state(Jobs *js, Job *j, JobState s); /* RUNNING or WAITING */
void job_set_progress(Jobs *js, Job *j, uint64_t bytes_done, uint64_t files_done, uint64_t bytes_total, uint64_t files_total);
void job_set_process(Jobs *js, Job *j, JobProcess *p); /* taken over */
void job_finish(Jobs *js, Job *j, WireError error, const char *message, const char *digest); /* once */
