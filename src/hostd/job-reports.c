/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See job-reports.h. */

#include "hostd/job-reports.h"

#include <string.h>

#include "base/base.h"
#include "files/report.h"
#include "hostd/job.h"

static void report_free(void *p)
{
        JobReport *r = p;

        g_free(r->path);
        g_free(r->text);
        g_free(r);
}

static guint report_hash(const void *p)
{
        const JobReport *r = p;

        return g_str_hash(r->path) * 31 + g_str_hash(r->text);
}

static gboolean report_is_same(const void *a, const void *b)
{
        const JobReport *x = a, *y = b;

        return str_eq(x->path, y->path) && str_eq(x->text, y->text);
}

void job_reports_done(JobReports *r)
{
        if (!r->all)
                return;
        g_hash_table_unref(r->known);
        g_ptr_array_unref(r->all);
        *r = (JobReports){};
}

bool job_reports_add(JobReports *r, WireError error, const char *untrusted_path, const char *untrusted_text)
{
        size_t n = strlen(untrusted_path) + strlen(untrusted_text) + sizeof(JobReport);
        JobReport *new;

        if (n > REPORTS_BYTES_MAX - r->n_bytes)
                return false;
        if (!r->all) {
                r->all = g_ptr_array_new_with_free_func(report_free);
                r->known = g_hash_table_new(report_hash, report_is_same);
        }
        new = g_new0(JobReport, 1);
        *new = (JobReport){ .error = error,
                            .path = job_text(untrusted_path),
                            .text = job_text(untrusted_text) };
        if (g_hash_table_contains(r->known, new)) {
                report_free(new);
                return false;
        }
        (void)g_hash_table_add(r->known, new);
        g_ptr_array_add(r->all, new);
        r->n_bytes += n;
        return true;
}
