/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The port's descriptor: a socket of QEMU's on the host, a virtio-serial character device in the guest.
 * Knows how either says "nothing now", "nobody there" and "gone", and how to sleep until that changes.
 */

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct Line {
        int fd;
        int watch_fd;            /* device: an epoll descriptor, edge-triggered */
        bool readable, writable; /* worth a try; cleared when a try moved nothing */
        bool is_absent;          /* device: the last read said that no client is on the host's side */
} Line;

/* Takes fd over, also when it fails. 0, -errno. */
int line_init(Line *l, int fd, bool is_device);
void line_done(Line *l);
/* > 0; 0: nothing now, readable is cleared; -ECONNRESET: the peer or the device is gone. */
ssize_t line_read(Line *l, uint8_t *buf, size_t n);
/* > 0, often short; 0: no room now, writable is cleared; -ECONNRESET. */
ssize_t line_write(Line *l, const uint8_t *buf, size_t n);
void line_poll(const Line *l, bool want_write, struct pollfd *ret);
/* Sets readable and writable from what poll(2) found. 0; -ECONNRESET: the device was unplugged. */
int line_polled(Line *l, const struct pollfd *p);
/* Socket: ends our half and reads to the end of file, so that QEMU takes what it has not read yet. Blocks
 * that long. */
void line_shutdown(Line *l, uint64_t timeout_usec);
