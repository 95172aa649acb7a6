/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The daemon's poll(2) loop: descriptors, timers, children, signals. It sleeps without a timeout while no
 * timer is armed. Every source may be freed from any callback, its own included. Forked children start here
 * too, so that they begin with clean signals and with no descriptor that they were not given.
 */

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"

typedef struct Loop Loop;
typedef struct LoopFd LoopFd;
typedef struct LoopTimer LoopTimer;

typedef void (*LoopOnFd)(void *userdata, int fd, short revents);
typedef void (*LoopOnTime)(void *userdata);
typedef void (*LoopOnChild)(void *userdata, pid_t pid, int wait_status); /* as of waitpid(2) */
typedef void (*LoopOnSignal)(void *userdata, int signal);

/* One a process: it blocks SIGCHLD, and the signals of loop_on_signal(). 0, -errno. */
int loop_new(Loop **ret);
Loop *loop_free(Loop *l); /* frees the sources that are left, closes none of their descriptors */
DEFINE_CLEANUP(Loop *, loop_free);

int loop_run(Loop *l); /* until loop_stop(): its code; -errno if poll(2) fails for good */
void loop_stop(Loop *l, int code);
uint64_t loop_now(Loop *l);           /* monotonic µs, as of the present turn */
uint64_t loop_n_turns(const Loop *l); /* how often poll(2) returned: for tests of idleness */

/* The descriptor stays the caller's. events may be 0: then it isn't polled at all (a level-triggered HUP
 * can't spin). */
int loop_add_fd(Loop *l, int fd, short events, LoopOnFd cb, void *userdata, LoopFd **ret); /* 0, -ENOMEM */
void loop_fd_set_events(LoopFd *f, short events);
LoopFd *loop_fd_free(LoopFd *f);
DEFINE_CLEANUP(LoopFd *, loop_fd_free);

/* Born disarmed; fires once per loop_timer_set(). Absolute monotonic µs; USEC_INFINITY disarms. */
int loop_add_timer(Loop *l, LoopOnTime cb, void *userdata, LoopTimer **ret); /* 0, -ENOMEM */
void loop_timer_set(LoopTimer *t, uint64_t deadline_usec);
uint64_t loop_timer_deadline(const LoopTimer *t);
LoopTimer *loop_timer_free(LoopTimer *t);
DEFINE_CLEANUP(LoopTimer *, loop_timer_free);

/* Told once, when the child has ended; all children are reaped, asked for or not. Must be called in the turn
 * that forked. */
int loop_on_child(Loop *l, pid_t pid, LoopOnChild cb, void *userdata); /* 0, -ENOMEM */
void loop_forget_child(Loop *l, pid_t pid);
int loop_on_signal(Loop *l, int signal, LoopOnSignal cb, void *userdata); /* 0, -ENOMEM, -errno */

/*
 * fork(2) for children that do not share the daemon's affairs. In the child: default signals, empty mask,
 * all descriptors closed but 0, 1, 2 and `keep` (n_keep of them; their O_CLOEXEC is as it was), OOM score
 * back to normal. The child's Loop, and what hangs on it, must not be used. Returns as fork(2), or -errno.
 */
pid_t loop_fork(Loop *l, const int *keep, size_t n_keep);
