/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The ids of requests that have no answer yet, of one side: at most REQUESTS_MAX. Ids of a session ascend,
 * in the sense of serial numbers (RFC 1982), which is what keeps the set sorted by itself.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Idset {
        uint32_t *ids;
        size_t n, allocated;
        uint32_t last; /* 0: none yet */
} Idset;               /* zeroed: empty */

void idset_done(Idset *s);
/* Whether the id may come next: not 0, and above all that came before. */
bool idset_is_next(const Idset *s, uint32_t id);
/* 0; -ENOBUFS: REQUESTS_MAX are there (the id counts as used all the same); -ENOMEM. */
int idset_add(Idset *s, uint32_t id);
bool idset_has(const Idset *s, uint32_t id);
bool idset_remove(Idset *s, uint32_t id); /* whether it was there */
