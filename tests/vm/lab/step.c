/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded, it moves CLOCK_REALTIME of one process by the seconds that stand in the file $LAB_STEP, and no
 * other clock: what a step of the machine's clock would look like to it.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long step(void)
{
        static const long *seconds;
        int fd;

        if (!seconds && getenv("LAB_STEP") && (fd = open(getenv("LAB_STEP"), O_RDONLY | O_CLOEXEC)) >= 0) {
                void *p = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
                close(fd);
                if (p != MAP_FAILED)
                        seconds = p;
        }
        return seconds ? *(const volatile long *)seconds : 0;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
        int r = (int)syscall(SYS_clock_gettime, clock, t);

        if (r == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
                t->tv_sec += step();
        return r;
}

int gettimeofday(struct timeval *t, void *zone)
{
        struct timespec now;

        (void)zone;
        clock_gettime(CLOCK_REALTIME, &now);
        t->tv_sec = now.tv_sec;
        t->tv_usec = now.tv_nsec / 1000;
        return 0;
}

time_t time(time_t *ret)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        if (ret)
                *ret = now.tv_sec;
        return now.tv_sec;
}
