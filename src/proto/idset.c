/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A sorted array. Answers mostly come in order, so what is removed is mostly at its front, and it is small.
 */

#include "proto/idset.h"

#include "base/base.h"
#include "proto/limits.h"

void idset_done(Idset *s)
{
        free(s->ids);
        *s = (Idset){ 0 };
}

static bool is_above(uint32_t a, uint32_t b)
{
        return (int32_t)(a - b) > 0;
}

bool idset_is_next(const Idset *s, uint32_t id)
{
        return id != 0 && (s->last == 0 || is_above(id, s->last));
}

int idset_add(Idset *s, uint32_t id)
{
        s->last = id;
        if (s->n >= REQUESTS_MAX)
                return -ENOBUFS;
        if (s->n == s->allocated) {
                size_t allocated = MAX(s->allocated * 2, (size_t)8);
                uint32_t *ids = realloc(s->ids, allocated * sizeof(*ids));

                if (!ids)
                        return -ENOMEM;
                s->ids = ids;
                s->allocated = allocated;
        }
        s->ids[s->n++] = id;
        return 0;
}

/* Where the id is, or would be. */
static size_t idset_find(const Idset *s, uint32_t id)
{
        size_t low = 0, high = s->n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (is_above(id, s->ids[middle]))
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

bool idset_has(const Idset *s, uint32_t id)
{
        size_t i = idset_find(s, id);

        return i < s->n && s->ids[i] == id;
}

bool idset_remove(Idset *s, uint32_t id)
{
        size_t i = idset_find(s, id);

        if (i >= s->n || s->ids[i] != id)
                return false;
        s->n--;
        memmove(s->ids + i, s->ids + i + 1, (s->n - i) * sizeof(*s->ids));
        return true;
}
