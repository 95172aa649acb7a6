/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One line on stderr that tells how far a copy is: bytes, files, rate, time left. Nothing where stderr is no
 * terminal.
 */

#include <stdbool.h>
#include <stdint.h>

typedef struct Progress {
        uint64_t done, total, files_done, files_total; /* totals UINT64_MAX: unknown */
} Progress;

void progress_init(bool shown);
bool progress_is_shown(void);
void progress_show(const Progress *p); /* at most 10 a second reach the terminal */
void progress_clear(void);             /* before another line is written */
void progress_end(void);               /* leaves the last state standing */
