/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What a job says of single entries: which failed, which were left out. Each once, though a transfer that
 * goes on meets them again. Bounded by REPORTS_BYTES_MAX: beyond that they are only counted.
 */

#include <glib.h>
#include <stdbool.h>

#include "proto/wire-error.h"

typedef struct JobReport {
        WireError error;   /* WIRE_OK: a note */
        char *path, *text; /* valid UTF-8 */
} JobReport;

typedef struct JobReports {
        GPtrArray *all; /* JobReport; NULL: none */
        GHashTable *known;
        size_t n_bytes;
} JobReports; /* zeroed: empty */

void job_reports_done(JobReports *r);
/* Whether it is new, and was kept. */
bool job_reports_add(JobReports *r, WireError error, const char *untrusted_path, const char *untrusted_text);
