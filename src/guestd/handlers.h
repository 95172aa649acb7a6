/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Topics served by executables: DIRECTORY/TOPIC, started for each message, payload on stdin, environment
 * VMFERRY_TOPIC, VMFERRY_MESSAGE_ID and VMFERRY_KIND. For a call, stdout is the answer. A bounded number at
 * once; one that takes too long is ended with all that it started.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "guestd/config.h"
#include "guestd/loop.h"
#include "proto/wire-error.h"

typedef struct Handlers Handlers;

typedef enum HandlerKind { HANDLER_SEND, HANDLER_CALL } HandlerKind;

/* The end of one, once for each handlers_start() that returned 0, never from within it. WIRE_OK: payload is
 * what a call's handler wrote (borrowed). Else text is a sentence, already fit to be shown. */
typedef void (*HandlerDone)(void *userdata, uint64_t token, WireError error, const char *text,
                            const void *payload, size_t n_payload);

/* config outlives it and is read at each start: a reload counts at once. */
int handlers_new(Loop *l, const Config *config, HandlerDone done, void *userdata, Handlers **ret);
/* Ends those that serve a call, whose answer nobody would take; the others finish by themselves. No `done`
 * any more. */
Handlers *handlers_free(Handlers *h);
DEFINE_CLEANUP(Handlers *, handlers_free);

/* timeout_usec 0: the configured one. 0: it runs, `done` will follow. -ENOENT: no handler for this topic;
 * -EACCES: it can't be executed; -ENOBUFS: too many at once; -ENOMEM, -errno. */
int handlers_start(Handlers *h, uint64_t token, HandlerKind kind, const char *topic, uint64_t id,
                   const void *payload, size_t n_payload, uint64_t timeout_usec);
/* What handlers_start() would say to this topic before it starts anything. */
int handlers_check(const Handlers *h, const char *topic);
size_t handlers_n_running(const Handlers *h);
