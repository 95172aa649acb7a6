/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * libvirt, at arm's length. Calls run one after the other on a thread of their own, since any of them may
 * take as long as libvirtd likes; results and events come back on the main thread, in the order in which
 * they happened there.
 */

#include "hostd/domain.h"
#include "proto/wire-error.h"

typedef struct Virt Virt;

typedef enum VirtEvent {
        VIRT_EVENT_CHANGED, /* something: look again (virt_refresh) */
        VIRT_EVENT_RESUMED, /* look again, and the vCPUs run again */
        VIRT_EVENT_REBOOTED,
        VIRT_EVENT_PORT_OPENED, /* alias: QEMU's name of the port */
        VIRT_EVENT_PORT_CLOSED,
} VirtEvent;

typedef struct VirtOps {
        /* Answer of virt_connect(): WIRE_OK, or text. */
        void (*opened)(void *userdata, WireError error, const char *text);
        /* An open connection was lost, or makes no sense any more. virt_connect() opens a new one. May come
         * twice. */
        void (*closed)(void *userdata, const char *text);
        void (*event)(void *userdata, const char *uuid, VirtEvent event, const char *alias);
        /* Answer of virt_list(), in parts; n == 0 with `last` only. Fewer than there are if the connection
         * is lost. */
        void (*listed)(void *userdata, Domain *const *domains, size_t n, bool last);
        /* Answer of virt_refresh(): the domain; NULL: there is no such domain. If it cannot be told,
         * `closed` comes. */
        void (*refreshed)(void *userdata, const char *uuid, const Domain *d);
} VirtOps;

Virt *virt_new(const char *uri, const char *control_channel, const char *data_channel, const VirtOps *ops,
               void *userdata);
Virt *virt_free(Virt *v); /* at the end: waits a second for a call that is under way, then leaves it */

void virt_set_channels(Virt *v, const char *control_channel, const char *data_channel);
void virt_connect(Virt *v);
void virt_list(Virt *v);
void virt_refresh(Virt *v, const char *uuid);
/* As discovery_enable_channels(). */
typedef void (*VirtChannelsDone)(void *userdata, WireError error, const char *text, bool live,
                                 const char *diff);
void virt_enable_channels(Virt *v, const char *uuid, bool enable, bool dry_run, VirtChannelsDone done,
                          void *userdata);
