/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * An endpoint of plain descriptors: a process's stdio, a worker's pipes, a spool. One read or write a frame;
 * each half is closed as soon as it has ended, so that whoever is at its other end notices.
 */

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/base.h"
#include "carrier/carrier.h"

/* Room for a few frames, so that the carrier and its neighbour need not take turns for each. */
#define PIPE_SIZE (256 * 1024)

typedef struct EndpointFd {
        int in_fd, out_fd;
        bool in_is_tty; /* a terminal's master says EIO when its last process is gone */
        EndpointFdOpened on_opened;
        EndpointFdEnded on_ended;
        EndpointFdClosed on_closed;
        void *userdata;
        uint64_t n_in, n_out;
} EndpointFd;

static ssize_t endpoint_fd_fill(void *userdata, uint8_t *buf, size_t n, WireError *ret_error,
                                const char **ret_text)
{
        EndpointFd *e = userdata;
        ssize_t r = 0;
        int error = 0;

        if (e->in_fd >= 0) {
                do
                        r = read(e->in_fd, buf, n);
                while (r < 0 && errno == EINTR);
                error = r < 0 ? errno : 0;
        }
        if (r > 0) {
                e->n_in += (uint64_t)r;
                return r;
        }
        if (error == EAGAIN)
                return 0;
        if (e->in_fd != e->out_fd)
                (void)fd_close(e->in_fd);
        e->in_fd = -EBADF;
        if (error == 0 || (error == EIO && e->in_is_tty) || error == ECONNRESET)
                return -ENODATA;
        return -error;
}

static ssize_t endpoint_fd_drain(void *userdata, const uint8_t *data, size_t n, WireError *ret_error,
                                 const char **ret_text)
{
        EndpointFd *e = userdata;
        ssize_t r;

        if (e->out_fd < 0)
                return -EPIPE;
        do
                r = write(e->out_fd, data, n);
        while (r < 0 && errno == EINTR);
        if (r >= 0) {
                e->n_out += (uint64_t)r;
                return r;
        }
        if (errno == EAGAIN)
                return 0;
        /* The reader has left: a pipe or a socket, a terminal without processes. */
        if (errno != EPIPE && errno != ECONNRESET && !(errno == EIO && isatty(e->out_fd)))
                return -errno;
        if (!e->on_ended)
                return -EPIPE;
        *ret_error = WIRE_CANCELLED;
        *ret_text = "nobody reads it any more";
        return -ECANCELED;
}

static void endpoint_fd_end(void *userdata)
{
        EndpointFd *e = userdata;

        if (e->out_fd >= 0 && e->out_fd == e->in_fd)
                (void)shutdown(e->out_fd,
                               SHUT_WR); /* a terminal has no such thing: its end is not for us to make */
        else
                (void)fd_close(e->out_fd);
        e->out_fd = -EBADF;
        if (e->on_ended)
                e->on_ended(e->userdata);
}

static void endpoint_fd_wait_on(void *userdata, int *ret_fill_fd, int *ret_drain_fd)
{
        EndpointFd *e = userdata;

        *ret_fill_fd = e->in_fd;
        *ret_drain_fd = e->out_fd;
}

static void endpoint_fd_opened(void *userdata, json_object *reply)
{
        EndpointFd *e = userdata;

        if (e->on_opened)
                e->on_opened(e->userdata, reply);
}

static void endpoint_fd_closed(void *userdata, WireError error, const char *text, bool local)
{
        EndpointFd *e = userdata;

        if (e->out_fd != e->in_fd)
                (void)fd_close(e->out_fd);
        (void)fd_close(e->in_fd);
        if (e->on_closed)
                e->on_closed(e->userdata, error, text, local, e->n_in, e->n_out);
        free(e);
}

static const EndpointOps endpoint_fd_ops = {
        .fill = endpoint_fd_fill,
        .drain = endpoint_fd_drain,
        .end = endpoint_fd_end,
        .wait_on = endpoint_fd_wait_on,
        .opened = endpoint_fd_opened,
        .closed = endpoint_fd_closed,
};

static void endpoint_fd_prepare(int fd)
{
        int flags = fcntl(fd, F_GETFL);
        struct stat st;

        if (flags >= 0 && !(flags & O_NONBLOCK))
                (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
        /* May be refused, when many pipes have used up their owner's share: then it stays as it is. */
        if (fstat(fd, &st) >= 0 && S_ISFIFO(st.st_mode) && fcntl(fd, F_GETPIPE_SZ) < PIPE_SIZE)
                (void)fcntl(fd, F_SETPIPE_SZ, PIPE_SIZE);
}

int endpoint_fd_new(int in_fd, int out_fd, EndpointFdOpened on_opened, EndpointFdClosed on_closed,
                    void *userdata, const EndpointOps **ret_ops, void **ret_stream)
{
        EndpointFd *e = malloc(sizeof(*e));

        if (!e) {
                if (out_fd != in_fd)
                        (void)fd_close(out_fd);
                (void)fd_close(in_fd);
                return -ENOMEM;
        }
        *e = (EndpointFd){
                .in_fd = in_fd,
                .out_fd = out_fd,
                .in_is_tty = in_fd >= 0 && isatty(in_fd),
                .on_opened = on_opened,
                .on_closed = on_closed,
                .userdata = userdata,
        };
        if (in_fd >= 0)
                endpoint_fd_prepare(in_fd);
        if (out_fd >= 0)
                endpoint_fd_prepare(out_fd);
        *ret_ops = &endpoint_fd_ops;
        *ret_stream = e;
        return 0;
}

void endpoint_fd_watch(void *stream, EndpointFdEnded on_ended)
{
        EndpointFd *e = stream;

        e->on_ended = on_ended;
}
