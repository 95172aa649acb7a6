/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A job: anything that takes time, with an id, an owner, a state and progress. jobs.c keeps them, schedules
 * them and tells the bus; transfer.c and exec.c are what runs inside. Main thread only.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"
#include "hostd/guest.h"
#include "hostd/job-reports.h"
#include "proto/limits.h"
#include "proto/wire-error.h"

typedef struct Job Job;

typedef enum JobKind { JOB_PUSH, JOB_PULL, JOB_EXEC, JOB_SEND } JobKind;
typedef enum JobState { JOB_QUEUED, JOB_RUNNING, JOB_WAITING, JOB_DONE, JOB_FAILED, JOB_CANCELLED } JobState;
static inline bool job_state_is_final(JobState s)
{
        return s >= JOB_DONE;
}
const char *job_kind_to_string(JobKind k);
const char *job_state_to_string(JobState s);

/* Who asked: from the bus's credentials, never from the message. */
typedef struct Caller {
        uid_t uid;
        gid_t gid;
        gid_t *groups;
        size_t n_groups;
        char *sender; /* unique bus name; NULL: nobody is waiting (queue, actions, after a restart) */
} Caller;
Caller *caller_new(uid_t uid, gid_t gid, const gid_t *groups, size_t n_groups, const char *sender);
Caller *caller_copy(const Caller *c);
Caller *caller_free(Caller *c);
DEFINE_CLEANUP(Caller *, caller_free);

typedef struct JobOps {
        /* The job may run now (its turn came): work, report by job_set_*(), end by job_finish(). */
        void (*start)(void *userdata, Job *j);
        /* End soon with job_finish(j, WIRE_CANCELLED, …). Also called for a job that has not started. */
        void (*cancel)(void *userdata, Job *j);
        void (*free)(void *userdata);
        /* The guest of an unfinished job, started or not, changed its state; without a guest (j->guest is
         * NULL now): its domain is gone. May be NULL, and the job is failed with Interrupted when its domain
         * goes. */
        void (*guest_state)(void *userdata, Job *j);
        /* The guest told something, as guest.h's notify. May be NULL. */
        void (*notify)(void *userdata, Job *j, const Message *m);
} JobOps;

typedef struct JobProcess { /* of exec jobs */
        char **argv;
        uint32_t guest_pid;
        int32_t exit_status, exit_signal;
        bool exited;
        bool has_tty;
        bool has_spool; /* its output is kept in the guest */
} JobProcess;
/* Copies argv, escaped for the bus as by job_text(), but that a script may have lines. Of all together
 * JOB_TEXT_MAX bytes; the one that does not fit is cut, with an ellipsis, and the last. */
JobProcess *job_process_new(const char *const *argv);
JobProcess *job_process_free(JobProcess *p);

#define JOB_TEXT_MAX (4 * PATH_BYTES_MAX) /* a path, all of it escaped */
/* A line of valid UTF-8 as it is; with controls or broken bytes in it, of which the caller may have put in
 * some to fool who reads it, escaped. Cut, with an ellipsis, behind JOB_TEXT_MAX bytes. Never NULL.
 * malloc'ed. */
char *job_text(const char *untrusted);
/* A sentence of guest.h without its "Guest NAME: ", for one that names the guest already. Borrowed. */
const char *job_bare_text(const char *guest_name, const char *text);

struct Job { /* read by the bus; written by the setters only */
        uint32_t id;
        char wire_id[33]; /* of the transfer or process, as the guest and the audit know it */
        JobKind kind;
        JobState state;
        Guest *guest; /* NULL when its domain is gone */
        char *guest_uuid, *guest_name;
        char *source, *destination; /* valid UTF-8 */
        Caller *caller;
        uint64_t bytes_total, bytes_done, files_total, files_done, rate; /* totals UINT64_MAX: unknown */
        uint64_t started_at, finished_at;                                /* µs since the epoch */
        char *digest;                                                    /* "xxh64:…" or "" */
        WireError error;     /* WIRE_OK unless failed or cancelled */
        char *error_message; /* valid UTF-8, never NULL */
        JobReports reports;
        bool detached; /* outlives its caller */
        bool hidden;   /* reserved: not announced yet */
        JobProcess *process;
        const JobOps *ops;
        void *userdata;
};
