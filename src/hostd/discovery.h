/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The domains, in step with libvirt: connects, lists, subscribes, reconnects. Uses virt.c, whose calls run
 * on the one libvirt thread; all callbacks here arrive on the main thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "hostd/domain.h"
#include "proto/wire-error.h"

typedef struct Discovery Discovery;

typedef enum LibvirtState { LIBVIRT_CONNECTING, LIBVIRT_CONNECTED, LIBVIRT_LOST } LibvirtState;
const char *libvirt_state_to_string(LibvirtState s); /* "connecting", "connected", "lost" */

typedef enum DomainHint {
        DOMAIN_HINT_REBOOTED,       /* reset or reboot: the guest of this boot is another one */
        DOMAIN_HINT_RESUMED,        /* shake hands again */
        DOMAIN_HINT_CONTROL_OPENED, /* QEMU's VSERPORT_CHANGE for the control port: a level hint, merged to
                                       one a second */
        DOMAIN_HINT_CONTROL_CLOSED,
} DomainHint;

typedef struct DiscoveryOps {
        /* New, or anything of it changed: the whole truth about one domain. */
        void (*domain)(void *userdata, const Domain *d);
        void (*hint)(void *userdata, const char *uuid, DomainHint hint);
        /* Undefined and not running. */
        void (*gone)(void *userdata, const char *uuid);
        /* After connecting: every domain that exists was told of. */
        void (*complete)(void *userdata);
        void (*libvirt_state)(void *userdata, LibvirtState s);
} DiscoveryOps;

/* Channel names are copied. connect_uri as for virConnectOpen(3). */
Discovery *discovery_new(const char *connect_uri, const char *control_channel, const char *data_channel,
                         const DiscoveryOps *ops, void *userdata);
Discovery *discovery_free(Discovery *d);
void discovery_start(Discovery *d);
LibvirtState discovery_libvirt_state(const Discovery *d);
void discovery_set_channels(Discovery *d, const char *control_channel,
                            const char *data_channel); /* Reload */

/* Adds or removes the channels (and for adding, a controller where there is none), persistently and live
 * where it runs. done: WIRE_OK and whether the running domain has them now, or an error and a sentence. diff
 * (may be NULL): malloc'ed text of the change; with dry_run nothing else is done. */
typedef void (*DiscoveryChannelsDone)(void *userdata, WireError error, const char *text, bool live,
                                      const char *diff);
void discovery_enable_channels(Discovery *d, const char *uuid, bool enable, bool dry_run,
                               DiscoveryChannelsDone done, void *userdata);
/* For a name or UUID that is not among the guests yet; same rules. Domains without channels are guests too.
 */
