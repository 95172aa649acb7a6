/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See lane.h. The common case moves no byte: a DATA frame's body goes to the endpoint straight from the
 * parser.
 */

#include "base/base.h"
#include "carrier/lane.h"

#define KEPT_MIN 32768u

Lane *lane_new(uint32_t id, const EndpointOps *ops, void *userdata)
{
        Lane *l = calloc(1, sizeof(*l));

        if (!l)
                return NULL;
        *l = (Lane){ .id = id, .ops = ops, .userdata = userdata, .fill_fd = -1, .drain_fd = -1 };
        return l;
}

Lane *lane_free(Lane *l)
{
        if (!l)
                return NULL;
        free(l->kept);
        free(l);
        return NULL;
}

static void lane_ask_waits(Lane *l, int *ret_fill, int *ret_drain)
{
        *ret_fill = *ret_drain = -1;
        if (l->ops->wait_on)
                l->ops->wait_on(l->userdata, ret_fill, ret_drain);
}

/* Something happened: waits that stand for no descriptor, or for another one by now, are over. */
static void lane_stir(Lane *l)
{
        int fill_fd, drain_fd;

        if (!l->fill_waits && !l->drain_waits)
                return;
        lane_ask_waits(l, &fill_fd, &drain_fd);
        if (l->fill_waits && (fill_fd < 0 || fill_fd != l->fill_fd))
                l->fill_waits = false;
        if (l->drain_waits && (drain_fd < 0 || drain_fd != l->drain_fd))
                l->drain_waits = false;
}

ssize_t lane_fill(Lane *l, uint8_t *buf, size_t n, WireError *ret_error, const char **ret_text)
{
        ssize_t r = l->ops->fill(l->userdata, buf, n, ret_error, ret_text);
        int drain_fd;

        if (r == -EAGAIN)
                return 0;
        if (r == 0) {
                l->fill_waits = true;
                lane_ask_waits(l, &l->fill_fd, &drain_fd);
        } else if (r > 0)
                lane_stir(l);
        return r;
}

static int lane_keep(Lane *l, const uint8_t *data, size_t n)
{
        size_t size = l->kept_size;
        uint8_t *p;

        if (n > STREAM_CREDIT - l->n_kept)
                return -EXFULL;
        if (l->kept_start > 0 && l->kept_start + l->n_kept + n > size) {
                memmove(l->kept, l->kept + l->kept_start, l->n_kept);
                l->kept_start = 0;
        }
        while (size < l->n_kept + n)
                size = size == 0 ? KEPT_MIN : size * 2;
        if (size > l->kept_size) {
                p = realloc(l->kept, size);
                if (!p)
                        return -ENOMEM;
                l->kept = p;
                l->kept_size = size;
        }
        memcpy(l->kept + l->kept_start + l->n_kept, data, n);
        l->n_kept += n;
        return 0;
}

static ssize_t lane_offer(Lane *l, const uint8_t *data, size_t n, WireError *ret_error,
                          const char **ret_text)
{
        size_t taken = 0;
        bool soon = false;
        int fill_fd;

        while (taken < n && !l->is_deaf) {
                ssize_t r = l->ops->drain(l->userdata, data + taken, n - taken, ret_error, ret_text);

                if (r == -EPIPE) {
                        l->is_deaf = true;
                        break;
                }
                if (r == -EAGAIN) {
                        soon = true;
                        break;
                }
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
                taken += (size_t)r;
        }
        if (l->is_deaf)
                taken = n;
        if (taken > 0)
                lane_stir(l);
        if (taken < n && !soon) {
                l->drain_waits = true;
                lane_ask_waits(l, &fill_fd, &l->drain_fd);
                /* It may have to say something before it takes more. */
                if (l->fill_fd < 0)
                        l->fill_waits = false;
        }
        return (ssize_t)taken;
}

int lane_drain(Lane *l, const uint8_t *data, size_t n, size_t *ret_taken, WireError *ret_error,
               const char **ret_text)
{
        ssize_t taken = 0;

        *ret_taken = 0;
        if (l->n_kept == 0) {
                taken = lane_offer(l, data, n, ret_error, ret_text);
                if (taken < 0)
                        return (int)taken;
                *ret_taken = (size_t)taken;
        }
        return (size_t)taken < n ? lane_keep(l, data + taken, n - (size_t)taken) : 0;
}

int lane_drain_kept(Lane *l, size_t *ret_taken, WireError *ret_error, const char **ret_text)
{
        ssize_t r;

        *ret_taken = 0;
        r = lane_offer(l, l->kept + l->kept_start, l->n_kept, ret_error, ret_text);
        if (r < 0)
                return (int)r;
        l->kept_start += (size_t)r;
        l->n_kept -= (size_t)r;
        if (l->n_kept == 0)
                l->kept_start = 0;
        *ret_taken = (size_t)r;
        return 0;
}

void lane_tell_end(Lane *l)
{
        if (!l->eof_received || l->n_kept > 0 || l->end_told)
                return;
        l->end_told = true;
        l->ops->end(l->userdata);
        lane_stir(l);
}

bool lane_is_over(const Lane *l)
{
        return l->eof_sent && l->end_told;
}

bool lane_wants_fill(const Lane *l)
{
        return !l->is_dead && !l->fill_ended && !l->fill_waits;
}

bool lane_wants_drain(const Lane *l)
{
        return !l->is_dead && l->n_kept > 0 && !l->drain_waits;
}

size_t lane_poll(const Lane *l, struct pollfd *ret)
{
        size_t n = 0;

        if (l->is_dead)
                return 0;
        if (l->fill_waits && l->fill_fd >= 0)
                ret[n++] = (struct pollfd){ .fd = l->fill_fd, .events = POLLIN };
        if (l->drain_waits && l->drain_fd >= 0)
                ret[n++] = (struct pollfd){ .fd = l->drain_fd, .events = POLLOUT };
        return n;
}

void lane_polled(Lane *l, const struct pollfd *p)
{
        if (p->revents == 0)
                return;
        if (p->events & POLLIN)
                l->fill_waits = false;
        else
                l->drain_waits = false;
}
