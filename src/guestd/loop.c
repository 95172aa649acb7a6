/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * poll(2) over an array that is rebuilt each turn: a guest's daemon has a dozen descriptors. Signals come
 * through signalfd(2). A source freed inside a callback is only marked; it is swept behind the turn, so a
 * callback may free anything, its neighbour in the list included.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <dirent.h>

#include "base/fs.h"
#include "guestd/loop.h"

#define SIGNALS_MAX 8
#define DESCRIPTORS_BRUTE_MAX 65536

struct LoopFd {
        LoopFd *next;
        Loop *loop;
        int fd;
        short events;
        bool dead;
        size_t index; /* into the poll array; SIZE_MAX: not polled this turn */
        LoopOnFd cb;
        void *userdata;
};

struct LoopTimer {
        LoopTimer *next;
        Loop *loop;
        uint64_t deadline_usec;
        bool dead;
        LoopOnTime cb;
        void *userdata;
};

typedef struct LoopChild {
        struct LoopChild *next;
        pid_t pid;
        LoopOnChild cb;
        void *userdata;
} LoopChild;

struct Loop {
        LoopFd *fds;
        LoopTimer *timers;
        LoopChild *children;
        struct pollfd *polled;
        size_t n_polled_max;
        struct {
                int signal;
                LoopOnSignal cb;
                void *userdata;
        } signals[SIGNALS_MAX];
        size_t n_signals;
        sigset_t mask;
        int signal_fd;
        LoopFd *signal_source;
        uint64_t now_usec;
        uint64_t n_turns;
        int code;
        bool stopped;
        bool has_dead;
};

static void loop_reap(Loop *l)
{
        for (;;) {
                int status;
                pid_t pid = waitpid(-1, &status, WNOHANG);
                if (pid < 0 && errno == EINTR)
                        continue;
                if (pid <= 0)
                        return;
                for (LoopChild **c = &l->children; *c; c = &(*c)->next) {
                        if ((*c)->pid != pid)
                                continue;
                        _cleanup_free_ LoopChild *found = *c;
                        *c = found->next;
                        found->cb(found->userdata, pid, status);
                        break;
                }
        }
}

static void loop_on_signal_fd(void *userdata, int fd, short revents)
{
        Loop *l = userdata;
        struct signalfd_siginfo info;
        bool has_child = false;

        while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                if (info.ssi_signo == SIGCHLD) {
                        has_child = true;
                        continue;
                }
                for (size_t i = 0; i < l->n_signals; i++)
                        if (l->signals[i].signal == (int)info.ssi_signo)
                                l->signals[i].cb(l->signals[i].userdata, (int)info.ssi_signo);
        }
        if (has_child)
                loop_reap(l);
}

int loop_new(Loop **ret)
{
        _cleanup_(loop_freep) Loop *l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        l->signal_fd = -EBADF;
        (void)sigemptyset(&l->mask);
        (void)sigaddset(&l->mask, SIGCHLD);
        if (sigprocmask(SIG_BLOCK, &l->mask, NULL) < 0)
                return -errno;
        l->signal_fd = signalfd(-1, &l->mask, SFD_CLOEXEC | SFD_NONBLOCK);
        if (l->signal_fd < 0)
                return -errno;
        int r = loop_add_fd(l, l->signal_fd, POLLIN, loop_on_signal_fd, l, &l->signal_source);
        if (r < 0)
                return r;
        l->now_usec = fs_now_usec();
        *ret = TAKE(l);
        return 0;
}

static void loop_sweep(Loop *l, bool all)
{
        for (LoopFd **f = &l->fds; *f;) {
                LoopFd *x = *f;
                if (all || x->dead) {
                        *f = x->next;
                        free(x);
                } else
                        f = &x->next;
        }
        for (LoopTimer **t = &l->timers; *t;) {
                LoopTimer *x = *t;
                if (all || x->dead) {
                        *t = x->next;
                        free(x);
                } else
                        t = &x->next;
        }
        l->has_dead = false;
}

Loop *loop_free(Loop *l)
{
        if (!l)
                return NULL;
        loop_sweep(l, true);
        while (l->children) {
                LoopChild *c = l->children;
                l->children = c->next;
                free(c);
        }
        (void)fd_close(l->signal_fd);
        free(l->polled);
        free(l);
        return NULL;
}

