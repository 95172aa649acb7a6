/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A lane is one stream as the carrier sees it: its endpoint, what the endpoint has not taken yet (bounded by
 * the credit that the peer was given), which half has ended, and what it waits for. Knows no session and no
 * port.
 */

#include "carrier/carrier.h"

typedef struct Lane {
        uint32_t id;
        const EndpointOps *ops;
        void *userdata;
        uint8_t *kept; /* the peer's bytes that the endpoint did not take */
        size_t kept_size, kept_start, n_kept;
        int fill_fd, drain_fd; /* what the waits below wait for; -1: for any event of the stream */
        bool fill_waits, drain_waits;
        bool fill_ended, eof_sent;   /* our half */
        bool eof_received, end_told; /* the peer's half */
        bool is_deaf;                /* nobody reads the peer's bytes any more */
        bool is_dead;                /* closed was called */
} Lane;

Lane *lane_new(uint32_t id, const EndpointOps *ops, void *userdata); /* NULL: no memory */
Lane *lane_free(Lane *l);                                            /* does not call closed */

/* Asks the endpoint for up to n bytes. > 0; 0: none now; -ENODATA: our half ends; other: reset with
 * *ret_error, *ret_text. */
ssize_t lane_fill(Lane *l, uint8_t *buf, size_t n, WireError *ret_error, const char **ret_text);
/* Offers the peer's bytes; what the endpoint does not take is kept. *ret_taken: how many have left our
 * hands, also on failure. 0; -EXFULL: more is kept than the peer had credit for; -ENOMEM; other: reset, as
 * above. */
int lane_drain(Lane *l, const uint8_t *data, size_t n, size_t *ret_taken, WireError *ret_error,
               const char **ret_text);
/* Offers again what was kept. */
int lane_drain_kept(Lane *l, size_t *ret_taken, WireError *ret_error, const char **ret_text);
/* Tells the endpoint of the end of the peer's half, once all of it is drained. */
void lane_tell_end(Lane *l);
bool lane_is_over(const Lane *l); /* both halves have ended in order */

bool lane_wants_fill(const Lane *l);
bool lane_wants_drain(const Lane *l);
/* Descriptors to poll: up to 2; returns how many. */
size_t lane_poll(const Lane *l, struct pollfd *ret);
void lane_polled(Lane *l, const struct pollfd *p);
