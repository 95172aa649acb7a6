/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A guest's data port on the host: connects the socket, asks the guest to open its end, runs the carrier on
 * a thread of its own while there are streams, and brings its news back to the main thread. One per guest;
 * guest.c owns it. guest_stream_cancel() of hostd/guest.h is in dataport.c; guest_stream_open() is
 * guest.c's, for dataport_open_stream().
 */

#include "hostd/guest.h"

typedef struct Dataport Dataport;

Dataport *dataport_new(Guest *g);
Dataport *dataport_free(Dataport *p); /* all streams end with Interrupted */
GuestStream *dataport_open_stream(Dataport *p, const GuestStreamConfig *config);
/* The guest's session is gone, or its socket path has changed: give up the connection; streams end with
 * Interrupted. */
void dataport_reset(Dataport *p, const char *why);
void dataport_count(const Dataport *p, GuestCounters *c); /* adds its own */
size_t dataport_n_streams(const Dataport *p);
