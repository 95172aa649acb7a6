/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Calls of this guest's programs to services on the host: what is under way, until the host answers, the
 * time is over, or the session is lost.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "guestd/loop.h"
#include "proto/message.h"

#define CALLS_MAX 256u
#define CALLS_TIMEOUT_USEC (60 * USEC_PER_SEC) /* where the program names none */

typedef struct Calls Calls;

typedef struct CallsOps {
        /* A request message.call: 0 and *ret_request, -errno. json is taken over. */
        int (*send)(void *userdata, json_object *json, const void *payload, size_t n, uint32_t *ret_request);
        void (*forget)(void *userdata, uint32_t request);
        /* The end of one, never from within calls_start(). */
        void (*done)(void *userdata, uint64_t token, WireError error, const char *text, const void *payload,
                     size_t n);
} CallsOps;

int calls_new(Loop *l, const CallsOps *ops, void *userdata, Calls **ret); /* 0, -ENOMEM */
Calls *calls_free(Calls *c);                                              /* without a word to anybody */
DEFINE_CLEANUP(Calls *, calls_free);

/* WIRE_OK: `done` will follow. */
WireError calls_start(Calls *c, uint64_t token, const char *topic, const void *payload, size_t n,
                      uint64_t timeout_usec);
/* False: not one of ours. */
bool calls_on_reply(Calls *c, uint32_t request, WireError error, const char *text, const Message *m);
void calls_host_away(Calls *c); /* ends all of them: Interrupted */
