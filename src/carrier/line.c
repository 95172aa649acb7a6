/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Leans on Linux drivers/char/virtio_console.c: read() = 0 is "no client", not an end; POLLHUP without
 * POLLIN is "device gone"; POLLIN | POLLHUP is level-triggered for as long as no client is there, so that
 * state is slept through on an epoll descriptor with EPOLLET; a write takes at most 32 KiB, in one kmalloc
 * that may fail. And on QEMU's chardev/char-socket.c: hanging up loses what it has not read, while
 * shutdown(SHUT_WR) does not.
 */

#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/fs.h"
#include "carrier/line.h"

#define DEVICE_WRITE_MAX 32768u
#define DEVICE_WRITE_SMALL 4096u /* one page is there when 32 KiB in one piece are not */

int line_init(Line *l, int fd, bool is_device)
{
        struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };

        *l = (Line){ .fd = fd, .watch_fd = -EBADF, .readable = true, .writable = true };
        if (!is_device)
                return 0;
        l->watch_fd = epoll_create1(EPOLL_CLOEXEC);
        if (l->watch_fd < 0 || epoll_ctl(l->watch_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
                int r = -errno;
                line_done(l);
                return r;
        }
        return 0;
}

void line_done(Line *l)
{
        l->watch_fd = fd_close(l->watch_fd);
        l->fd = fd_close(l->fd);
        l->readable = l->writable = false;
}

static bool line_is_device(const Line *l)
{
        return l->watch_fd >= 0;
}

ssize_t line_read(Line *l, uint8_t *buf, size_t n)
{
        ssize_t r;

        do
                r = line_is_device(l) ? read(l->fd, buf, n) : recv(l->fd, buf, n, MSG_DONTWAIT);
        while (r < 0 && errno == EINTR);
        if (r > 0) {
                l->is_absent = false;
                /* A socket that gave less than was asked is empty; a device gives a page at a time. */
                if (!line_is_device(l) && (size_t)r < n)
                        l->readable = false;
                return r;
        }
        l->readable = false;
        if (r == 0) {
                if (!line_is_device(l))
                        return -ECONNRESET;
                l->is_absent = true;
                return 0;
        }
        if (errno != EAGAIN)
                return -ECONNRESET;
        l->is_absent = false;
        return 0;
}

ssize_t line_write(Line *l, const uint8_t *buf, size_t n)
{
        ssize_t r;

        if (line_is_device(l))
                n = MIN(n, DEVICE_WRITE_MAX);
        for (;;) {
                r = line_is_device(l) ? write(l->fd, buf, n)
                                      : send(l->fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (r >= 0)
                        break;
                if (errno == EINTR)
                        continue;
                if (errno == ENOMEM && n > DEVICE_WRITE_SMALL) {
                        n = DEVICE_WRITE_SMALL;
                        continue;
                }
                if (errno != EAGAIN && errno != ENOMEM && errno != ENOBUFS)
                        return -ECONNRESET;
                r = 0;
                break;
        }
        if (r == 0 || (!line_is_device(l) && (size_t)r < n))
                l->writable = false;
        return r;
}

void line_poll(const Line *l, bool want_write, struct pollfd *ret)
{
        if (l->is_absent)
                *ret = (struct pollfd){ .fd = l->watch_fd, .events = POLLIN };
        else
                *ret = (struct pollfd){ .fd = l->fd,
                                        .events = (short)(POLLIN | (want_write ? POLLOUT : 0)) };
}

int line_polled(Line *l, const struct pollfd *p)
{
        struct epoll_event event;

        if (p->revents == 0)
                return 0;
        if (p->fd == l->watch_fd) {
                if (epoll_wait(l->watch_fd, &event, 1, 0) <= 0)
                        return 0;
                if ((event.events & EPOLLHUP) && !(event.events & EPOLLIN))
                        return -ECONNRESET;
                l->readable = l->writable = true;
                return 0;
        }
        if (line_is_device(l) && (p->revents & POLLHUP) && !(p->revents & POLLIN))
                return -ECONNRESET;
        if (p->revents & (POLLIN | POLLHUP | POLLERR))
                l->readable = true;
        if (p->revents & (POLLOUT | POLLERR))
                l->writable = true;
        return 0;
}

void line_shutdown(Line *l, uint64_t timeout_usec)
{
        uint64_t deadline = fs_now_usec() + timeout_usec;
        uint8_t buf[4096];

        if (line_is_device(l) || shutdown(l->fd, SHUT_WR) < 0)
                return;
        for (;;) {
                struct pollfd p = { .fd = l->fd, .events = POLLIN };
                uint64_t now = fs_now_usec();

                if (now >= deadline)
                        return;
                if (poll(&p, 1, (int)((deadline - now) / USEC_PER_MSEC) + 1) <= 0)
                        continue;
                if (line_read(l, buf, sizeof(buf)) < 0)
                        return;
        }
}
