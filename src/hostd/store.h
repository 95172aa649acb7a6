/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What must outlive hostd: queued items, transfers that can be resumed, and which actions were carried out.
 * One SQLite database, STATE/queue.db, in WAL mode; the only file that knows sqlite3. Reading happens once,
 * at the start; writing happens on a thread of its own, in order, so that a slow disk delays nobody but who
 * waits for that very write.
 */

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

#include "hostd/job.h"

typedef struct Store Store;

typedef struct StoreItem {
        uint32_t id; /* of the job */
        char *guest_uuid, *guest_name;
        JobKind kind;
        bool is_queued;      /* waits for its guest; false: it is under way, and here to be resumed */
        Caller *caller;      /* without a sender */
        json_object *params; /* whatever its engine needs to begin again */
        uint8_t *payload;
        size_t n_payload;
        uint64_t created_at, expires_at; /* µs since the epoch; expires_at 0: never */
        char *key;                       /* idempotency; NULL */
} StoreItem;
StoreItem *store_item_free(StoreItem *item);

/* Called on the main thread when it is on disk (0), or could not be written (-errno). May be NULL. */
typedef void (*StoreDone)(void *userdata, int r);

/* Makes the directory and the file (0700, 0600). A database that is broken is set aside as
 * queue.db.broken-TIME, with a logged error, and a new one begun. 0, or -errno: then hostd runs without, and
 * queueing is refused. */
int store_open(const char *directory, Store **ret);
Store *store_free(Store *s); /* waits until all was written */

/* Everything that is kept, ordered by id. Only before the first write. Items are owned by the callee. */
int store_load(Store *s, void (*each)(void *userdata, StoreItem *item), void *userdata);
uint32_t store_last_id(const Store *s); /* none above it was ever put or reserved; 0: none at all */
/* An id is about to be used, put or not: no hostd after this one will give it to another job. */
void store_reserve_id(Store *s, uint32_t id);

void store_put(Store *s, const StoreItem *item, StoreDone done,
               void *userdata); /* replaces one of the same id */
void store_remove(Store *s, uint32_t id, StoreDone done, void *userdata);

/* What came of an action for a guest, the last time. */
typedef struct StoreResult {
        char *action, *guest_uuid, *guest_name, *reason;
        bool has_failed;
        uint64_t at; /* µs since the epoch */
} StoreResult;
/* Those of earlier hostds, once. */
void store_take_results(Store *s, void (*each)(void *userdata, const StoreResult *r), void *userdata);
void store_put_result(Store *s, const StoreResult *r); /* replaces the one of this action and guest */

/* Actions: what was carried out for which guest, at which boot. Answered from memory. */
/* boot_id NULL: at any boot. */
bool store_was_done(const Store *s, const char *action, const char *guest_uuid, const char *boot_id);
void store_mark_done(Store *s, const char *action, const char *guest_uuid, const char *boot_id);
