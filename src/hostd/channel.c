/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The host's end of a channel. Leans on these: an AF_UNIX connect(2) succeeds as soon as it is queued;
 * SIOCOUTQ counts what the peer has not read; QEMU reads all before it answers a half-close, but drops the
 * tail at a close (chardev/char-socket.c, tcp_chr_hup).
 */

#include "hostd/channel.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <glib.h>

#include "base/fs.h"
#include "hostd/acceptance.h"
#include "hostd/loop.h"

#define FINISH_USEC (2 * USEC_PER_SEC)

struct Channel {
        int fd;
        ino_t inode;
        LoopWatch *watch;
        ChannelReady readable, writable;
        void *userdata;
        LoopTimer *deadline; /* finishing */
        bool is_accepted, is_held, wants_room;
        uint64_t connected_usec;
};

static unsigned n_waiting; /* channels that nobody has accepted yet */

static void set_events(Channel *c)
{
        loop_watch_set_events(c->watch, (c->is_held ? 0 : (uint32_t)EPOLLIN) |
                                                (c->wants_room ? (uint32_t)EPOLLOUT : 0));
}

static void on_ready(void *userdata, uint32_t events)
{
        Channel *c = userdata;

        if (events & EPOLLOUT) {
                c->wants_room = false;
                set_events(c);
                c->writable(c->userdata);
        }
        if (events & ~(uint32_t)EPOLLOUT)
                c->readable(c->userdata);
}

int channel_open(const char *path, ChannelReady readable, ChannelReady writable, void *userdata,
                 Channel **ret)
{
        _cleanup_(channel_freep) Channel *c = g_new0(Channel, 1);
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        struct stat st;

        *c = (Channel){ .fd = -EBADF, .readable = readable, .writable = writable, .userdata = userdata };
        n_waiting++;
        if (strlen(path) >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        memcpy(sa.sun_path, path, strlen(path));
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                return -errno;
        if (connect(c->fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
                return -errno;
        if (fstat(c->fd, &st) < 0)
                return -errno;
        c->inode = st.st_ino;
        c->watch = loop_watch_new(loop_default(), c->fd, EPOLLIN, on_ready, c);
        if (!c->watch)
                return -ENOMEM;
        c->connected_usec = fs_now_usec();
        *ret = TAKE(c);
        return 0;
}

Channel *channel_free(Channel *c)
{
        if (!c)
                return NULL;
        if (!c->is_accepted)
                n_waiting--;
        loop_timer_free(c->deadline);
        loop_watch_free(c->watch);
        c->fd = fd_close(c->fd);
        g_free(c);
        return NULL;
}

static void on_finish_readable(void *userdata)
{
        Channel *c = userdata;
        uint8_t buf[4096];
        ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                channel_free(c);
}

static void on_finish_deadline(void *userdata)
{
        channel_free(userdata);
}

void channel_finish(Channel *c)
{
        if (!c)
                return;
        c->deadline = loop_timer_new(loop_default(), on_finish_deadline, c);
        if (!c->deadline || shutdown(c->fd, SHUT_WR) < 0) {
                channel_free(c);
                return;
        }
        c->readable = c->writable = on_finish_readable;
        c->userdata = c;
        c->is_held = c->wants_room = false;
        set_events(c);
        loop_timer_set(c->deadline, fs_now_usec() + FINISH_USEC, FINISH_USEC / 10);
}

int channel_is_accepted(Channel *c)
{
        uint8_t byte;
        int r;

        if (c->is_accepted)
                return 1;
        /* Who speaks has accepted; that costs no look at all the sockets of the machine. */
        r = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
        if (r == 0)
                r = acceptance_look(c->inode, c->connected_usec, n_waiting);
        if (r != 0) {
                c->is_accepted = true;
                n_waiting--;
        }
        return r;
}

ssize_t channel_read(Channel *c, void *buf, size_t n)
{
        ssize_t k;

        do
                k = recv(c->fd, buf, n, MSG_DONTWAIT);
        while (k < 0 && errno == EINTR);
        if (k > 0)
                return k;
        if (k < 0 && errno == EAGAIN)
                return 0;
        return k == 0 ? -ECONNRESET : -errno;
}

ssize_t channel_write(Channel *c, const void *buf, size_t n)
{
        ssize_t k;

        do
                k = send(c->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (k < 0 && errno == EINTR);
        if (k < 0 && errno != EAGAIN)
                return errno == EPIPE ? -ECONNRESET : -errno;
        if (k < (ssize_t)n) {
                c->wants_room = true;
                set_events(c);
        }
        return MAX(k, 0);
}

void channel_hold(Channel *c, bool is_held)
{
        c->is_held = is_held;
        set_events(c);
}

bool channel_has_unread(const Channel *c)
{
        int n = 0;

        return ioctl(c->fd, SIOCOUTQ, &n) == 0 && n > 0;
}

bool channel_has_input(const Channel *c)
{
        struct pollfd p = { .fd = c->fd, .events = POLLIN };

        return poll(&p, 1, 0) > 0;
}
