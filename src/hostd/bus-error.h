/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Our errors in the words of D-Bus: WireError and a sentence to a bus error name and a message that is valid
 * UTF-8.
 */

#include <systemd/sd-bus.h>

#include "base/base.h"
#include "proto/wire-error.h"

/* org.vmferry1.Error.X, or org.freedesktop.DBus.Error.InvalidArgs or .Failed. Never NULL; "" for WIRE_OK. */
const char *bus_error_name(WireError error);
/* Sets e and returns a negative errno, for a method handler to return. */
int bus_error_set(sd_bus_error *e, WireError error, const char *format, ...) _printf_(3, 4);
/* Answers a method call whose handler has returned long ago. */
void bus_error_reply(sd_bus_message *call, WireError error, const char *text);
