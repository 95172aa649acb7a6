/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A vmferry-worker: the process that opens a caller's paths with the caller's rights. Here it is started,
 * told, heard and reaped; what it does is in src/worker. See ARCHITECTURE.md, "Worker".
 */

#include <json-c/json.h>

#include "hostd/job.h"

typedef struct Opener Opener;

typedef struct OpenerOps {
        /* A packet of the worker: an object, borrowed, otherwise untrusted (it runs as the caller, who may
         * hold it). */
        void (*packet)(void *userdata, json_object *o);
        /* The worker is gone, or closed its socket. Last call; free the Opener then or later. */
        void (*ended)(void *userdata);
} OpenerOps;

/* Starts one. *ret_in_fd: what the worker writes; *ret_out_fd: what it reads. extra_fd is dup'ed to it; -1:
 * none. It does nothing until opener_send() brings the first packet; opener_identify() adds who it shall be.
 * 0, -errno. */
int opener_new(int extra_fd, const OpenerOps *ops, void *userdata, Opener **ret, int *ret_in_fd,
               int *ret_out_fd);
/* Closes the socket, which ends the worker; one that does not end in OPENER_GRACE_USEC is killed. No call
 * after this. */
Opener *opener_free(Opener *o);
int opener_send(Opener *o, json_object *json); /* takes json over. 0, -errno */
void opener_identify(json_object *json, const Caller *caller);
/* The number of workers that were started and not reaped yet. */
unsigned opener_n_running(void);

#define OPENER_GRACE_USEC (10 * USEC_PER_SEC)
