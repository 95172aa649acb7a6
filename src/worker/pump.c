/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * poll(2) over the socket, two nonblocking pipes and what the transfer's own end waits for. A pipe that was
 * found full or empty is left alone until poll(2) has seen it change; while there is work, poll(2) is only
 * asked in passing, so that bulk costs a read and a write for each buffer and little else.
 */

#include "worker/pump.h"

#include <fcntl.h>
#include <poll.h>

#include "base/base.h"
#include "base/fs.h"
#include "proto/message.h"

#define BUFFER_BYTES (256u * 1024)
#define PROGRESS_USEC (100 * USEC_PER_MSEC)
#define LOOK_USEC (10 * USEC_PER_MSEC)

typedef struct Pump {
        const PumpOps *ops;
        void *userdata;
        uint8_t in[BUFFER_BYTES], out[BUFFER_BYTES];
        size_t in_start, in_end, out_start, out_end;
        bool in_ended, out_broken, all_said;
        bool in_empty, out_full; /* until poll(2) says otherwise */
        uint64_t progress_usec, looked_usec;
} Pump;

int pump_check(void)
{
        json_object *o;
        int r = link_receive(false, &o);

        if (r == -EAGAIN)
                return 0;
        if (r < 0)
                return r;
        r = str_eq(message_str(o, "do", ""), "cancel") ? -ECANCELED : 0;
        json_object_put(o);
        return r;
}

/* Each returns 1 if something moved, 0, or -errno. */
static int move_in(Pump *p)
{
        int moved = 0;
        ssize_t n;

        if (p->in_start == p->in_end && !p->in_ended && !p->in_empty) {
                n = read(LINK_IN_FD, p->in, sizeof p->in);
                if (n == 0)
                        p->in_ended = true;
                else if (n < 0 && errno != EAGAIN && errno != EINTR)
                        return -EPIPE;
                p->in_empty = n < 0;
                p->in_start = 0;
                p->in_end = n > 0 ? (size_t)n : 0;
                moved = n >= 0;
        }
        if (p->in_start < p->in_end) {
                n = p->ops->feed(p->userdata, p->in + p->in_start, p->in_end - p->in_start);
                if (n < 0)
                        return (int)n;
                p->in_start += (size_t)n;
                moved |= n > 0;
        }
        return moved;
}

static int move_out(Pump *p)
{
        int moved = 0;
        ssize_t n;

        if (p->out_start == p->out_end && !p->all_said) {
                n = p->ops->fill(p->userdata, p->out, sizeof p->out);
                p->all_said = n == -ENODATA;
                p->out_start = 0;
                p->out_end = n > 0 ? (size_t)n : 0;
                moved = n != 0;
        }
        if (p->out_start < p->out_end && !p->out_broken && !p->out_full) {
                n = write(LINK_OUT_FD, p->out + p->out_start, p->out_end - p->out_start);
                if (n < 0 && errno != EAGAIN && errno != EINTR)
                        p->out_broken =
                                true; /* what the other side said last may still be in the other pipe */
                if (n > 0) {
                        p->out_start += (size_t)n;
                        moved = 1;
                }
                p->out_full = p->out_start < p->out_end && !p->out_broken;
        }
        return moved;
}

/* 0; -ECANCELED, -ECONNRESET: hostd said so */
static int look(Pump *p, int timeout_msec)
{
        struct pollfd fds[5] = { { .fd = LINK_FD, .events = POLLIN } };
        int read_fd = -1, write_fd = -1;

        p->ops->wait_on(p->userdata, &read_fd, &write_fd);
        fds[1] = (struct pollfd){ .fd = p->in_empty && !p->in_ended ? LINK_IN_FD : -1, .events = POLLIN };
        fds[2] = (struct pollfd){ .fd = p->out_full ? LINK_OUT_FD : -1, .events = POLLOUT };
        fds[3] = (struct pollfd){ .fd = p->out_full ? -1 : read_fd, .events = POLLIN };
        fds[4] = (struct pollfd){ .fd = write_fd, .events = POLLOUT };
        if (poll(fds, ELEMENTSOF(fds), timeout_msec) <= 0)
                return 0;
        if (fds[1].revents)
                p->in_empty = false;
        if (fds[2].revents)
                p->out_full = false;
        return fds[0].revents ? pump_check() : 0;
}

static void tell_progress(Pump *p, uint64_t now)
{
        json_object *o;

        if (now - p->progress_usec < PROGRESS_USEC)
                return;
        p->ops->tell(p->userdata);
        o = p->ops->progress(p->userdata);
        if (!o)
                return;
        p->progress_usec = now;
        link_send(o);
}

int pump_run(const PumpOps *ops, void *userdata)
{
        Pump *p = calloc(1, sizeof *p);
        int r = p ? 0 : -EPIPE;

        if (p) {
                p->ops = ops;
                p->userdata = userdata;
        }
        (void)fcntl(LINK_IN_FD, F_SETFL, O_NONBLOCK | (fcntl(LINK_IN_FD, F_GETFL) & ~O_ACCMODE));
        (void)fcntl(LINK_OUT_FD, F_SETFL, O_NONBLOCK | (fcntl(LINK_OUT_FD, F_GETFL) & ~O_ACCMODE));
        while (r >= 0) {
                uint64_t now;
                int in, out;

                r = in = move_in(p);
                if (r < 0)
                        break;
                r = out = move_out(p);
                if (r < 0)
                        break;
                now = fs_now_usec();
                tell_progress(p, now);
                if (ops->is_done(userdata) &&
                    (p->out_broken || (p->all_said && p->out_start == p->out_end))) {
                        r = 0;
                        break;
                }
                if (p->in_ended && p->in_start == p->in_end && !ops->is_done(userdata)) {
                        r = -EPIPE;
                        break;
                }
                if (!in && !out)
                        r = look(p, -1);
                else if (now - p->looked_usec >= LOOK_USEC) {
                        r = look(p, 0);
                        p->looked_usec = now;
                }
        }
        free(p);
        return r;
}
