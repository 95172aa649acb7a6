/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/action-results.h"

#include <glib.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/job.h"

typedef struct Result {
        char *guest_name, *reason;
        const char *end; /* NULL: none is known */
        const char *now; /* NULL: nothing is under way */
        uint64_t end_at, now_at;
} Result;

struct ActionResults {
        Store *store;
        GHashTable *all; /* "action\nguest uuid" → Result* */
};

static void free_result(void *p)
{
        Result *r = p;

        g_free(r->guest_name);
        g_free(r->reason);
        g_free(r);
}

static Result *get(ActionResults *rs, const char *action, const char *uuid, const char *guest_name)
{
        g_autofree char *key = g_strdup_printf("%s\n%s", action, uuid);
        Result *r = g_hash_table_lookup(rs->all, key);

        if (!r) {
                r = g_new0(Result, 1);
                g_hash_table_insert(rs->all, TAKE(key), r);
        }
        g_free(r->guest_name);
        r->guest_name = g_strdup(guest_name);
        return r;
}

static void on_stored(void *userdata, const StoreResult *stored)
{
        ActionResults *rs = userdata;
        Result *r;

        /* They go to the bus as they are. */
        if (!g_utf8_validate(stored->guest_name, -1, NULL) || !g_utf8_validate(stored->reason, -1, NULL))
                return;
        r = get(rs, stored->action, stored->guest_uuid, stored->guest_name);
        r->end = stored->has_failed ? "failed" : "done";
        r->end_at = stored->at;
        g_free(r->reason);
        r->reason = g_strdup(stored->reason);
}

ActionResults *action_results_new(Store *s)
{
        ActionResults *rs = g_new0(ActionResults, 1);

        *rs = (ActionResults){ .store = s,
                               .all = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_result) };
        if (s)
                store_take_results(s, on_stored, rs);
        return rs;
}

ActionResults *action_results_free(ActionResults *rs)
{
        if (!rs)
                return NULL;
        g_hash_table_unref(rs->all);
        g_free(rs);
        return NULL;
}

void action_results_set(ActionResults *rs, const char *action, const char *uuid, const char *guest_name,
                        const char *result)
{
        Result *r = get(rs, action, uuid, guest_name);

        r->now = result;
        r->now_at = fs_realtime_usec();
}

void action_results_end(ActionResults *rs, const char *action, const char *uuid, const char *guest_name,
                        const char *reason)
{
        Result *r = get(rs, action, uuid, guest_name);

        r->now = NULL;
        r->end = reason ? "failed" : "done";
        r->end_at = fs_realtime_usec();
        g_free(r->reason);
        r->reason = job_text(reason);
        if (rs->store)
                store_put_result(rs->store, &(StoreResult){ .action = (char *)action,
                                                            .guest_uuid = (char *)uuid,
                                                            .guest_name = r->guest_name,
                                                            .has_failed = reason != NULL,
                                                            .reason = r->reason,
                                                            .at = r->end_at });
}

void action_results_keep(ActionResults *rs, const char *action, const char *uuid, const char *guest_name)
{
        Result *r = get(rs, action, uuid, guest_name);

        r->now = NULL;
        if (!r->end)
                r->end = "done";
}

void action_results_each(const ActionResults *rs, const char *action,
                         void (*each)(void *userdata, const ActionResult *r), void *userdata)
{
        g_autofree char *prefix = g_strdup_printf("%s\n", action);
        GHashTableIter i;
        void *key, *p;

        g_hash_table_iter_init(&i, rs->all);
        while (g_hash_table_iter_next(&i, &key, &p)) {
                const Result *r = p;

                if (g_str_has_prefix(key, prefix))
                        each(userdata, &(ActionResult){ r->guest_name, r->now ?: r->end,
                                                        r->now || !r->reason ? "" : r->reason,
                                                        r->now ? r->now_at : r->end_at });
        }
}
