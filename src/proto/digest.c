/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * XXH64 by libxxhash, the only file that includes it: of the fast ones it is the one that stays fast where
 * there are no vector instructions, which is where guests under emulation are.
 */

#include "proto/digest.h"

#include <xxhash.h>

#include "base/base.h"

struct Digest {
        XXH64_state_t *state;
};

Digest *digest_new(void)
{
        Digest *d = calloc(1, sizeof(*d));

        if (!d)
                return NULL;
        d->state = XXH64_createState();
        if (!d->state)
                return digest_free(d);
        digest_reset(d);
        return d;
}

Digest *digest_free(Digest *d)
{
        if (d) {
                (void)XXH64_freeState(d->state);
                free(d);
        }
        return NULL;
}

void digest_reset(Digest *d)
{
        (void)XXH64_reset(d->state, 0);
}

void digest_update(Digest *d, const void *data, size_t n)
{
        /* XXH64_update() takes a NULL for an error even when there is nothing to add */
        if (n > 0)
                (void)XXH64_update(d->state, data, n);
}

uint64_t digest_value(const Digest *d)
{
        return XXH64_digest(d->state);
}

uint64_t digest_of(const void *data, size_t n, uint64_t seed)
{
        return XXH64(data, n, seed);
}

void digest_format(uint64_t value, char ret_text[DIGEST_TEXT_SIZE])
{
        static const char digits[] = "0123456789abcdef";

        memcpy(ret_text, "xxh64:", 6);
        for (size_t i = 0; i < 16; i++)
                ret_text[6 + i] = digits[value >> (60 - 4 * i) & 0xf];
        ret_text[22] = 0;
}
