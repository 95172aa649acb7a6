/* SPDX-License-Identifier: LGPL-2.1-or-later */

#pragma once

/*
 * Round trips at a rate of their own: each begins at a random moment, EVERY microseconds after the one
 * before on average, or at once with 0. What goes as fast as it can meets a pause of the machine the less
 * often, the more of its round trips fit between two; so two that differ in length can be compared by a
 * percentile at one rate only.
 */

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

typedef struct Pace {
        uint64_t every_usec;
        double start, next; /* seconds, of CLOCK_MONOTONIC */
} Pace;

static inline double pace_now(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline void pace_init(Pace *p, const char *every_usec)
{
        *p = (Pace){ .every_usec = strtoull(every_usec, NULL, 10), .next = pace_now() };
        srandom((unsigned)time(NULL));
}

static inline void pace_begin(Pace *p)
{
        double wait = p->next - pace_now();

        if (p->every_usec > 0 && wait > 0)
                (void)nanosleep(
                        &(struct timespec){ (time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9) },
                        NULL);
        p->start = pace_now();
        /* between half of it and one and a half */
        p->next = p->start + (double)p->every_usec * (0.5 + (double)random() / RAND_MAX) / 1e6;
}

/* Microseconds. */
static inline double pace_end(const Pace *p)
{
        return (pace_now() - p->start) * 1e6;
}
