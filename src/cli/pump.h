/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Bytes from one descriptor to another, a step at a time, inside somebody else's poll(2). What it owns does
 * not block (O_NONBLOCK); what it was given stays as it is.
 */

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

#define PUMP_BUFFER (64u * 1024)

typedef struct Pump {
        int in, out; /* -EBADF: closed; not owned unless the flags say so */
        bool owns_in, owns_out;
        bool ended;      /* in has ended and all was written */
        int error;       /* errno of what broke, 0 */
        bool broken_out; /* it was the writing end */
        size_t n, offset;
        uint64_t total; /* bytes written */
        uint64_t skip;  /* bytes read next that were written before */
        uint8_t *buffer;
        /* Looks at what was read before it is written; may shorten it. Returns the bytes to keep, -1: stop.
         * May be NULL. */
        ssize_t (*filter)(void *userdata, uint8_t *data, size_t n);
        void *userdata;
} Pump;

bool pump_is_over(const Pump *p);
/* Fills one pollfd (fd -1: nothing to wait for). */
void pump_prepare(const Pump *p, struct pollfd *ret);
bool pump_is_stuck(const Pump *p); /* something was read and not written yet */
/* Never waits for a reader, of whatever kind out is. */
void pump_step(Pump *p, const struct pollfd *polled);
/* Another source, which begins anew with what was written already. Takes in over. */
void pump_again(Pump *p, int in);
void pump_close(Pump *p); /* closes what it owns; over from then on */
