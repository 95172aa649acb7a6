/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The character device. While it is open, the only wake-ups are edges of its epoll descriptor; while it is
 * not there, inotify on /dev and a timer that backs off to ten seconds: a port's name reaches sysfs behind
 * its device node.
 */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/port.h"
#include "proto/limits.h"

#define RETRY_FIRST_USEC (20 * USEC_PER_MSEC)
#define RETRY_MAX_USEC (10 * USEC_PER_SEC)

struct Port {
        Loop *loop;
        char *spec;
        const PortOps *ops;
        void *userdata;
        int fd, watch_fd, inotify_fd;
        LoopFd *watch_source, *inotify_source;
        LoopTimer *retry;
        uint64_t retry_usec;
        int last_error; /* what was logged already */
};

static bool name_file_is(const char *class_dir, const char *device, const char *name)
{
        _cleanup_free_ char *path = NULL, *text = NULL;
        size_t n;

        if (asprintf(&path, "%s/%s/name", class_dir, device) < 0) {
                path = NULL;
                return false;
        }
        if (fs_read_file(path, 4096, &text, &n) < 0)
                return false;
        text[strcspn(text, "\n")] = '\0';
        return str_eq(text, name);
}

int port_find(const char *sysfs, const char *dev, const char *spec, char **ret_node)
{
        if (spec[0] == '/') {
                *ret_node = strdup(spec);
                return *ret_node ? 0 : -ENOMEM;
        }

        _cleanup_free_ char *class_dir = NULL;
        if (asprintf(&class_dir, "%s/class/virtio-ports", sysfs) < 0) {
                class_dir = NULL;
                return -ENOMEM;
        }
        DIR *d = opendir(class_dir);
        if (!d)
                return errno == ENOMEM ? -ENOMEM : -ENOENT;
        int r = -ENOENT;
        for (struct dirent *e; r == -ENOENT && (e = readdir(d));) {
                if (e->d_name[0] == '.' || !name_file_is(class_dir, e->d_name, spec))
                        continue;
                char *node;
                r = -ENOMEM;
                if (asprintf(&node, "%s/%s", dev, e->d_name) >= 0) {
                        *ret_node = node;
                        r = 0;
                }
        }
        (void)closedir(d);
        return r;
}

int port_open(const char *spec)
{
        _cleanup_free_ char *node = NULL;
        _cleanup_close_ int fd = -EBADF;
        struct stat st;

        int r = port_find("/sys", "/dev", spec, &node);
        if (r < 0)
                return r;
        fd = open(node, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        return S_ISCHR(st.st_mode) ? TAKE_FD(fd) : -ENXIO;
}

int port_watch_new(int port_fd)
{
        _cleanup_close_ int fd = epoll_create1(EPOLL_CLOEXEC);
        if (fd < 0)
                return -errno;
        struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
        if (epoll_ctl(fd, EPOLL_CTL_ADD, port_fd, &e) < 0)
                return -errno;
        return TAKE_FD(fd);
}

short port_watch_take(int watch_fd)
{
        struct epoll_event e;

        for (;;) {
                int n = epoll_wait(watch_fd, &e, 1, 0);
                if (n < 0 && errno == EINTR)
                        continue;
                /* EPOLLIN, EPOLLOUT, EPOLLERR and EPOLLHUP are poll(2)'s bits by definition of the kernel.
                 */
                return n == 1 ? (short)(e.events & (EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP)) : 0;
        }
}

PortPeer port_peer(short revents)
{
        if (!(revents & POLLHUP))
                return PORT_PEER_PRESENT;
        return revents & POLLIN ? PORT_PEER_ABSENT : PORT_UNPLUGGED;
}

static void port_close(Port *p)
{
        p->watch_source = loop_fd_free(p->watch_source);
        p->watch_fd = fd_close(p->watch_fd);
        p->fd = fd_close(p->fd);
}

static void port_stop_looking(Port *p)
{
        p->inotify_source = loop_fd_free(p->inotify_source);
        p->inotify_fd = fd_close(p->inotify_fd);
        loop_timer_set(p->retry, USEC_INFINITY);
        p->retry_usec = RETRY_FIRST_USEC;
}

static void on_watch(void *userdata, int fd, short revents)
{
        Port *p = userdata;

        short change = port_watch_take(fd);
        if (!change)
                return;
        if (port_peer(change) == PORT_UNPLUGGED)
                port_reopen(p, "unplugged");
        else
                p->ops->changed(p->userdata, change);
}

static void on_inotify(void *userdata, int fd, short revents)
{
        Port *p = userdata;
        char buf[4096] __attribute__((aligned(8)));
        bool is_ours = false;

        for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0;)
                for (const char *at = buf; at < buf + n;) {
                        const struct inotify_event *e = (const struct inotify_event *)at;
                        /* A device given by path may have any name. */
                        if (p->spec[0] == '/' || (e->len && str_has_prefix(e->name, "vport")))
                                is_ours = true;
                        at += sizeof(*e) + e->len;
                }
        if (is_ours) {
                p->retry_usec = RETRY_FIRST_USEC;
                loop_timer_set(p->retry, loop_now(p->loop) + RETRY_FIRST_USEC);
        }
}

