/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Reports of single entries on their way to hostd, several in a packet. hostd keeps a bounded number of
 * them: beyond that they are only counted.
 */

#include <stdbool.h>
#include <stddef.h>

#include "files/report.h"

typedef struct Reports {
        bool is_tree; /* a single object's failure is the job's: only notes are reported */
        struct json_object *entries;
        size_t n_pending, n_told;
} Reports; /* zeroed: empty */

void reports_add(Reports *r, WireError error, const char *untrusted_text, const char *untrusted_path);
void reports_flush(Reports *r);
