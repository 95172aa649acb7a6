/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The main loop: GLib's default main context, with one sd-event attached to it as one GSource. Timers of
 * engines go through sd-event, which keeps thousands of them in one timerfd; descriptors have an epoll of
 * their own beneath it. Main thread only.
 *
 * SIGPIPE is ignored from loop_new() on and SIGTERM, SIGINT, SIGHUP have handlers: who forks resets them
 * before exec.
 */

#include <stdint.h>
#include <systemd/sd-event.h>

#include "base/base.h"

typedef struct Loop Loop;

/* One a process. 0, -errno. */
int loop_new(Loop **ret);
Loop *loop_free(Loop *l);
Loop *loop_default(void);      /* the one that exists; NULL before loop_new() and after loop_free() */
sd_event *loop_event(Loop *l); /* borrowed: sd_bus_attach_event(bus, loop_event(l), 0) */
/* Until loop_quit(), SIGTERM or SIGINT. Returns the exit code; an error of sd-event ends it with
 * EXIT_FAILURE. */
int loop_run(Loop *l);
void loop_quit(Loop *l, int code);
/* SIGHUP, which tells systemd of the reload by itself. */
void loop_on_reload(Loop *l, void (*func)(void *userdata), void *userdata);
/* sd_notify(3): READY=1 once, then only STATUS=; STOPPING=1 is sent by loop_run(). */
void loop_notify_ready(Loop *l, const char *status);

/* A descriptor, level-triggered, EPOLL* bits. It stays the caller's. Freeing a watch within its own call is
 * fine. NULL: no memory, or epoll cannot wait for such a descriptor. */
typedef struct LoopWatch LoopWatch;
typedef void (*LoopWatchFunc)(void *userdata, uint32_t events);
LoopWatch *loop_watch_new(Loop *l, int fd, uint32_t events, LoopWatchFunc func, void *userdata);
LoopWatch *loop_watch_free(LoopWatch *w);
void loop_watch_set_events(LoopWatch *w, uint32_t events);

/* A timer, once each time it is set. CLOCK_MONOTONIC; it may come up to slack_usec late, so that many share
 * a wake-up. */
typedef struct LoopTimer LoopTimer;
typedef void (*LoopTimerFunc)(void *userdata);
LoopTimer *loop_timer_new(Loop *l, LoopTimerFunc func, void *userdata); /* NULL: no memory */
LoopTimer *loop_timer_free(LoopTimer *t);
void loop_timer_set(LoopTimer *t, uint64_t at_usec, uint64_t slack_usec); /* USEC_INFINITY: not at all */

DEFINE_CLEANUP(Loop *, loop_free);
