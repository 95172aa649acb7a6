/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See carry-link.h. A packet is whole or not there at all; that is SOCK_SEQPACKET's promise.
 */

#include "guestd/carry-link.h"

#include <poll.h>
#include <sys/socket.h>

#define DESCRIPTORS_MAX 2u

int carry_link_new(int ret_fds[2])
{
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret_fds) < 0)
                return -errno;
        return 0;
}

int carry_link_send(int fd, CarryPacket *p, int read_fd, int write_fd, bool wait)
{
        union {
                char buf[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
                struct cmsghdr align;
        } control = { 0 };
        struct iovec iov = { .iov_base = p, .iov_len = offsetof(CarryPacket, text) + strlen(p->text) + 1 };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        int fds[DESCRIPTORS_MAX];
        size_t n_fds = 0;

        p->has_read_fd = read_fd >= 0;
        p->has_write_fd = write_fd >= 0;
        if (read_fd >= 0)
                fds[n_fds++] = read_fd;
        if (write_fd >= 0)
                fds[n_fds++] = write_fd;
        if (n_fds > 0) {
                msg.msg_control = control.buf;
                msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                control.align.cmsg_level = SOL_SOCKET;
                control.align.cmsg_type = SCM_RIGHTS;
                control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
        }
        while (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0) {
                struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };

                if (errno == EINTR)
                        continue;
                if (errno == EPIPE)
                        return -ECONNRESET;
                if (errno != EAGAIN || !wait)
                        return -errno;
                if (poll(&poll_fd, 1, -1) < 0 && errno != EINTR)
                        return -errno;
        }
        return 0;
}

int carry_link_receive(int fd, CarryPacket *ret, int *ret_read_fd, int *ret_write_fd)
{
        union {
                char buf[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
                struct cmsghdr align;
        } control;
        struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
        struct msghdr msg = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = control.buf,
                .msg_controllen = sizeof(control.buf),
        };
        int fds[DESCRIPTORS_MAX] = { -EBADF, -EBADF };
        struct cmsghdr *c;
        ssize_t n;

        do
                n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n <= (ssize_t)offsetof(CarryPacket, text))
                return -ECONNRESET;
        c = CMSG_FIRSTHDR(&msg);
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                memcpy(fds, CMSG_DATA(c), MIN(c->cmsg_len - CMSG_LEN(0), sizeof(fds)));
        *ret_read_fd = ret->has_read_fd ? fds[0] : -EBADF;
        *ret_write_fd = ret->has_write_fd ? fds[ret->has_read_fd ? 1 : 0] : -EBADF;
        return 1;
}
