/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One image as a block device of this host: the kernel's nbd, served by a qemu-nbd of ours, which ends with
 * us, whatever ends us.
 */

#include "deploy/disks.h"

typedef struct Nbd {
        char device[32]; /* "/dev/nbd0", or empty */
        pid_t pid;       /* of qemu-nbd */
        int complaints;  /* its stderr */
} Nbd;
#define NBD_INIT                                                                                            \
        {                                                                                                   \
                .complaints = -EBADF                                                                        \
        }

/* On the first device that is free, with its partitions. 0, -errno with t->why. */
int nbd_connect(Nbd *n, Target *t, const Disk *d, bool read_only);
/* Writes out what is cached, disconnects, and waits until the kernel and qemu-nbd have let go. 0 also where
 * nothing is connected; -errno with t->why. */
int nbd_disconnect(Nbd *n, Target *t);
/* The partitions' numbers, at most max, into ret: how many. 0: the device has none. */
unsigned nbd_partitions(const Nbd *n, unsigned *ret, unsigned max);
