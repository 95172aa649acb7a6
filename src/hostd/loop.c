/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * GLib's main context carries libvirt's events; sd-event carries the bus, the timers, and an epoll with the
 * channels. sd-event stands in the context as one GSource: its epoll descriptor is polled, and its states
 * (sd_event_prepare(3)) are walked by prepare, check and dispatch. Another source of higher priority may
 * make GLib skip our check, so prepare accepts an sd-event that is armed already. Whatever fails there ends
 * the daemon with a code: a loop that cannot wait is no loop.
 */

#include <glib.h>
#include <glib-unix.h>
#include <signal.h>
#include <sys/epoll.h>
#include <systemd/sd-daemon.h>

#include "base/fs.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#define WATCHES_PER_TURN 16
#define DISPATCH_MAX 64 /* sd-event sources served in one turn of GLib's context */

typedef struct EventSource {
        GSource source;
        Loop *loop;
} EventSource;

struct Loop {
        sd_event *event;
        int epoll;                         /* of watches */
        LoopWatch *turn[WATCHES_PER_TURN]; /* being served; NULL: freed meanwhile */
        int n_turn;
        GMainLoop *main;
        GSource *source;
        guint signals[3];
        int code;
        bool ready;
        void (*reload)(void *userdata);
        void *reload_userdata;
};

struct LoopWatch {
        Loop *loop;
        int fd;
        LoopWatchFunc func;
        void *userdata;
        uint32_t events;
};

struct LoopTimer {
        sd_event_source *source;
        LoopTimerFunc func;
        void *userdata;
};

static Loop *the_loop;

static bool event_failed(Loop *l, const char *what, int r)
{
        if (r >= 0)
                return false;
        log_error("The event loop failed: %s: %s", what, strerror(-r));
        loop_quit(l, EXIT_FAILURE);
        return true;
}

static gboolean event_source_prepare(GSource *source, gint *ret_timeout)
{
        Loop *l = ((EventSource *)source)->loop;

        *ret_timeout = -1;
        switch (sd_event_get_state(l->event)) {
        case SD_EVENT_INITIAL: {
                int r = sd_event_prepare(l->event);
                return !event_failed(l, "prepare", r) && r > 0;
        }
        case SD_EVENT_PENDING:
                return TRUE;
        default:
                return FALSE;
        }
}

static gboolean event_source_check(GSource *source)
{
        Loop *l = ((EventSource *)source)->loop;
        int r;

        if (sd_event_get_state(l->event) != SD_EVENT_ARMED)
                return sd_event_get_state(l->event) == SD_EVENT_PENDING;
        r = sd_event_wait(l->event, 0);
        return !event_failed(l, "wait", r) && r > 0;
}

static gboolean event_source_dispatch(GSource *source, GSourceFunc callback, gpointer userdata)
{
        Loop *l = ((EventSource *)source)->loop;
        int r = sd_event_dispatch(l->event);

        for (int i = 1; r > 0 && i < DISPATCH_MAX; i++) {
                r = sd_event_prepare(l->event);
                if (r == 0)
                        r = sd_event_wait(l->event, 0);
                if (r <= 0)
                        break;
                r = sd_event_dispatch(l->event);
        }
        if (event_failed(l, "dispatch", r))
                return G_SOURCE_REMOVE;
        return G_SOURCE_CONTINUE;
}

static GSourceFuncs event_source_funcs = {
        .prepare = event_source_prepare,
        .check = event_source_check,
        .dispatch = event_source_dispatch,
};

static gboolean on_terminate(gpointer userdata)
{
        loop_quit(userdata, EXIT_SUCCESS);
        return G_SOURCE_CONTINUE;
}

static gboolean on_hangup(gpointer userdata)
{
        Loop *l = userdata;

        if (l->reload) {
                (void)sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, fs_now_usec());
                l->reload(l->reload_userdata);
                (void)sd_notify(false, "READY=1");
        }
        return G_SOURCE_CONTINUE;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata);

int loop_new(Loop **ret)
{
        _cleanup_(loop_freep) Loop *l = NULL;
        int r;

        if (the_loop)
                return -EBUSY;
        l = g_new0(Loop, 1);
        l->epoll = -EBADF;
        r = sd_event_new(&l->event);
        if (r < 0)
                return r;
        r = sd_event_set_watchdog(l->event, true);
        if (r < 0)
                return r;
        l->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (l->epoll < 0)
                return -errno;
        r = sd_event_add_io(l->event, NULL, l->epoll, EPOLLIN, on_io, l);
        if (r < 0)
                return r;
        if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return -errno;

        l->main = g_main_loop_new(NULL, FALSE);
        l->source = g_source_new(&event_source_funcs, sizeof(EventSource));
        ((EventSource *)l->source)->loop = l;
        g_source_set_name(l->source, "sd-event");
        /* Otherwise GLib takes the descriptor out of its poll set for each dispatch and wakes itself up
         * twice. In a loop within the loop sd-event is "running", and prepare and check say no. */
        g_source_set_can_recurse(l->source, TRUE);
        g_source_add_unix_fd(l->source, sd_event_get_fd(l->event), G_IO_IN | G_IO_HUP | G_IO_ERR);
        g_source_attach(l->source, NULL);
        l->signals[0] = g_unix_signal_add(SIGTERM, on_terminate, l);
        l->signals[1] = g_unix_signal_add(SIGINT, on_terminate, l);
        l->signals[2] = g_unix_signal_add(SIGHUP, on_hangup, l);

        the_loop = l;
        *ret = TAKE(l);
        return 0;
}

