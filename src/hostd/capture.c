/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/capture.h"

#include <glib-unix.h>
#include <sys/epoll.h>

struct Capture {
        int fd;
        size_t max;
        LoopWatch *watch; /* NULL: done */
        GByteArray *bytes;
        CaptureDone done;
        void *userdata;
};

static void on_readable(void *userdata, uint32_t events)
{
        static uint8_t buffer[65536];
        Capture *c = userdata;
        bool is_too_large;
        ssize_t n = read(c->fd, buffer, sizeof buffer);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        is_too_large = n > 0 && (size_t)n > c->max - c->bytes->len;
        if (n > 0 && !is_too_large) {
                g_byte_array_append(c->bytes, buffer, (guint)n);
                return;
        }
        c->watch = loop_watch_free(c->watch);
        c->fd = fd_close(c->fd);
        if (is_too_large)
                g_byte_array_set_size(c->bytes, 0);
        c->done(c->userdata, is_too_large);
}

Capture *capture_new(Loop *l, int fd, size_t max, CaptureDone done, void *userdata)
{
        Capture *c = g_new0(Capture, 1);

        *c = (Capture){
                .fd = fd, .max = max, .bytes = g_byte_array_new(), .done = done, .userdata = userdata
        };
        if (g_unix_set_fd_nonblocking(fd, TRUE, NULL))
                c->watch = loop_watch_new(l, fd, EPOLLIN, on_readable, c);
        return c->watch ? c : capture_free(c);
}

Capture *capture_free(Capture *c)
{
        if (!c)
                return NULL;
        loop_watch_free(c->watch);
        fd_close(c->fd);
        g_byte_array_unref(c->bytes);
        g_free(c);
        return NULL;
}

bool capture_is_done(const Capture *c)
{
        return !c->watch;
}

const uint8_t *capture_bytes(const Capture *c, size_t *ret_n)
{
        *ret_n = c->bytes->len;
        return c->bytes->data;
}
