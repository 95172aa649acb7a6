/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What fits into one message on the bus. dbus-daemon takes 32 MiB of anybody (max_message_size, as its
 * system bus has it) and hangs up on who sends more, which would be the end of hostd. sd-bus does not say
 * how large a message is, so it is counted before it is made.
 */

#include <glib.h>
#include <stdbool.h>
#include <systemd/sd-bus.h>

#define BUS_MESSAGE_MAX (32u * 1024 * 1024)
#define BUS_ROOM (BUS_MESSAGE_MAX - 4096u) /* of a body, which has a header before it */

/* Takes n bytes of what is left; false: there are not so many. */
bool bus_room_take(size_t *left, size_t n);
/* The same for one element of an array of structures with these strings and at most eight numbers. 0; or
 * negative, and *error says that it is TooLarge. */
int bus_room_element(size_t *left, sd_bus_error *error, const char *first, ...) G_GNUC_NULL_TERMINATED;
