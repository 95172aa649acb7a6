/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A virtio-serial port of this guest: found by its channel's name in sysfs (no udev needed), opened, waited
 * for edge-triggered. Leans on Linux drivers/char/virtio_console.c: read()=0 and HUP|IN mean "no client on
 * the host", HUP without IN or ENODEV mean "unplugged", and a level-triggered poll without client would
 * spin.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "guestd/loop.h"

/* The device node of a channel: spec is a port's name, or an absolute path, which is returned as it is.
 * sysfs and dev are
 * "/sys" and "/dev". 0 and a malloc'ed path; -ENOENT: no such port (yet); -ENOMEM. */
int port_find(const char *sysfs, const char *dev, const char *spec, char **ret_node);
/* Finds and opens it, nonblocking, close-on-exec. The fd, or -ENOENT, -EBUSY (somebody has it open), -ENODEV
 * or -ENXIO (vanishing, or a console), -errno. */
int port_open(const char *spec);
/* An epoll descriptor that watches port_fd edge-triggered for everything: POLLIN on it means "something
 * changed". */
int port_watch_new(int port_fd);
/* What changed, taken from the watch: poll(2) flags of the port; 0: nothing. */
short port_watch_take(int watch_fd);
/* Writes nothing, changes nothing: whether a host's client is there, gone, or the device was unplugged. */
typedef enum PortPeer { PORT_PEER_PRESENT, PORT_PEER_ABSENT, PORT_UNPLUGGED } PortPeer;
PortPeer port_peer(short revents);

/* The port that is kept open: looks for it until it is there, opens it again after an unplug. */
typedef struct Port Port;
typedef struct PortOps {
        void (*opened)(void *userdata);                 /* port_fd() is valid now */
        void (*changed)(void *userdata, short revents); /* an edge: read and write until EAGAIN */
        void (*lost)(void *userdata, const char *why);  /* unplugged; closed already */
} PortOps;

int port_new(Loop *l, const char *spec, const PortOps *ops, void *userdata, Port **ret); /* 0, -ENOMEM */
Port *port_free(Port *p);
DEFINE_CLEANUP(Port *, port_free);
void port_start(Port *p);                   /* looks at once, and goes on looking */
int port_fd(const Port *p);                 /* -EBADF while it isn't open */
void port_reopen(Port *p, const char *why); /* closes it, tells `lost`, looks again */
