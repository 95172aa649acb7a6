/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * guestd.sock: programs of this guest that subscribe to topics, serve calls, publish and call, in JSON lines
 * (vmferry-guestd.sock(5)). Access is by the socket's permissions and, for users but root, the policy's
 * LocalTopics=. Nothing a client does is believed: clients, lines, buffers and open calls are bounded, and
 * who breaks the rules or doesn't read is dropped.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"
#include "guestd/loop.h"
#include "guestd/policy.h"
#include "proto/wire-error.h"

#define LOCALSOCK_CLIENTS_MAX 64u
#define LOCALSOCK_CLIENTS_PER_USER_MAX 32u /* root has no such bound */
#define LOCALSOCK_TOPICS_MAX 64u           /* of one client */
#define LOCALSOCK_CALLS_MAX 64u            /* of one client, each way */
#define LOCALSOCK_LINE_MAX (256u * 1024)
#define LOCALSOCK_OUTPUT_MAX (1024u * 1024)
#define LOCALSOCK_STUCK_USEC (5u * 1000 * 1000)
#define LOCALSOCK_CALL_TIMEOUT_USEC (30u * 1000 * 1000) /* where nobody names one */

typedef struct Localsock Localsock;

typedef struct LocalsockOps {
        /* A program publishes. 0 and *ret_id: it is kept, and will reach the host (the agent: outbox_add()).
         * -EAGAIN: no room at present: the client is not read until localsock_resume(). -ENOBUFS:
         * LimitsExceeded. */
        int (*publish)(void *userdata, const char *topic, const void *payload, size_t n, uint64_t *ret_id);
        /* A program calls the host. WIRE_OK: localsock_answer(token) will follow; else the error at once. */
        WireError (*call)(void *userdata, uint64_t token, const char *topic, const void *payload, size_t n,
                          uint64_t timeout_usec);
        /* The answer to localsock_call(), once each; it also comes when the program has gone, or the time is
         * over. text is a program's own words when error is WIRE_FAILED: escape it before it is logged.
         * payload: with WIRE_OK. */
        void (*called)(void *userdata, uint64_t token, WireError error, const char *text,
                       const void *payload, size_t n);
} LocalsockOps;

typedef struct LocalsockConfig { /* borrowed for the object's life */
        const char *path;        /* its directory is made; a stale socket is replaced */
        mode_t mode;
        const char *group; /* NULL: root's */
        const Policy *policy;
} LocalsockConfig;

int localsock_new(Loop *loop, const LocalsockConfig *config, const LocalsockOps *ops, void *userdata,
                  Localsock **ret);      /* 0, -errno */
Localsock *localsock_free(Localsock *l); /* answers open calls, by `called`, with WIRE_INTERRUPTED */
DEFINE_CLEANUP(Localsock *, localsock_free);

/* From the host. How many subscribers took it; 0: nobody subscribes to it; -ENOBUFS: one of them is behind
 * with its reading, and none was given it (the host may try again; who doesn't read at all is dropped after
 * LOCALSOCK_STUCK_USEC); -ENOMEM. */
int localsock_deliver(Localsock *l, const char *topic, uint64_t id, const void *payload, size_t n);
/* 0: `called` will follow; -ENOENT: nobody serves it; -ENOBUFS: its server has too many open; -ENOMEM. */
int localsock_call(Localsock *l, uint64_t token, const char *topic, uint64_t id, const void *payload,
                   size_t n, uint64_t timeout_usec);
/* The host's answer to a program's call. An unknown token (the program has gone) is dropped. */
void localsock_answer(Localsock *l, uint64_t token, WireError error, const char *text, const void *payload,
                      size_t n);
/* Whoever is connected stays. group: borrowed as in LocalsockConfig. */
void localsock_set_access(Localsock *l, mode_t mode, const char *group);
/* `publish` has room again. */
void localsock_resume(Localsock *l);
size_t localsock_n_clients(const Localsock *l);
