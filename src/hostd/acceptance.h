/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Whether the other side has accepted a connection of ours, as unix_diag tells it. The kernel walks all
 * sockets of the machine to find one: who asks for a few is answered one by one, who asks for many by one
 * look at all of them, and those looks take a tenth of the time at most. Main thread only.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* n_waiting: how many connections wait for it by now. 1: the socket has a peer that is served; 0: not that
 * anybody knows, ask again in some milliseconds; negative errno: cannot be told. */
int acceptance_look(ino_t inode, uint64_t connected_usec, unsigned n_waiting);
