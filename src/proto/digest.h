/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * XXH64 of contents: "xxh64:" and 16 lower-case hex digits, the canonical big-endian notation of
 * libxxhash. It finds accidents, not forgers: both ends of a transfer are parties to it.
 */

#include <stddef.h>
#include <stdint.h>

#define DIGEST_TEXT_SIZE 23 /* "xxh64:" + 16 + NUL */

typedef struct Digest Digest;

Digest *digest_new(void); /* NULL: no memory */
Digest *digest_free(Digest *d);
void digest_reset(Digest *d);
void digest_update(Digest *d, const void *data, size_t n);
uint64_t digest_value(const Digest *d);
uint64_t digest_of(const void *data, size_t n, uint64_t seed);
void digest_format(uint64_t value, char ret_text[DIGEST_TEXT_SIZE]);
