/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * hostd on D-Bus: the connection, the name, the objects. What stands behind them is in guest.h, jobs.h and
 * host.h; this side only asks, shows and tells. Main thread only.
 */

#include "hostd/actions.h"
#include "hostd/host.h"
#include "hostd/jobs.h"
#include "hostd/loop.h"
#include "hostd/queue.h"

typedef struct Bus Bus;

/* Connects to the system bus (the session bus where the configuration says user), attached to the loop, and
 * listens to host and jobs from then on. A connection that is lost later ends the loop with a code. 0,
 * -errno (logged). */
int bus_new(Host *h, Jobs *js, Loop *loop, Bus **ret);
/* Before the loop runs. Borrowed; they go after the bus. */
void bus_set_engines(Bus *b, Queue *q, Actions *as);
/* Before jobs and host: what is under way is answered with Interrupted. */
Bus *bus_free(Bus *b);
/* The domains are known, or will not be soon: take the name now, which is what activation waits for. A name
 * that somebody else has ends the loop with a code. No effect the second time. */
void bus_publish(Bus *b);
