/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Who is on the other end of the bus: the credentials of a unique name, asked of the bus once and kept until
 * that name leaves, which is told. Nothing here blocks: a call of somebody unknown is dispatched again when
 * the answer is there.
 */

#include <systemd/sd-bus.h>

#include "hostd/job.h"

typedef struct BusPeers BusPeers;

BusPeers *bus_peers_new(sd_bus *bus, bool user, void (*left)(void *userdata, const char *sender),
                        void *userdata);
BusPeers *bus_peers_free(BusPeers *p);
/* 1 and *ret, borrowed until the next turn of the loop; 0: the message will come again, return 1 to sd-bus;
 * or a negative errno with *error set. */
int bus_peers_find(BusPeers *p, sd_bus_message *m, const Caller **ret, sd_bus_error *error);
/* Puts a message at the end of what sd-bus dispatches next, as if it had just come. */
int bus_peers_redispatch(sd_bus_message *m);
