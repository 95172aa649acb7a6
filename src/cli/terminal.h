/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The local terminal: raw while a guest's terminal is shown, and always as it was when this process ends.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

int terminal_raw(void);      /* 0, -ENOTTY, -errno; restored at exit and by terminal_restore() */
void terminal_restore(void); /* safe in a signal handler, and twice */
void terminal_size(uint16_t *ret_rows, uint16_t *ret_columns); /* 24 × 80 where there is none */

/* Looks for "~." behind a newline. Returns the bytes that stay, -1 when the user wants to leave. "~~" is one
 * "~". A tilde that was held back may make it n + 1 bytes. */
typedef struct Escape {
        bool inside, at_start;
} Escape;
ssize_t terminal_filter(void *escape, uint8_t *data, size_t n);
