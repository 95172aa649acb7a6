/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One port of one simulated guest: the listening socket where QEMU's would be, the client that it serves,
 * and the guest's session behind it. How badly it behaves is said by the Manners that all guests share.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/session.h"

typedef struct Manners {
        uint64_t latency_usec; /* before anything that has come is looked at */
        /* Of a million frames that are written. */
        uint32_t n_drop, n_garble, n_half, n_close;
        uint32_t n_liars; /* so many guests lie with whatever they answer */
        uint64_t random;
} Manners;

typedef struct Port Port;

typedef struct Guest {
        uint32_t number;
        json_object *hello;
        Port *control, *data;
        Manners *manners;
        uint64_t n_said;
} Guest;

uint64_t port_now_usec(void);

/* Listens at path; epoll's events carry the Port. 0, -errno. */
int port_new(Guest *g, SessionPort kind, const char *path, int epoll, Port **ret);
Port *port_free(Port *p);
void port_on_event(Port *p);    /* there is something to do */
void port_hang_up(Port *p);     /* on the client, if there is one */
bool port_is_up(const Port *p); /* in session */
Guest *port_guest(const Port *p);
Session *port_session(Port *p);
void port_flush(Port *p);
/* Looks at what has come long enough ago; returns when more is due, USEC_INFINITY: nothing is. */
uint64_t port_run_delayed(uint64_t now_usec);
