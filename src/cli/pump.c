/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/pump.h"

#include <limits.h>
#include <sys/stat.h>

bool pump_is_over(const Pump *p)
{
        return p->ended || p->error != 0;
}

void pump_prepare(const Pump *p, struct pollfd *ret)
{
        *ret = (struct pollfd){ .fd = -1 };
        if (pump_is_over(p))
                return;
        if (p->n > p->offset)
                *ret = (struct pollfd){ .fd = p->out, .events = POLLOUT };
        else
                *ret = (struct pollfd){ .fd = p->in, .events = POLLIN };
}

void pump_close(Pump *p)
{
        if (p->owns_in)
                p->in = fd_close(p->in);
        if (p->owns_out)
                p->out = fd_close(p->out);
        free(TAKE(p->buffer));
        p->ended = true;
}

void pump_again(Pump *p, int in)
{
        pump_close(p);
        p->in = in;
        p->owns_in = true;
        p->ended = false;
        p->error = 0;
        p->n = p->offset = 0;
        p->skip = p->total;
}

static void pump_read(Pump *p)
{
        ssize_t l;

        if (!p->buffer) {
                p->buffer = malloc(PUMP_BUFFER);
                if (!p->buffer) {
                        p->error = ENOMEM;
                        return;
                }
        }
        l = read(p->in, p->buffer,
                 p->filter ? PUMP_BUFFER - 1 : PUMP_BUFFER); /* a filter may give back one byte more */
        if (l < 0) {
                if (errno == EIO && p->filter == NULL && isatty(p->in))
                        l = 0;
                else if (errno != EAGAIN && errno != EINTR) {
                        p->error = errno;
                        return;
                } else
                        return;
        }
        if (l > 0 && p->filter) {
                l = p->filter(p->userdata, p->buffer, (size_t)l);
                if (l == 0)
                        return;
        }
        if (l <= 0) {
                pump_close(p);
                return;
        }
        p->n = (size_t)l;
        p->offset = (size_t)MIN((uint64_t)l, p->skip);
        p->skip -= p->offset;
}

static void pump_break(Pump *p, int error)
{
        p->error = error;
        p->broken_out = true;
        if (p->owns_out)
                p->out = fd_close(p->out);
        if (p->owns_in)
                p->in = fd_close(p->in);
}

bool pump_is_stuck(const Pump *p)
{
        return !pump_is_over(p) && p->n > p->offset;
}

/* Of a pipe that is writable PIPE_BUF can be written without waiting. O_NONBLOCK would be set for all who
 * have this description, the shell among them. */
static bool pump_may_wait(const Pump *p)
{
        struct stat st;

        return !p->owns_out && (fstat(p->out, &st) < 0 || !S_ISREG(st.st_mode));
}

static size_t pump_room(const Pump *p, bool may_wait)
{
        struct pollfd polled = { .fd = p->out, .events = POLLOUT };
        size_t n = p->n - p->offset;

        if (n == 0 || !may_wait)
                return n;
        return poll(&polled, 1, 0) > 0 ? MIN(n, (size_t)PIPE_BUF) : 0;
}

void pump_step(Pump *p, const struct pollfd *polled)
{
        size_t n;

        if (pump_is_over(p) || polled->fd < 0 || polled->revents == 0)
                return;
        if (p->n == p->offset) {
                pump_read(p);
                if (pump_is_over(p) || p->n == p->offset)
                        return;
        }
        bool may_wait = pump_may_wait(p);
        while ((n = pump_room(p, may_wait)) > 0) {
                ssize_t l = write(p->out, p->buffer + p->offset, n);

                if (l < 0) {
                        if (errno != EAGAIN && errno != EINTR)
                                pump_break(p, errno);
                        return;
                }
                p->offset += (size_t)l;
                p->total += (uint64_t)l;
        }
}