uint64_t loop_now(Loop *l)
{
        return l->now_usec;
}

uint64_t loop_n_turns(const Loop *l)
{
        return l->n_turns;
}

void loop_stop(Loop *l, int code)
{
        l->code = code;
        l->stopped = true;
}

/* How many entries of l->polled are in use, or -ENOMEM. */
static ssize_t loop_fill_polled(Loop *l)
{
        size_t n = 0;
        for (LoopFd *f = l->fds; f; f = f->next)
                n++;
        if (n > l->n_polled_max) {
                struct pollfd *p = realloc(l->polled, (n + 16) * sizeof(*p));
                if (!p)
                        return -ENOMEM;
                l->polled = p;
                l->n_polled_max = n + 16;
        }
        n = 0;
        for (LoopFd *f = l->fds; f; f = f->next) {
                f->index = SIZE_MAX;
                if (f->dead || !f->events)
                        continue;
                f->index = n;
                l->polled[n++] = (struct pollfd){ .fd = f->fd, .events = f->events };
        }
        return (ssize_t)n;
}

static uint64_t loop_next_deadline(const Loop *l)
{
        uint64_t next = USEC_INFINITY;
        for (const LoopTimer *t = l->timers; t; t = t->next)
                if (!t->dead)
                        next = MIN(next, t->deadline_usec);
        return next;
}

static void loop_dispatch(Loop *l)
{
        /* What a callback adds stands at the head of the lists, before the cursor, and waits for the next
         * turn. */
        for (LoopFd *f = l->fds; f && !l->stopped; f = f->next) {
                if (f->dead || f->index == SIZE_MAX)
                        continue;
                short revents = l->polled[f->index].revents;
                f->index = SIZE_MAX;
                if (revents)
                        f->cb(f->userdata, f->fd, revents);
        }
        for (LoopTimer *t = l->timers; t && !l->stopped; t = t->next) {
                if (t->dead || t->deadline_usec > l->now_usec)
                        continue;
                t->deadline_usec = USEC_INFINITY;
                t->cb(t->userdata);
        }
}

int loop_run(Loop *l)
{
        l->stopped = false;
        while (!l->stopped) {
                ssize_t n = loop_fill_polled(l);
                if (n < 0)
                        return (int)n;

                uint64_t deadline = loop_next_deadline(l);
                struct timespec wait = { 0, 0 }, *timeout = NULL;
                if (deadline != USEC_INFINITY) {
                        uint64_t now = fs_now_usec();
                        uint64_t left = deadline > now ? deadline - now : 0;
                        wait.tv_sec = (time_t)(left / USEC_PER_SEC);
                        wait.tv_nsec = (long)(left % USEC_PER_SEC * 1000);
                        timeout = &wait;
                }
                int r = ppoll(l->polled, (nfds_t)n, timeout, NULL);
                if (r < 0 && errno != EINTR && errno != EAGAIN && errno != ENOMEM)
                        return -errno;
                if (r <= 0)
                        for (ssize_t i = 0; i < n; i++)
                                l->polled[i].revents = 0;
                l->n_turns++;
                l->now_usec = fs_now_usec();
                loop_dispatch(l);
                if (l->has_dead)
                        loop_sweep(l, false);
        }
        return l->code;
}

int loop_add_fd(Loop *l, int fd, short events, LoopOnFd cb, void *userdata, LoopFd **ret)
{
        LoopFd *f = calloc(1, sizeof(*f));
        if (!f)
                return -ENOMEM;
        *f = (LoopFd){ .next = l->fds,
                       .loop = l,
                       .fd = fd,
                       .events = events,
                       .index = SIZE_MAX,
                       .cb = cb,
                       .userdata = userdata };
        l->fds = f;
        *ret = f;
        return 0;
}

void loop_fd_set_events(LoopFd *f, short events)
{
        f->events = events;
}

LoopFd *loop_fd_free(LoopFd *f)
{
        if (f) {
                f->dead = true;
                f->loop->has_dead = true;
        }
        return NULL;
}

