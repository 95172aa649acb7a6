/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Counting, and nothing else: how many of a kind somebody has, and how fast they come. Pure; who is counted
 * and what the limit is are said by the caller, at each call, so that a reload has effect at once.
 */

#include <stdbool.h>
#include <stdint.h>

typedef struct Quota Quota;

typedef enum QuotaKind {
        QUOTA_JOBS,      /* key: a uid */
        QUOTA_TRANSFERS, /* key: a guest, "" for all */
        QUOTA_PROCESSES, /* key: a guest */
        QUOTA_CALLS,     /* key: a guest; messages and calls under way, either direction */
        QUOTA_SHARE,     /* key: a guest and a uid; of QUOTA_CALLS, what one user has sent */
        QUOTA_ASKING,    /* key: a uid; calls that wait for an authorisation */
        QUOTA_QUEUED,    /* key: a uid; items in the queue */
        _QUOTA_MAX,
} QuotaKind;

Quota *quota_new(void); /* aborts without memory, as GLib does */
Quota *quota_free(Quota *q);
/* One more, unless there are `limit` already: whether it was counted. */
bool quota_take(Quota *q, QuotaKind kind, const char *key, uint32_t limit);
/* One less; what was not taken is not given back. */
void quota_release(Quota *q, QuotaKind kind, const char *key);
uint32_t quota_count(const Quota *q, QuotaKind kind, const char *key);

/* A token bucket that starts full and holds one second's worth. All zero: new. */
typedef struct QuotaBucket {
        uint64_t n_micro; /* millionths of a token */
        uint64_t at_usec; /* of the last look; 0: never */
} QuotaBucket;
/* now_usec is monotonic and not 0. rate 0: nothing passes. */
bool quota_bucket_take(QuotaBucket *b, uint32_t rate_per_sec, uint64_t now_usec);
