/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * hostd on D-Bus: the connection, the name, the objects. What stands behind them is in guest.h, jobs.h and host.h; this
 * side only asks, shows and tells. Main thread only.
 */

#include "hostd/host.h"
#include "hostd/jobs.h"
#include "hostd/loop.h"

typedef struct Bus Bus;

/* Connects to the system bus (the session bus where the configuration says user), attached to the loop, and listens to host
 * and jobs from then on. The name is asked for once the domains are known (bus_publish), or a few seconds later without
 * them. Without a bus, or when the name or the connection is lost, the loop ends with a code. 0, -errno (logged). */
int bus_new(Host *h, Jobs *js, Loop *loop, Bus **ret);
Bus *bus_free(Bus *b);
/* Every domain has been told of: take the name now. No effect the second time. */
void bus_publish(Bus *b);
