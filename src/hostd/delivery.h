/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Messages from the host to a guest: their ids, their limits, their time, and the second try that one-way
 * messages get when the session is lost between sending and the guest's word.
 */

#include "hostd/jobs.h"

#define DELIVERY_TIMEOUT_USEC                                                                               \
        (20 * USEC_PER_SEC) /* where the caller names none; below sd-bus's 25 seconds */

typedef struct Delivery Delivery; /* one under way */

typedef struct DeliveryOptions {
        uint64_t timeout_usec; /* ours and the guest's handler's; 0: DELIVERY_TIMEOUT_USEC, and the guest's
                                  own for its handler; USEC_INFINITY: none of ours */
        uint64_t id;           /* of an earlier try, which the guest drops if it had it; 0: a new one */
        bool keyed;            /* the id is delivery_id_of_key()'s */
        bool queued; /* an item of the queue, which audits it: it outlives its caller, and is not done before
                        the guest's handler has ended */
} DeliveryOptions;

/* Called once, perhaps before delivery_send() returns. WIRE_OK: reply (of a call) is borrowed; else text is
 * a sentence. */
typedef void (*DeliveryDone)(void *userdata, WireError error, const char *text, uint64_t id,
                             const uint8_t *reply, size_t n_reply);
/* NULL: it has ended, and `done` was called. Otherwise it is borrowed until then. */
Delivery *delivery_send(Jobs *js, Guest *g, const Caller *caller, bool is_call, const char *topic,
                        const void *payload, size_t n_payload, const DeliveryOptions *options,
                        DeliveryDone done, void *userdata);
/* Nothing of it is sent any more, and `done` is not called. */
void delivery_cancel(Delivery *d);
void delivery_caller_left(const char *sender); /* ends its calls, as nobody takes their answers */
/* WIRE_OK, or what is wrong with them and a malloc'ed sentence. */
WireError delivery_check(const Guest *g, const char *topic, size_t n_payload, char **ret_text);
void delivery_stop_all(void); /* before the guests go: each ends with Interrupted */
/* Idempotency: 1 to 255 bytes; else InvalidArgs and a malloc'ed sentence. */
WireError delivery_check_key(const char *key, char **ret_text);
/* The id of the message that this user sends to this topic with this key: always the same. */
uint64_t delivery_id_of_key(const Guest *g, uid_t uid, bool is_call, const char *topic, const char *key);
/* Unique and ascending, over restarts too as long as the clock is not set back behind them. */
uint64_t delivery_next_id(void);
