/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The one reader of a{sv} options: what a method knows stands in a table; a key that does not, a value of
 * another type, and a key given twice are InvalidArgs with the key's name.
 */

#include <stddef.h>
#include <systemd/sd-bus.h>

typedef struct BusBytes {    /* of an ay */
        const uint8_t *data; /* never NULL once given */
        size_t n;
} BusBytes;

/* One option. Types and what stands at `offset`: "b" bool, "u" uint32_t, "q" uint16_t, "t" uint64_t, "s"
 * const char *, "ay" BusBytes, "a{ss}" char ** ("K=V", NULL-terminated; g_strfreev() it). Strings and bytes
 * are borrowed from the message. */
typedef struct BusOption {
        const char *key, *type;
        size_t offset;
} BusOption;

/* Reads the a{sv} that comes next in m into *ret, which holds the defaults. 0, or a negative errno with
 * *error set. The table ends with a NULL key; NULL: no options are known. */
int bus_options_read(sd_bus_message *m, const BusOption *table, void *ret, sd_bus_error *error);
