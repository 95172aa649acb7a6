/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A domain as libvirt knows it, as plain data: what discovery hands to guests. Pure.
 */

#include <stdbool.h>

#include "base/base.h"

typedef enum DomainState { DOMAIN_OFF, DOMAIN_PAUSED, DOMAIN_RUNNING } DomainState;

typedef struct Domain {
        char *uuid; /* lower-case, with dashes */
        char *name; /* as libvirt has it; not necessarily safe to print */
        int id;     /* of the running domain, -1 */
        DomainState state;
        char *control_socket; /* from the live XML; NULL: none */
        char *data_socket;
        char *control_alias; /* "channel0": what QEMU calls the port in its events; NULL */
        char *data_alias;
        char *channel_reason; /* NULL, or why a channel is missing or unusable: a sentence */
} Domain;

Domain *domain_new(void); /* aborts without memory, as GLib does */
Domain *domain_free(Domain *d);
Domain *domain_copy(const Domain *d);
bool domain_equal(const Domain *a, const Domain *b);

DEFINE_CLEANUP(Domain *, domain_free);
