/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One Unix socket of a domain's channel, in the main loop. Connected is not accepted: QEMU serves one
 * client, and the kernel queues others behind it (listen(2)); who writes in that queue speaks into somebody
 * else's conversation later.
 */

#include <sys/types.h>

#include "base/base.h"

typedef struct Channel Channel;
/* Something to read (or the end of it), or room to write after channel_write() took less than all.
 * Only `readable` may free the channel. */
typedef void (*ChannelReady)(void *userdata);

/* Never waits. 0; -EAGAIN: the queue in front of QEMU is full; other negative errno of connect(2). */
int channel_open(const char *path, ChannelReady readable, ChannelReady writable, void *userdata,
                 Channel **ret);
Channel *channel_free(Channel *c); /* at once: QEMU may lose what it has not read */
/* Lets QEMU read what was written, for two seconds at most: sends the end and waits for its end. Takes the
 * channel over. */
void channel_finish(Channel *c);
/* 1: QEMU has accepted us; 0: not yet; negative errno: cannot be told. */
int channel_is_accepted(Channel *c);
/* Bytes; 0: none now; -ECONNRESET: the other side is gone; other negative errno. */
ssize_t channel_read(Channel *c, void *buf, size_t n);
/* How many were taken; fewer than n: `writable` will be called. */
ssize_t channel_write(Channel *c, const void *buf, size_t n);
/* Nothing is read meanwhile, so that the other side has to wait; its end is told all the same. */
void channel_hold(Channel *c, bool is_held);
/* Whether QEMU has not read all that was written: then nobody has the port open, or the vCPUs stand still.
 */
bool channel_has_unread(const Channel *c);
bool channel_has_input(
        const Channel *c); /* there is something to read, or an end, that nobody has taken yet */

DEFINE_CLEANUP(Channel *, channel_free);
