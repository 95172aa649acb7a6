/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"
#include "cli/table.h"
#include "cli/terminal.h"

#define BAR_WIDTH 24

static struct {
        bool shown, drawn;
        uint64_t started, drawn_at, sampled_at, sampled_bytes;
        double rate; /* bytes a second, smoothed over some seconds */
        Progress last;
} state;

void progress_init(bool shown)
{
        state.shown = shown;
        state.started = state.sampled_at = fs_now_usec();
}

bool progress_is_shown(void)
{
        return state.shown;
}

void progress_clear(void)
{
        if (state.drawn)
                fputs("\r\033[K", stderr);
        state.drawn = false;
}

static void draw(const Progress *p, bool final)
{
        char done[32], total[32], rate[32], left[32] = "", bar[BAR_WIDTH + 1], line[512];
        bool known = p->total != UINT64_MAX && p->total > 0;
        double part = known ? MIN(1.0, (double)p->done / (double)p->total) : 0;
        uint64_t elapsed = fs_now_usec() - state.started;
        double shown_rate = final && elapsed > 0 ? (double)p->done * 1e6 / (double)elapsed : state.rate;
        uint16_t rows, columns;
        int n;

        for (int i = 0; i < BAR_WIDTH; i++)
                bar[i] = i < (int)(part * BAR_WIDTH) ? '#' : '.';
        bar[BAR_WIDTH] = 0;
        if (!final && known && state.rate > 1)
                format_span((uint64_t)((double)(p->total - MIN(p->done, p->total)) / state.rate * 1e6), left,
                            sizeof(left));
        if (!known)
                n = snprintf(line, sizeof(line), "%s  %s/s", format_bytes(p->done, done, sizeof(done)),
                             format_bytes((uint64_t)shown_rate, rate, sizeof(rate)));
        else
                n = snprintf(line, sizeof(line), "[%s] %3.0f%%  %s of %s  %s/s", bar, part * 100,
                             format_bytes(p->done, done, sizeof(done)),
                             format_bytes(p->total, total, sizeof(total)),
                             format_bytes((uint64_t)shown_rate, rate, sizeof(rate)));
        if (p->files_total != UINT64_MAX && p->files_total > 1)
                n += snprintf(line + n, sizeof(line) - (size_t)n, "  %" PRIu64 "/%" PRIu64 " files",
                              p->files_done, p->files_total);
        else if (p->files_total == UINT64_MAX && p->files_done > 1)
                n += snprintf(line + n, sizeof(line) - (size_t)n, "  %" PRIu64 " files", p->files_done);
        if (left[0])
                n += snprintf(line + n, sizeof(line) - (size_t)n, "  %s left", left);
        terminal_size(&rows, &columns);
        if (n >= columns && columns > 1)
                line[columns - 1] = 0;
        fprintf(stderr, "\r\033[K%s", line);
        state.drawn = true;
}

void progress_show(const Progress *p)
{
        uint64_t now = fs_now_usec();

        state.last = *p;
        if (!state.shown)
                return;
        if (now - state.sampled_at >= USEC_PER_SEC / 5) {
                double sample = (double)(p->done - MIN(state.sampled_bytes, p->done)) * 1e6 /
                                (double)(now - state.sampled_at);

                state.rate = state.rate > 0 ? state.rate * 0.8 + sample * 0.2 : sample;
                state.sampled_at = now;
                state.sampled_bytes = p->done;
        }
        if (now - state.drawn_at < USEC_PER_SEC / 10)
                return;
        state.drawn_at = now;
        draw(p, false);
}

void progress_end(void)
{
        if (!state.shown || (!state.drawn && state.last.done == 0))
                return;
        draw(&state.last, true);
        fputc('\n', stderr);
        state.drawn = false;
}
