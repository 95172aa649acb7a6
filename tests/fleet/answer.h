/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What a simulated guest says: answers to requests, contents of pulls, messages of its own, and lies.
 */

#include "port.h"

void answer_event(Port *p, const SessionEvent *e);
void answer_say(Guest *g); /* a message to the host, if it is in session */
/* All pulls get so many bytes. 0, -ENOMEM. */
int answer_set_pull(uint64_t n_bytes);

/* The bytes of a pull in progress, kept by the port. NULL: none. */
typedef struct Pull {
        uint32_t stream;
        uint64_t n_sent;
} Pull;
/* Fills `frame` with what the pull has next within the stream's room; 0: nothing now. */
size_t answer_pull_next(Session *s, Pull *pull, uint8_t *frame);
/* Where a stream's pull is kept. */
Pull *port_pull(Port *p, uint32_t stream);
