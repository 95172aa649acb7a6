/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/quota.h"

#include <glib.h>

#include "base/base.h"

/* A count lives only while it is above zero: the table is as large as what is going on. */
struct Quota {
        GHashTable *counts[_QUOTA_MAX]; /* key → count */
};

Quota *quota_new(void)
{
        Quota *q = g_new0(Quota, 1);
        for (size_t i = 0; i < _QUOTA_MAX; i++)
                q->counts[i] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        return q;
}

Quota *quota_free(Quota *q)
{
        if (!q)
                return NULL;
        for (size_t i = 0; i < _QUOTA_MAX; i++)
                g_hash_table_unref(q->counts[i]);
        g_free(q);
        return NULL;
}

uint32_t quota_count(const Quota *q, QuotaKind kind, const char *key)
{
        return GPOINTER_TO_UINT(g_hash_table_lookup(q->counts[kind], key));
}

bool quota_take(Quota *q, QuotaKind kind, const char *key, uint32_t limit)
{
        uint32_t n = quota_count(q, kind, key);
        if (n >= limit)
                return false;
        g_hash_table_insert(q->counts[kind], g_strdup(key), GUINT_TO_POINTER(n + 1));
        return true;
}

void quota_release(Quota *q, QuotaKind kind, const char *key)
{
        uint32_t n = quota_count(q, kind, key);
        if (n > 1)
                g_hash_table_insert(q->counts[kind], g_strdup(key), GUINT_TO_POINTER(n - 1));
        else
                g_hash_table_remove(q->counts[kind], key);
}

bool quota_bucket_take(QuotaBucket *b, uint32_t rate_per_sec, uint64_t now_usec)
{
        uint64_t full = (uint64_t)rate_per_sec * USEC_PER_SEC;
        if (b->at_usec == 0 || now_usec - b->at_usec >= USEC_PER_SEC)
                b->n_micro = full;
        else if (now_usec > b->at_usec)
                b->n_micro = MIN(full, b->n_micro + (now_usec - b->at_usec) * rate_per_sec);
        b->at_usec = now_usec;
        if (b->n_micro > full) /* the rate was lowered meanwhile */
                b->n_micro = full;
        if (b->n_micro < USEC_PER_SEC)
                return false;
        b->n_micro -= USEC_PER_SEC;
        return true;
}
