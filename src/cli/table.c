/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <wchar.h>

#include "base/base.h"

struct Table {
        size_t n_columns, n_cells, n_allocated;
        char **cells; /* the headings are the first row */
};

Table *table_new(const char *const *headings)
{
        Table *t = calloc(1, sizeof(Table));

        if (!t)
                abort();
        while (headings[t->n_columns])
                t->n_columns++;
        for (size_t i = 0; i < t->n_columns; i++)
                table_add(t, headings[i]);
        return t;
}

Table *table_free(Table *t)
{
        if (!t)
                return NULL;
        for (size_t i = 0; i < t->n_cells; i++)
                free(t->cells[i]);
        free(t->cells);
        free(t);
        return NULL;
}

void table_add(Table *t, const char *cell)
{
        if (t->n_cells == t->n_allocated) {
                t->n_allocated = MAX(t->n_allocated * 2, 64u);
                t->cells = realloc(t->cells, t->n_allocated * sizeof(char *));
                if (!t->cells)
                        abort();
        }
        t->cells[t->n_cells] = format_text(cell && cell[0] ? cell : "-");
        if (!t->cells[t->n_cells++])
                abort();
}

static size_t cell_width(const char *s)
{
        size_t n = 0;

        for (; *s; s++)
                n += ((uint8_t)*s & 0xc0) != 0x80;
        return n;
}

void table_print(const Table *t)
{
        size_t widths[16] = {};

        for (size_t i = 0; i < t->n_cells; i++)
                widths[i % t->n_columns % 16] = MAX(widths[i % t->n_columns % 16], cell_width(t->cells[i]));
        for (size_t i = 0; i < t->n_cells; i++) {
                size_t column = i % t->n_columns;
                bool last = column == t->n_columns - 1 || i == t->n_cells - 1;

                fputs(t->cells[i], stdout);
                if (last)
                        fputc('\n', stdout);
                else
                        printf("%*s", (int)(widths[column % 16] - cell_width(t->cells[i]) + 2), "");
        }
}

char *format_text(const char *text)
{
        char *shown = malloc(strlen(text) * 4 + 1), *to = shown;

        for (const unsigned char *p = (const unsigned char *)text; shown && *p; p++)
                if (*p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)) {
                        to += sprintf(to, "\\x%02x", *p);
                        if (*p == 0xc2) /* U+0080 and on are controls too */
                                to += sprintf(to, "\\x%02x", *++p);
                } else
                        *to++ = (char)*p;
        if (shown)
                *to = 0;
        return shown;
}

const char *format_bytes(uint64_t n, char *buf, size_t size)
{
        static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
        double v = (double)n;
        size_t u = 0;

        while (v >= 1024 && u < ELEMENTSOF(units) - 1)
                v /= 1024, u++;
        if (u == 0)
                snprintf(buf, size, "%" PRIu64 " B", n);
        else
                snprintf(buf, size, "%.1f %s", v, units[u]);
        return buf;
}

const char *format_span(uint64_t usec, char *buf, size_t size)
{
        uint64_t s = usec / USEC_PER_SEC;

        if (s < 10)
                snprintf(buf, size, "%.1fs", (double)usec / 1e6);
        else if (s < 60)
                snprintf(buf, size, "%" PRIu64 "s", s);
        else if (s < 3600)
                snprintf(buf, size, "%" PRIu64 "min %" PRIu64 "s", s / 60, s % 60);
        else if (s < 86400)
                snprintf(buf, size, "%" PRIu64 "h %" PRIu64 "min", s / 3600, s / 60 % 60);
        else
                snprintf(buf, size, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s / 3600 % 24);
        return buf;
}
