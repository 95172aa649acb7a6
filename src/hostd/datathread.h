/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The thread that runs the carrier on one data connection. The main thread gives it commands and gets news;
 * nothing else is shared, and every object that crosses has one owner at a time. All of this is for the main
 * thread, and all news arrives there, later, in the order in which it happened.
 */

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

#include "proto/wire-error.h"

typedef struct DataThread DataThread;

typedef struct DataThreadOps {
        void (*up)(void *userdata); /* the guest has answered: streams may be opened */
        void (*opened)(void *userdata, uint64_t stream, json_object *reply); /* borrowed */
        /* The stream did not make it before the connection ended. What it was made of is given back. */
        void (*refused)(void *userdata, uint64_t stream, json_object *params, int in_fd, int out_fd);
        void (*half)(void *userdata,
                     uint64_t stream); /* of a watched one: all that the guest sent was written */
        /* text: escaped, never NULL. `local`: this side ended it. */
        void (*closed)(void *userdata, uint64_t stream, WireError error, const char *text, bool local,
                       uint64_t n_in, uint64_t n_out);
        void (*silent)(void *userdata); /* many pings were not answered; comes again */
        /* The last: result as of carrier_run(). All streams were closed or refused before. */
        void (*ended)(void *userdata, int result);
} DataThreadOps;

/* Takes port_fd over, also on failure. 0, -errno. */
int datathread_start(int port_fd, const DataThreadOps *ops, void *userdata, DataThread **ret);
/* No news any more; tells it to stop, and does not wait. Returns NULL. */
DataThread *datathread_detach(DataThread *t);
/* Takes all over. watched: see endpoint_fd_watch(). */
void datathread_open(DataThread *t, uint64_t stream, json_object *params, int in_fd, int out_fd,
                     bool watched);
void datathread_reset(DataThread *t, uint64_t stream, WireError error, const char *text);
void datathread_stop(DataThread *t);
/* Of its one connection; added to what stands there. */
typedef struct DataCounters {
        uint64_t n_bytes_sent, n_bytes_received, n_resyncs, n_frames_dropped;
} DataCounters;
void datathread_count(const DataThread *t, DataCounters *c);