int loop_add_timer(Loop *l, LoopOnTime cb, void *userdata, LoopTimer **ret)
{
        LoopTimer *t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        *t = (LoopTimer){
                .next = l->timers, .loop = l, .deadline_usec = USEC_INFINITY, .cb = cb, .userdata = userdata
        };
        l->timers = t;
        *ret = t;
        return 0;
}

void loop_timer_set(LoopTimer *t, uint64_t deadline_usec)
{
        t->deadline_usec = deadline_usec;
}

uint64_t loop_timer_deadline(const LoopTimer *t)
{
        return t->deadline_usec;
}

LoopTimer *loop_timer_free(LoopTimer *t)
{
        if (t) {
                t->dead = true;
                t->loop->has_dead = true;
        }
        return NULL;
}

int loop_on_child(Loop *l, pid_t pid, LoopOnChild cb, void *userdata)
{
        LoopChild *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (LoopChild){ .next = l->children, .pid = pid, .cb = cb, .userdata = userdata };
        l->children = c;
        return 0;
}

void loop_forget_child(Loop *l, pid_t pid)
{
        for (LoopChild **c = &l->children; *c; c = &(*c)->next)
                if ((*c)->pid == pid) {
                        LoopChild *found = *c;
                        *c = found->next;
                        free(found);
                        return;
                }
}

int loop_on_signal(Loop *l, int signal, LoopOnSignal cb, void *userdata)
{
        if (l->n_signals >= SIGNALS_MAX)
                return -ENOBUFS;
        (void)sigaddset(&l->mask, signal);
        if (sigprocmask(SIG_BLOCK, &l->mask, NULL) < 0 || signalfd(l->signal_fd, &l->mask, 0) < 0)
                return -errno;
        l->signals[l->n_signals].signal = signal;
        l->signals[l->n_signals].cb = cb;
        l->signals[l->n_signals].userdata = userdata;
        l->n_signals++;
        return 0;
}

static bool is_kept(int fd, const int *keep, size_t n_keep)
{
        for (size_t i = 0; i < n_keep; i++)
                if (keep[i] == fd)
                        return true;
        return fd <= STDERR_FILENO;
}

static void close_others(const int *keep, size_t n_keep)
{
#ifdef SYS_close_range
        int first = STDERR_FILENO + 1;
        for (;;) {
                int next = INT32_MAX; /* the smallest kept descriptor from `first` on */
                for (size_t i = 0; i < n_keep; i++)
                        if (keep[i] >= first && keep[i] < next)
                                next = keep[i];
                unsigned last = next == INT32_MAX ? UINT32_MAX : (unsigned)next - 1;
                if (last >= (unsigned)first && syscall(SYS_close_range, (unsigned)first, last, 0) < 0)
                        break; /* kernels before 5.9, or a seccomp filter */
                if (next == INT32_MAX)
                        return;
                first = next + 1;
        }
#endif
        DIR *d = opendir("/proc/self/fd");
        if (d) {
                for (struct dirent *e; (e = readdir(d));) {
                        int fd = atoi(e->d_name);
                        if (fd != dirfd(d) && !is_kept(fd, keep, n_keep))
                                (void)close(fd);
                }
                (void)closedir(d);
                return;
        }
        struct rlimit limit;
        int max = DESCRIPTORS_BRUTE_MAX;
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < DESCRIPTORS_BRUTE_MAX)
                max = (int)limit.rlim_cur;
        for (int fd = STDERR_FILENO + 1; fd < max; fd++)
                if (!is_kept(fd, keep, n_keep))
                        (void)close(fd);
}

pid_t loop_fork(Loop *l, const int *keep, size_t n_keep)
{
        sigset_t all, old, none;

        /* A signal for the child must not meet the handlers that it still has of its parent. */
        (void)sigfillset(&all);
        (void)sigprocmask(SIG_SETMASK, &all, &old);
        pid_t pid = fork();
        int error = errno;
        if (pid != 0) {
                (void)sigprocmask(SIG_SETMASK, &old, NULL);
                return pid < 0 ? -error : pid;
        }

        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        close_others(keep, n_keep);
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
                (void)fs_write_all(fd, "0", 1);
                (void)fd_close(fd);
        }
        return 0;
}
