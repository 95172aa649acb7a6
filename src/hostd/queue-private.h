/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What queue.c and queue-item.c share: the items, and how one is carried out.
 */

#include "hostd/delivery.h"
#include "hostd/loop.h"
#include "hostd/queue.h"

typedef struct QueueItem {
        Queue *queue;
        uint32_t id; /* of its job */
        char *guest_uuid, *guest_name;
        uid_t uid;
        bool is_on_disk, is_running;
        bool is_over; /* its end has been told: what still arrives is late */
        uint64_t created_at, expires_at;
        GSList *waiters; /* for the disk */

        /* a message */
        bool is_call, is_keyed;
        char *topic;
        uint8_t *payload;
        size_t n_payload;
        uint64_t message_id;
        Delivery *delivery; /* under way; NULL */
        /* a command */
        json_object *start; /* parameters of process.start; NULL: none */
        uint64_t request;   /* under way; 0 */
        Guest *guest;       /* of the request: it ends that before it goes */
        bool is_cancelled;
        LoopTimer *timer;
} QueueItem;

extern const JobOps queue_message_ops, queue_command_ops;

Jobs *queue_jobs(Queue *q);
QueueItem *queue_find(Queue *q, uint32_t id);
Job *item_job(const QueueItem *i);
QueueItem *item_free(QueueItem *i);
void item_show_process(const QueueItem *i, Job *j); /* of a command: org.vmferry1.Process, with no pid yet */
void item_audit(const QueueItem *i, const Job *j, WireError error, const char *text);
void item_run(QueueItem *i, Guest *g); /* its turn has come, the guest is ready */
/* It was not carried out, or that is not known: again when the guest is ready. */
void queue_retry(QueueItem *i, WireError error);
