/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What jobs.c, jobs-keep.c and jobs-progress.c share: the record behind a Job.
 */

#include "hostd/jobs.h"
#include "hostd/loop.h"

typedef struct Entry {
        Job job; /* first: a Job * is an Entry * */
        Jobs *jobs;
        bool announced, counted;
        bool limited;    /* counts against its caller */
        bool wants_turn; /* start() is to be called */
        bool has_place;  /* counts as a running transfer, or as a process */
        bool dirty;      /* progress not told yet */
        bool restored;   /* of an earlier hostd; its guest may not have been seen yet */
        uint64_t told_at;
        uint64_t sample_at, sample_bytes;
        LoopTimer *progress;
        uint64_t removed_at;
        StoreItem *kept; /* as it stands in the store, without params and payload; NULL: it does not */
        JobEnded ended;
        void *ended_userdata;
} Entry;

static inline Entry *entry(const Job *j)
{
        return (Entry *)j;
}

struct Jobs {
        Host *host;
        Quota *quota;
        Store *store;     /* NULL: there is none */
        GHashTable *all;  /* id → Entry*, owned */
        GQueue *finished; /* Entry*, oldest first */
        LoopTimer *turn, *retention;
        const JobsOps *ops;
        void *userdata;
        uint32_t last_id, n_active;
        uint32_t n_kept; /* of n_active: waiting in the queue or restored, which MaxJobs= does not limit */
        bool freeing;
};

/* A job in the table, queued, without limits and turns. Takes userdata over. */
Entry *entry_new(Jobs *js, uint32_t id, JobKind kind, const char *guest_uuid, const char *guest_name,
                 const Caller *caller, const char *source, const char *destination, const JobOps *ops,
                 void *userdata);
Entry *entry_find(Jobs *js, uint32_t id);
void entry_changed(Entry *e, bool progress_only); /* tells the bus, if it knows of the job */
uint32_t jobs_next_id(Jobs *js);
void jobs_guest_found(Jobs *js, Guest *g); /* jobs of an earlier hostd find their guest */
void jobs_guests_known(Jobs *js);          /* those that have none never will */
void entry_forget(Entry *e);               /* it is out of the store */
