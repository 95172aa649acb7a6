/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Who is connected to a Unix socket, as well as can be known: the kernel tells the other end's inode, and
 * /proc whose descriptor that is. Looks on a thread of its own, since /proc may be large.
 */

#include <sys/types.h>

typedef struct Holder Holder;
/* On the main thread, once. pid 0: not found. name: of its command, escaped. */
typedef void (*HolderFound)(void *userdata, pid_t pid, const char *name);

Holder *holder_new(const char *path, HolderFound found, void *userdata);
Holder *holder_free(Holder *h); /* before or after `found`, not within it */
