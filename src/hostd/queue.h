/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What is meant for a guest that is off or booting: messages, commands and transfers, written down (store.h)
 * and carried out in order, one after the other, each once, when the guest is ready, or failed when their
 * time is over. An item is a job.
 */

#include "hostd/exec.h"
#include "hostd/jobs.h"
#include "hostd/transfer.h"

typedef struct Queue Queue;

typedef struct QueueOptions {
        uint64_t ttl_usec; /* 0: QueueTtl= */
        const char *key;   /* the same of the same user, guest, method and topic is the same item; NULL */
} QueueOptions;

/* Called once, perhaps before the call that began it returns. WIRE_OK: the item is on disk; j is borrowed.
 */
typedef void (*QueueDone)(void *userdata, WireError error, const char *text, const Job *j);

Queue *queue_new(Jobs *js);  /* one a process */
Queue *queue_free(Queue *q); /* before jobs; who still waits is told Interrupted */
/* An item of an earlier hostd. 0, or -EINVAL: it is no good. The caller keeps `item`. */
int queue_restore(Queue *q, const StoreItem *item);

void queue_message(Queue *q, Guest *g, const Caller *caller, bool is_call, const char *topic,
                   const void *payload, size_t n_payload, const QueueOptions *options, QueueDone done,
                   void *userdata);
/* Its output is dropped, its exit status is the job's. exec_check_command() was passed. */
void queue_command(Queue *q, Guest *g, const Caller *caller, const char *const *argv,
                   const ExecOptions *exec, const QueueOptions *options, QueueDone done, void *userdata);
void queue_transfer(Queue *q, JobKind kind, Guest *g, const Caller *caller, const char *host_path,
                    const char *guest_path, const TransferOptions *transfer, const QueueOptions *options,
                    QueueDone done, void *userdata);

uint32_t queue_length(const Queue *q, const char *guest_uuid);
/* In order. description is a sentence fit for the bus; created_at and expires_at in µs since the epoch, 0:
 * never. */
typedef void (*QueueEach)(void *userdata, const Job *j, const char *description, uint64_t created_at,
                          uint64_t expires_at);
void queue_each(const Queue *q, const char *guest_uuid, QueueEach each, void *userdata);
bool queue_has(const Queue *q, uint32_t id); /* of a job: whether it is an item that has not ended */
