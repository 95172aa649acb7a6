/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Jobs that outlive hostd: written down while they are under way or wait in the queue, and taken up again at
 * the start. Then libvirt has told of no domain yet, so they know their guest by its UUID until it is found.
 */

#include "hostd/jobs-private.h"

#include "hostd/loop.h"
#include "proto/message.h"
#include "proto/name.h"

#define WIRE_ID "wire_id"

/* Never one of an earlier hostd's: somebody may wait for that. */
uint32_t jobs_next_id(Jobs *js)
{
        do
                js->last_id = js->last_id == UINT32_MAX ? 1 : js->last_id + 1;
        while (entry_find(js, js->last_id));
        if (js->store)
                store_reserve_id(js->store, js->last_id);
        return js->last_id;
}

Store *jobs_store(Jobs *js)
{
        return js->store;
}

void job_on_end(Job *j, JobEnded ended, void *userdata)
{
        Entry *e = (Entry *)j;

        e->ended = ended;
        e->ended_userdata = userdata;
}

const StoreItem *job_kept(const Job *j)
{
        return ((const Entry *)j)->kept;
}

void entry_forget(Entry *e)
{
        if (!e->kept)
                return;
        store_remove(e->jobs->store, e->job.id, NULL, NULL);
        e->kept = store_item_free(e->kept);
}

void jobs_forget(Jobs *js, Job *j)
{
        entry_forget((Entry *)j);
}

int jobs_keep(Jobs *js, Job *j, json_object *params, const JobKeep *keep)
{
        Entry *e = (Entry *)j;
        StoreItem *item;

        if (!js->store) {
                json_object_put(params);
                return -ENOTSUP;
        }
        item = g_new0(StoreItem, 1);
        *item = (StoreItem){
                .id = j->id,
                .guest_uuid = g_strdup(j->guest_uuid),
                .guest_name = g_strdup(j->guest_name),
                .kind = j->kind,
                .is_queued = keep->is_queued,
                .caller = caller_new(j->caller->uid, j->caller->gid, j->caller->groups, j->caller->n_groups,
                                     NULL),
                .params = params,
                .payload = (uint8_t *)keep->payload,
                .n_payload = keep->n_payload,
                .created_at = keep->created_at,
                .expires_at = keep->expires_at,
                .key = g_strdup(keep->key),
        };
        json_object_object_add(params, WIRE_ID, json_object_new_string(j->wire_id));
        store_put(js->store, item, keep->done, keep->userdata);
        item->payload = NULL; /* borrowed until here */
        item->n_payload = 0;
        json_object_put(item->params);
        item->params = NULL;
        (void)store_item_free(e->kept);
        e->kept = item;
        return 0;
}

static StoreItem *item_summary(const StoreItem *item)
{
        StoreItem *s = g_new0(StoreItem, 1);

        *s = (StoreItem){
                .id = item->id,
                .guest_uuid = g_strdup(item->guest_uuid),
                .guest_name = g_strdup(item->guest_name),
                .kind = item->kind,
                .is_queued = item->is_queued,
                .caller = caller_copy(item->caller),
                .created_at = item->created_at,
                .expires_at = item->expires_at,
                .key = g_strdup(item->key),
        };
        return s;
}

Job *jobs_restore(Jobs *js, const StoreItem *item, const char *source, const char *destination,
                  const JobOps *ops, void *userdata)
{
        const char *wire_id = message_str(item->params, WIRE_ID, "");
        Entry *e;

        if (!name_is_id(wire_id) || item->id == 0 || entry_find(js, item->id)) {
                ops->free(userdata);
                return NULL;
        }
        e = entry_new(js, item->id, item->kind, item->guest_uuid, item->guest_name, item->caller, source,
                      destination, ops, userdata);
        (void)g_strlcpy(e->job.wire_id, wire_id, sizeof(e->job.wire_id));
        e->job.state = item->is_queued ? JOB_QUEUED : JOB_WAITING;
        e->job.detached = true;
        e->restored = true;
        e->kept = item_summary(item);
        loop_timer_set(js->turn, 0, 0); /* it is announced there */
        return &e->job;
}

Job *jobs_add_queued(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *source,
                     const char *destination, const JobOps *ops, void *userdata)
{
        Entry *e = entry_new(js, jobs_next_id(js), kind, guest_uuid(g), guest_name(g), caller, source,
                             destination, ops, userdata);

        e->job.guest = g;
        e->job.hidden = true;
        e->job.detached = true;
        return &e->job;
}

void jobs_show(Jobs *js, Job *j)
{
        j->hidden = false;
        loop_timer_set(js->turn, 0, 0);
}

void jobs_release(Jobs *js, Job *j)
{
        Entry *e = (Entry *)j;

        e->wants_turn = true;
        loop_timer_set(js->turn, 0, 0);
}

void jobs_guest_found(Jobs *js, Guest *g)
{
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, js->all);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                Entry *e = p;
                if (!e->restored || e->job.guest || !str_eq(e->job.guest_uuid, guest_uuid(g)))
                        continue;
                e->restored = false;
                e->job.guest = g;
        }
}

void jobs_guests_known(Jobs *js)
{
        g_autoptr(GArray) a = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, js->all);
        while (g_hash_table_iter_next(&i, NULL, &p))
                if (((Entry *)p)->restored)
                        g_array_append_val(a, ((Entry *)p)->job.id);
        for (guint n = 0; n < a->len; n++) {
                Entry *e = entry_find(js, g_array_index(a, uint32_t, n));
                if (!e)
                        continue;
                e->restored = false;
                if (!job_state_is_final(e->job.state) && e->job.ops->guest_state)
                        e->job.ops->guest_state(e->job.userdata, &e->job);
        }
}

/* Leftovers of transfers that nobody will go on with can be removed in the guest. */
void jobs_tell_live_transfers(Jobs *js, Guest *g)
{
        json_object *o = json_object_new_object(), *live = json_object_new_array();
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, js->all);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const Job *j = &((Entry *)p)->job;
                if (j->guest == g && (j->kind == JOB_PUSH || j->kind == JOB_PULL) &&
                    !job_state_is_final(j->state))
                        json_object_array_add(live, json_object_new_string(j->wire_id));
        }
        json_object_object_add(o, "method", json_object_new_string("transfer.live"));
        json_object_object_add(o, "ids", live);
        (void)guest_notify(g, o); /* a session lost just now will be told again */
}
