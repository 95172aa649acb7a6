/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Messages for the host: each is kept until the host has answered for it, and sent again after a lost
 * session, under the id that it was given when it came: at least once, in order. Bounded in number and
 * bytes; few are under way at once, so that a flood fills this box and not the control port. What is in the
 * box is in a file too, before outbox_add() returns: another guestd goes on with it, however this one ended.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "guestd/loop.h"
#include "proto/wire-error.h"

#define OUTBOX_BYTES_MAX (8u * 1024 * 1024)
#define OUTBOX_WINDOW_MESSAGES 64u /* under way at once */
#define OUTBOX_WINDOW_BYTES (256u * 1024)
#define OUTBOX_PAUSE_USEC (200u * 1000) /* after LimitsExceeded */

typedef struct Outbox Outbox;

typedef struct OutboxOps {
        /* A request message.publish: 0 and *ret_request, -errno: the session is going, or full; it is tried
         * again. */
        int (*send)(void *userdata, const char *topic, uint64_t id, const void *payload, size_t n,
                    uint32_t *ret_request);
        /* There is room again after outbox_add() had said -EAGAIN (the agent: localsock_resume()). */
        void (*room)(void *userdata);
} OutboxOps;

/* path: of the file, whose messages are taken over now; NULL: none. 0, -ENOMEM. */
int outbox_new(Loop *loop, unsigned n_max, const char *path, const OutboxOps *ops, void *userdata,
               Outbox **ret);
Outbox *outbox_free(Outbox *o);
DEFINE_CLEANUP(Outbox *, outbox_free);
/* Before an orderly end: nothing but what is left. 0; -errno: the file lacks some that came. */
int outbox_save(Outbox *o);

/* 0 and *ret_id; -EAGAIN: full, but the host is here and takes; -ENOBUFS: full, and it isn't; -E2BIG;
 * -ENOMEM. */
int outbox_add(Outbox *o, const char *topic, const void *payload, size_t n, uint64_t *ret_id);
void outbox_host_here(Outbox *o); /* the session is up: sends from the oldest on */
void outbox_host_away(Outbox *o);
/* The host's reply to a request. False: not one of ours. LimitsExceeded and NotReady: it is sent again,
 * later; any other error drops the message. */
bool outbox_on_reply(Outbox *o, uint32_t request, WireError error, const char *text);
void outbox_set_max(Outbox *o, unsigned n_max); /* what is over it stays */
size_t outbox_n(const Outbox *o);
