/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Messages of the host: policy, repeats, and who serves the topic here: programs on the local socket, or an
 * executable of handlers.d. Writes the audit lines of send and call.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "guestd/config.h"
#include "guestd/localsock.h"
#include "guestd/loop.h"
#include "proto/message.h"

typedef struct Messages Messages;

typedef struct MessagesOps {
        /* The answer to messages_take(token), once. json is taken over. */
        void (*reply)(void *userdata, uint64_t token, json_object *json, const void *payload,
                      size_t n_payload);
        void (*refuse)(void *userdata, uint64_t token, WireError error, const char *text);
} MessagesOps;

int messages_new(Loop *l, const Config *config, const MessagesOps *ops, void *userdata, Messages **ret);
Messages *messages_free(Messages *m); /* ends the handlers of calls */
DEFINE_CLEANUP(Messages *, messages_free);
void messages_set_localsock(Messages *m, Localsock *l); /* NULL: there is none */

/* message.send, or message.call */
void messages_take(Messages *m, uint64_t token, bool is_call, const Message *untrusted);
/* LocalsockOps.called */
void messages_on_called(Messages *m, uint64_t token, WireError error, const char *text, const void *payload,
                        size_t n);
/* Remembered like a message: whether something of that kind and id was begun before. From now on it was. */
bool messages_is_repeat(Messages *m, const char *kind, const char *id);
