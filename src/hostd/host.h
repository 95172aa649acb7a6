/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The registry of guests and what everything in hostd shares. One object, made by main; wiring only.
 */

#include <glib.h>

#include "hostd/config.h"
#include "hostd/discovery.h"
#include "hostd/guest.h"

typedef struct Host Host;

/* Who wants to know. Several may listen; order of registration. Any of these may be NULL. */
typedef struct HostListener {
        void (*guest_added)(void *userdata, Guest *g);
        void (*guest_removed)(void *userdata, Guest *g);
        void (*guest_state)(void *userdata, Guest *g, GuestState old);
        void (*guest_facts)(void *userdata, Guest *g);
        void (*guest_notify)(void *userdata, Guest *g, const Message *m);
        void (*guest_request)(void *userdata, Guest *g, uint32_t id, const Message *m);
        void (*libvirt_state)(void *userdata, LibvirtState s);
        void (*complete)(void *userdata); /* all domains have been told of, after each connect to libvirt */
        void (*reloaded)(void *userdata);
} HostListener;

Host *host_new(Config *config); /* takes config over */
Host *host_free(Host *h);
void host_start(Host *h);
void host_listen(Host *h, const HostListener *l, void *userdata);

const Config *host_config(const Host *h);
int host_reload(Host *h); /* reads the configuration again: 0, -errno (then the old one stays) */
Discovery *host_discovery(Host *h);
/* By UUID or by name; NULL: no such guest. */
Guest *host_find_guest(Host *h, const char *untrusted_name_or_uuid);
Guest *host_find_guest_uuid(Host *h, const char *uuid);
GHashTable *host_guests(Host *h); /* uuid → Guest*, borrowed */
uint32_t host_n_ready(const Host *h);
