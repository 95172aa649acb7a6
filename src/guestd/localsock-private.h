/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Between localsock.c (topics and calls: who is asked, who is answered) and localsock-client.c (one
 * connection: bytes, lines, limits). Nobody else includes this.
 */

#include <json-c/json.h>

#include "guestd/localsock.h"

typedef struct LocalClient LocalClient;

struct LocalClient {
        Localsock *owner;
        int fd; /* -EBADF: dropped; the object goes when the loop comes by again */
        LoopFd *source;
        uid_t uid;
        char *user; /* NULL: the uid has no name */
        char *in, *out;
        size_t n_in, n_scanned, n_in_allocated, n_out, n_out_allocated;
        uint64_t stuck_since; /* 0: nothing waits, or it reads */
        bool is_parked;       /* its line waits for room in the outbox */
        bool is_ending;       /* dropped once `out` is written */
        bool is_eof;          /* it says nothing more: ... and its calls are answered */
        bool is_deaf;         /* nothing can be said to it: dropped once its lines are done */
        char *subscribed[LOCALSOCK_TOPICS_MAX], *served[LOCALSOCK_TOPICS_MAX];
        size_t n_subscribed, n_served, n_asked, n_called;
};

/* A program's call to the host (client's own tag), or the host's call to a program (number). */
typedef struct LocalCall {
        uint64_t token; /* asked: ours, for the agent; called: the agent's */
        uint64_t number;
        LocalClient *client;
        json_object *tag;
        uint64_t deadline;
        bool is_from_host;
} LocalCall;

struct Localsock {
        Loop *loop;
        LocalsockConfig config;
        const LocalsockOps *ops;
        void *userdata;
        int fd;
        LoopFd *source;
        LoopTimer *timer, *sweep;
        LocalClient *clients[LOCALSOCK_CLIENTS_MAX];
        size_t n_clients;
        LocalCall *calls;
        size_t n_calls, n_calls_allocated;
        uint64_t last_number;
        bool is_freeing;
};

/* Takes fd over. -ENOBUFS: too many of them; -errno. */
int local_client_accept(Localsock *l, int fd);
LocalClient *local_client_free(LocalClient *c);
void local_client_drop(
        LocalClient *c); /* no callback of it any more; its calls are answered by localsock_client_gone() */
bool local_client_hears(const LocalClient *c);
bool local_client_has_room(LocalClient *c, size_t n); /* drops one that has been stuck for too long */
/* Queues a line and writes what the socket takes; o is taken over. 0, -ENOMEM; -ENOBUFS: it was dropped. */
int local_client_say(LocalClient *c, json_object *o);
/* Reads the lines that are there. */
void local_client_turn(LocalClient *c);
void local_client_end(LocalClient *c); /* drops it when it has what was said to it */

/* One parsed line. -EAGAIN: not now, offer it again; 0. */
int localsock_line(Localsock *l, LocalClient *c, json_object *untrusted_o);
void localsock_client_deaf(Localsock *l, LocalClient *c); /* ends what it was called for, and asked */
void localsock_client_gone(Localsock *l, LocalClient *c);
