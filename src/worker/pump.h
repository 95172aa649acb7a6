/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The worker's loop: bytes between one end of a transfer and the two pipes, packets of hostd in between.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "worker/link.h"

typedef struct PumpOps {
        ssize_t (*fill)(void *userdata, uint8_t *buf, size_t n); /* as sender_fill() and receiver_fill() */
        ssize_t (*feed)(void *userdata, const uint8_t *data, size_t n); /* bytes used, or -EBADMSG */
        void (*wait_on)(void *userdata, int *ret_read_fd, int *ret_write_fd);
        json_object *(*progress)(void *userdata); /* NULL: nothing new */
        void (*tell)(void *userdata);             /* as often as progress: what was gathered for hostd */
        bool (*is_done)(void *userdata); /* what is said is final: the loop ends when all of it went out */
} PumpOps;

/* 0: is_done; -EBADMSG: feed's; -EPIPE: the pipes ended first; -ECANCELED: hostd said so; -ECONNRESET: hostd
 * is gone */
int pump_run(const PumpOps *ops, void *userdata);
/* Whether hostd said "cancel" or left, asked in passing during long work. 0, -ECANCELED, -ECONNRESET */
int pump_check(void);
