/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Foreign text made fit to be shown: in logs, on the bus, on a terminal.
 */

#include <stddef.h>

/* Valid UTF-8, controls and broken bytes as \xNN, backslash as \\; cut at max bytes with "…". malloc'ed;
 * NULL: no memory. */
char *escape_text(const char *untrusted, size_t n, size_t max);
/* Length of the valid UTF-8 sequence (RFC 3629) that starts at s, 0 if there is none within n bytes. */
size_t escape_utf8_length(const char *s, size_t n);
