/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Columns on standard output, and quantities as people read them.
 */

#include <stddef.h>
#include <stdint.h>

typedef struct Table Table;

Table *table_new(const char *const *headings); /* NULL-terminated */
Table *table_free(Table *t);
void table_add(Table *t, const char *cell); /* copied; cells fill rows from the left */
void table_print(const Table *t);

/* As it is but for controls, as \xNN: names are anybody's, and a line is to stay one. malloc'ed; NULL: no
 * memory. */
char *format_text(const char *text);
/* "1.5 MiB". */
const char *format_bytes(uint64_t n, char *buf, size_t size);
/* "3d 4h", "5min 2s", "0.2s". */
const char *format_span(uint64_t usec, char *buf, size_t size);