Loop *loop_free(Loop *l)
{
        if (!l)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(l->signals); i++)
                if (l->signals[i] > 0)
                        g_source_remove(l->signals[i]);
        if (l->source) {
                g_source_destroy(l->source);
                g_source_unref(l->source);
        }
        if (l->main)
                g_main_loop_unref(l->main);
        sd_event_unref(l->event);
        l->epoll = fd_close(l->epoll);
        if (the_loop == l)
                the_loop = NULL;
        g_free(l);
        return NULL;
}

Loop *loop_default(void)
{
        return the_loop;
}

sd_event *loop_event(Loop *l)
{
        return l->event;
}

int loop_run(Loop *l)
{
        l->code = EXIT_SUCCESS;
        g_main_loop_run(l->main);
        (void)sd_notify(false, "STOPPING=1");
        return l->code;
}

void loop_quit(Loop *l, int code)
{
        /* The first failure is the one that is told. */
        if (l->code == EXIT_SUCCESS)
                l->code = code;
        g_main_loop_quit(l->main);
}

void loop_on_reload(Loop *l, void (*func)(void *userdata), void *userdata)
{
        l->reload = func;
        l->reload_userdata = userdata;
}

void loop_notify_ready(Loop *l, const char *status)
{
        (void)sd_notifyf(false, "%sSTATUS=%s", l->ready ? "" : "READY=1\n", status);
        l->ready = true;
}

/* sd-event asks for all descriptors that are ready and serves one of them, each time: with thousands that
 * are ready at once that grows with their square. So they have an epoll of their own, which sd-event sees as
 * one, and from which so many are served as the bus and the timers can wait for. */
static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
        struct epoll_event events[WATCHES_PER_TURN];
        Loop *l = userdata;
        int n = epoll_wait(l->epoll, events, WATCHES_PER_TURN, 0);

        for (int i = 0; i < n; i++)
                l->turn[i] = events[i].data.ptr;
        l->n_turn = MAX(n, 0);
        for (int i = 0; i < n; i++)
                if (l->turn[i])
                        l->turn[i]->func(l->turn[i]->userdata, events[i].events);
        l->n_turn = 0;
        return 0;
}

LoopWatch *loop_watch_new(Loop *l, int fd, uint32_t events, LoopWatchFunc func, void *userdata)
{
        LoopWatch *w = g_new0(LoopWatch, 1);
        struct epoll_event e = { .events = events, .data.ptr = w };

        *w = (LoopWatch){ .loop = l, .fd = -EBADF, .func = func, .userdata = userdata, .events = events };
        if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e) < 0)
                return loop_watch_free(w);
        w->fd = fd;
        return w;
}

LoopWatch *loop_watch_free(LoopWatch *w)
{
        if (!w)
                return NULL;
        if (w->fd >= 0)
                (void)epoll_ctl(w->loop->epoll, EPOLL_CTL_DEL, w->fd, NULL);
        for (int i = 0; i < w->loop->n_turn; i++)
                if (w->loop->turn[i] == w)
                        w->loop->turn[i] = NULL;
        g_free(w);
        return NULL;
}

void loop_watch_set_events(LoopWatch *w, uint32_t events)
{
        struct epoll_event e = { .events = events, .data.ptr = w };

        if (w->events == events)
                return;
        if (epoll_ctl(w->loop->epoll, EPOLL_CTL_MOD, w->fd, &e) >= 0)
                w->events = events;
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata)
{
        LoopTimer *t = userdata;

        t->func(t->userdata);
        return 0;
}

LoopTimer *loop_timer_new(Loop *l, LoopTimerFunc func, void *userdata)
{
        LoopTimer *t = g_new0(LoopTimer, 1);

        *t = (LoopTimer){ .func = func, .userdata = userdata };
        if (sd_event_add_time(l->event, &t->source, CLOCK_MONOTONIC, USEC_INFINITY, 0, on_time, t) < 0)
                return loop_timer_free(t);
        (void)sd_event_source_set_enabled(t->source, SD_EVENT_OFF);
        return t;
}

LoopTimer *loop_timer_free(LoopTimer *t)
{
        if (!t)
                return NULL;
        sd_event_source_disable_unref(t->source);
        g_free(t);
        return NULL;
}

void loop_timer_set(LoopTimer *t, uint64_t at_usec, uint64_t slack_usec)
{
        if (at_usec == USEC_INFINITY) {
                (void)sd_event_source_set_enabled(t->source, SD_EVENT_OFF);
                return;
        }
        (void)sd_event_source_set_time(t->source, at_usec);
        (void)sd_event_source_set_time_accuracy(t->source, MAX(slack_usec, 1u));
        (void)sd_event_source_set_enabled(t->source, SD_EVENT_ONESHOT);
}
