/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The messages that were taken lately, so that one which the host repeats after a lost answer is not carried
 * out twice. Bounded; kept in a file, for guestd's restart and the guest's reboot. Written through the page
 * cache: a guest that loses its power may forget the last seconds.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

#define SEEN_MAX 4096u

typedef struct Seen Seen;

/* dirs: NULL-terminated, the first that can be written holds the file; none: it is only remembered here. 0,
 * -ENOMEM. */
int seen_new(const char *const *dirs, Seen **ret);
Seen *seen_free(Seen *s);
DEFINE_CLEANUP(Seen *, seen_free);

/* An id alone does not tell, as a host that was set up anew counts from the start. */
uint64_t seen_key(const char *topic, uint64_t id, const void *payload, size_t n);
bool seen_has(const Seen *s, uint64_t key);
void seen_add(Seen *s, uint64_t key);
void seen_remove(Seen *s, uint64_t key); /* it was not carried out after all */
