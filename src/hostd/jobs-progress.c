/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* How far a job is and how fast it gets on, told at most ten times a second. */

#include "hostd/jobs-private.h"

#include "base/fs.h"

/* The contract's ten a second, with room for the news of its beginning and of its end. */
#define PROGRESS_USEC (125 * USEC_PER_MSEC)
#define RATE_WINDOW_USEC (2 * USEC_PER_SEC)

static void on_progress(void *userdata)
{
        Entry *e = userdata;
        if (e->dirty)
                entry_changed(e, true);
}

static void sample_rate(Entry *e)
{
        uint64_t now = fs_now_usec(), span = now - e->sample_at, rate;

        if (e->sample_at == 0 || e->job.bytes_done < e->sample_bytes) { /* began, or began again */
                e->sample_at = now;
                e->sample_bytes = e->job.bytes_done;
                return;
        }
        if (span < PROGRESS_USEC / 2)
                return;
        rate = (uint64_t)((double)(e->job.bytes_done - e->sample_bytes) * USEC_PER_SEC / (double)span);
        if (e->job.rate == 0)
                e->job.rate = rate;
        else
                e->job.rate =
                        (uint64_t)(((double)e->job.rate * RATE_WINDOW_USEC + (double)rate * (double)span) /
                                   (double)(RATE_WINDOW_USEC + span));
        e->sample_at = now;
        e->sample_bytes = e->job.bytes_done;
}

uint64_t job_rate(const Job *j)
{
        const Entry *e = entry(j);
        uint64_t still;

        if (j->state != JOB_RUNNING || e->sample_at == 0)
                return j->rate;
        still = fs_now_usec() - e->sample_at;
        if (still <= 10 * PROGRESS_USEC)
                return j->rate;
        return (uint64_t)((double)j->rate * RATE_WINDOW_USEC / (double)(RATE_WINDOW_USEC + still));
}

void job_set_progress(Jobs *js, Job *j, uint64_t bytes_done, uint64_t files_done, uint64_t bytes_total,
                      uint64_t files_total)
{
        Entry *e = entry(j);
        uint64_t due;

        if (j->bytes_done == bytes_done && j->files_done == files_done && j->bytes_total == bytes_total &&
            j->files_total == files_total)
                return;
        j->bytes_done = bytes_done;
        j->files_done = files_done;
        j->bytes_total = bytes_total;
        j->files_total = files_total;
        sample_rate(e);
        due = e->told_at + PROGRESS_USEC;
        if (fs_now_usec() >= due) {
                entry_changed(e, true);
                return;
        }
        if (e->dirty)
                return;
        e->dirty = true;
        if (!e->progress)
                e->progress = loop_timer_new(loop_default(), on_progress, e);
        if (e->progress)
                loop_timer_set(e->progress, due, PROGRESS_USEC / 10);
}