static void port_watch_dev(Port *p)
{
        if (p->inotify_fd >= 0)
                return;
        _cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (fd < 0 || inotify_add_watch(fd, "/dev", IN_CREATE | IN_MOVED_TO) < 0)
                return; /* the timer alone finds it, later */
        if (loop_add_fd(p->loop, fd, POLLIN, on_inotify, p, &p->inotify_source) < 0)
                return;
        p->inotify_fd = TAKE_FD(fd);
}

static void port_explain(Port *p, int error)
{
        if (error == p->last_error)
                return;
        p->last_error = error;
        if (error == -ENOENT)
                log_notice("%s: no such port yet; waiting for it", p->spec);
        else if (error == -EBUSY)
                log_warning("%s: another process has this port open; trying again until it is free",
                            p->spec);
        else
                log_warning("%s: %s; trying again", p->spec, strerror(-error));
}

static int port_try(Port *p)
{
        _cleanup_close_ int fd = port_open(p->spec);
        if (fd < 0)
                return fd;
        _cleanup_close_ int watch_fd = port_watch_new(fd);
        if (watch_fd < 0)
                return watch_fd;
        int r = loop_add_fd(p->loop, watch_fd, POLLIN, on_watch, p, &p->watch_source);
        if (r < 0)
                return r;
        p->fd = TAKE_FD(fd);
        p->watch_fd = TAKE_FD(watch_fd);
        return 0;
}

static void on_retry(void *userdata)
{
        Port *p = userdata;

        if (p->fd >= 0)
                return;
        port_watch_dev(p);
        int r = port_try(p);
        if (r < 0) {
                port_explain(p, r);
                loop_timer_set(p->retry, loop_now(p->loop) + p->retry_usec);
                p->retry_usec = MIN(p->retry_usec * 2, RETRY_MAX_USEC);
                return;
        }
        port_stop_looking(p);
        p->last_error = 0;
        log_info("%s: open", p->spec);
        p->ops->opened(p->userdata);
}

int port_new(Loop *l, const char *spec, const PortOps *ops, void *userdata, Port **ret)
{
        _cleanup_(port_freep) Port *p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        *p = (Port){ .loop = l,
                     .ops = ops,
                     .userdata = userdata,
                     .fd = -EBADF,
                     .watch_fd = -EBADF,
                     .inotify_fd = -EBADF,
                     .retry_usec = RETRY_FIRST_USEC };
        p->spec = strdup(spec);
        if (!p->spec || loop_add_timer(l, on_retry, p, &p->retry) < 0)
                return -ENOMEM;
        *ret = TAKE(p);
        return 0;
}

Port *port_free(Port *p)
{
        if (!p)
                return NULL;
        port_close(p);
        p->inotify_source = loop_fd_free(p->inotify_source);
        p->inotify_fd = fd_close(p->inotify_fd);
        p->retry = loop_timer_free(p->retry);
        free(p->spec);
        free(p);
        return NULL;
}

void port_start(Port *p)
{
        loop_timer_set(p->retry, 0);
}

int port_fd(const Port *p)
{
        return p->fd;
}

void port_reopen(Port *p, const char *why)
{
        if (p->fd < 0)
                return;
        log_info("%s: %s; looking for it again", p->spec, why);
        port_close(p);
        p->ops->lost(p->userdata, why);
        p->retry_usec = RETRY_FIRST_USEC;
        loop_timer_set(p->retry, loop_now(p->loop) + RETRY_FIRST_USEC);
}
