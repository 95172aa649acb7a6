/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Between the rooms of virt.c; the only headers of libvirt in hostd come in here. */

#include <glib.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "hostd/virt.h"

static inline void virt_domain_freep(virDomainPtr *dom)
{
        if (*dom)
                (void)virDomainFree(*dom);
}

/* libvirt's last error of this thread, escaped; malloc'ed. */
char *virt_error_text(void);
WireError virt_error(void);

typedef struct VirtChannels {
        WireError error;
        char *text, *diff; /* g_free() */
        bool live;
} VirtChannels;
/* On the libvirt thread; blocks. */
VirtChannels virt_channels_apply(virConnectPtr conn, const char *uuid, bool enable, bool dry_run,
                                 const char *control_channel, const char *data_channel);
