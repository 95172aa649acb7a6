/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A table of digests with open addressing, at most half full. Two paths with one digest cost a link that
 * could have been made, which does no harm.
 */

#include "files/missing.h"

#include "base/base.h"
#include "proto/digest.h"

#define SLOTS_MIN 64u

void missing_done(Missing *m)
{
        free(m->slots);
        *m = (Missing){};
}

static uint64_t key_of(const char *path)
{
        uint64_t key = digest_of(path, strlen(path), 0);

        return key ? key : 1; /* 0: a free slot */
}

/* Where it is, or belongs. */
static uint64_t *find(const Missing *m, uint64_t key)
{
        size_t i = (size_t)key & (m->n_slots - 1);

        while (m->slots[i] && m->slots[i] != key)
                i = (i + 1) & (m->n_slots - 1);
        return &m->slots[i];
}

static bool grow(Missing *m)
{
        Missing larger = { .n = m->n, .n_slots = m->n_slots ? m->n_slots * 2 : SLOTS_MIN };

        larger.slots = calloc(larger.n_slots, sizeof *larger.slots);
        if (!larger.slots)
                return false;
        for (size_t i = 0; i < m->n_slots; i++)
                if (m->slots[i])
                        *find(&larger, m->slots[i]) = m->slots[i];
        free(m->slots);
        *m = larger;
        return true;
}

void missing_add(Missing *m, const char *path)
{
        uint64_t key = key_of(path), *slot;

        if (m->is_full || missing_has(m, path))
                return;
        m->is_full = m->n == MISSING_MAX || (m->n * 2 >= m->n_slots && !grow(m));
        if (m->is_full)
                return;
        slot = find(m, key);
        *slot = key;
        m->n++;
}

bool missing_has(const Missing *m, const char *path)
{
        return m->n_slots > 0 && *find(m, key_of(path)) != 0;
}
