/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Messages of guests on their way to the bus: MessageReceived on the Manager and on the guest. One that
 * sends faster than hostd.conf allows, or than the bus reads, is answered later, in order, which slows it
 * down: it sends no more than a window without an answer. An answer means that the signals are in the bus's
 * socket.
 */

#include <systemd/sd-bus.h>

#include "hostd/host.h"

#define INBOX_HELD_BYTES_MAX (1024u * 1024) /* of one guest; guestd has a quarter of it under way */

typedef struct Inbox Inbox;

Inbox *inbox_new(sd_bus *bus, Host *h); /* both borrowed; NULL: no memory */
Inbox *inbox_free(Inbox *b);
/* A message.publish, whose topic was checked: signals it and answers when the bus has it. */
void inbox_take(Inbox *b, Guest *g, uint32_t request, const Message *m, const char *topic);
/* Its requests are dead: what is held will come again. */
void inbox_guest_away(Inbox *b, Guest *g);
void inbox_guest_removed(Inbox *b, Guest *g);
