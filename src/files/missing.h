/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Which entries of a tree did not come, so that no hard link is made to something else of their name. Knows
 * MISSING_MAX of them; of what comes behind that, it knows that anything may be missing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MISSING_MAX 16384u

typedef struct Missing {
        uint64_t *slots; /* digests of paths */
        size_t n, n_slots;
        bool is_full;
} Missing;

void missing_done(Missing *m);
void missing_add(Missing *m, const char *path);
/* Among those that are known. */
bool missing_has(const Missing *m, const char *path);
