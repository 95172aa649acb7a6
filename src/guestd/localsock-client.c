/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/localsock-private.h"

#include <poll.h>
#include <sys/socket.h>

#include "guestd/log.h"
#include "guestd/users.h"
#include "proto/message.h"

#define READ_BYTES 65536u
#define OUTPUT_PAUSE (64u * 1024) /* who has that much to read is not read from */

static void on_client(void *userdata, int fd, short revents);

LocalClient *local_client_free(LocalClient *c)
{
        if (!c)
                return NULL;
        c->source = loop_fd_free(c->source);
        (void)fd_close(c->fd);
        for (size_t i = 0; i < c->n_subscribed; i++)
                free(c->subscribed[i]);
        for (size_t i = 0; i < c->n_served; i++)
                free(c->served[i]);
        free(c->user);
        free(c->in);
        free(c->out);
        free(c);
        return NULL;
}

int local_client_accept(Localsock *l, int fd)
{
        _cleanup_close_ int own = fd;
        struct ucred peer;
        socklen_t n_peer = sizeof(peer);
        if (getsockopt(own, SOL_SOCKET, SO_PEERCRED, &peer, &n_peer) < 0)
                return -errno;
        size_t n_same = 0;
        for (size_t i = 0; i < l->n_clients; i++)
                n_same += l->clients[i]->uid == peer.uid;
        if (l->n_clients >= LOCALSOCK_CLIENTS_MAX ||
            (peer.uid != 0 && n_same >= LOCALSOCK_CLIENTS_PER_USER_MAX))
                return -ENOBUFS;
        LocalClient *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (LocalClient){ .owner = l, .fd = TAKE_FD(own), .uid = peer.uid };
        User user;
        if (users_find_uid(peer.uid, &user) == 0) {
                c->user = TAKE(user.name);
                user_done(&user);
        }
        int r = loop_add_fd(l->loop, c->fd, POLLIN, on_client, c, &c->source);
        if (r < 0) {
                (void)local_client_free(c);
                return r;
        }
        l->clients[l->n_clients++] = c;
        return 0;
}

void local_client_drop(LocalClient *c)
{
        if (c->fd < 0)
                return;
        c->source = loop_fd_free(c->source);
        c->fd = fd_close(c->fd);
        c->n_in = c->n_out = 0;
        c->is_parked = false;
        localsock_client_gone(c->owner, c);
}

/* It hears nothing any more; what it said before that counts. */
static void client_deafen(LocalClient *c)
{
        if (c->is_deaf)
                return;
        c->is_deaf = true;
        c->n_out = 0;
        localsock_client_deaf(c->owner, c);
}

static bool client_has_line(const LocalClient *c)
{
        return c->n_in > c->n_scanned && memchr(c->in + c->n_scanned, '\n', c->n_in - c->n_scanned);
}

/* It had too much to read when its lines had their turn. */
static bool client_is_behind(const LocalClient *c)
{
        return !c->is_parked && !c->is_ending && client_has_line(c);
}

/* Drops it if nothing is left to be done for it, else waits for what is. */
static void client_settle(LocalClient *c)
{
        if (c->fd < 0)
                return;
        bool is_over = c->is_eof && !client_has_line(c) && (c->is_deaf || c->n_asked == 0);
        if (c->n_out == 0 && (c->is_ending || is_over)) {
                local_client_drop(c);
                return;
        }
        bool reads = !c->is_parked && !c->is_ending && !c->is_eof && c->n_out < OUTPUT_PAUSE;
        bool writes = c->n_out > 0 || client_is_behind(c);
        loop_fd_set_events(c->source, (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0)));
}

static void client_flush(LocalClient *c)
{
        size_t n_sent = 0;
        while (n_sent < c->n_out) {
                ssize_t k = send(c->fd, c->out + n_sent, c->n_out - n_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0 && errno != EAGAIN) {
                        client_deafen(c);
                        n_sent = 0;
                        break;
                }
                if (k < 0)
                        break;
                n_sent += (size_t)k;
        }
        if (n_sent > 0) {
                memmove(c->out, c->out + n_sent, c->n_out - n_sent);
                c->n_out -= n_sent;
                c->stuck_since = 0;
        }
        if (c->n_out > 0 && c->stuck_since == 0)
                c->stuck_since = loop_now(c->owner->loop);
        if (c->n_out == 0 && c->n_out_allocated > OUTPUT_PAUSE) { /* give back what a burst took */
                free(c->out);
                c->out = NULL;
                c->n_out_allocated = 0;
        }
        client_settle(c);
}

bool local_client_hears(const LocalClient *c)
{
        return c->fd >= 0 && !c->is_deaf;
}

bool local_client_has_room(LocalClient *c, size_t n)
{
        if (c->n_out + n <= LOCALSOCK_OUTPUT_MAX)
                return true;
        if (c->stuck_since && loop_now(c->owner->loop) - c->stuck_since >= LOCALSOCK_STUCK_USEC) {
                log_warning("guestd.sock: a program of uid %u does not read: dropped", (unsigned)c->uid);
                local_client_drop(c);
        }
        return false;
}

static int out_reserve(LocalClient *c, size_t n)
{
        if (c->n_out + n <= c->n_out_allocated)
                return 0;
        size_t want = MAX(c->n_out + n, c->n_out_allocated * 2);
        char *out = realloc(c->out, want);
        if (!out)
                return -ENOMEM;
        c->out = out;
        c->n_out_allocated = want;
        return 0;
}

int local_client_say(LocalClient *c, json_object *o)
{
        size_t n = 0;
        const char *text = o ? json_object_to_json_string_length(
                                       o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n)
                             : NULL;
        int r = text ? 0 : -ENOMEM;
        if (r >= 0 && !local_client_hears(c))
                r = -ENOBUFS;
        if (r >= 0 && c->n_out + n + 1 > LOCALSOCK_OUTPUT_MAX + OUTPUT_PAUSE) {
                local_client_drop(c);
                r = -ENOBUFS;
        }
        if (r >= 0)
                r = out_reserve(c, n + 1);
        if (r >= 0) {
                memcpy(c->out + c->n_out, text, n);
                c->out[c->n_out + n] = '\n';
                c->n_out += n + 1;
                client_flush(c);
        }
        json_object_put(o);
        return r;
}

void local_client_end(LocalClient *c)
{
        c->is_ending = true;
        client_settle(c);
}

static void client_complain(LocalClient *c, const char *why)
{
        log_warning("guestd.sock: a program of uid %u is dropped: %s", (unsigned)c->uid, why);
        (void)local_client_say(c, message_error(WIRE_PROTOCOL, "%s", why));
        local_client_end(c);
}

static int client_line(LocalClient *c, const char *line, size_t n)
{
        _cleanup_(message_done) Message m = { 0 };
        int r = message_parse((const uint8_t *)line, n, &m);
        if (r == -ENOMEM)
                return 0;
        if (r < 0 || m.payload || m.n_payload) {
                client_complain(c, "a line is no JSON object");
                return 0;
        }
        return localsock_line(c->owner, c, m.json);
}

static void client_lines(LocalClient *c)
{
        size_t at = 0;
        c->is_parked = false;
        while (c->fd >= 0 && !c->is_ending && c->n_out < OUTPUT_PAUSE && c->n_in > at) {
                char *end = memchr(c->in + at + c->n_scanned, '\n', c->n_in - at - c->n_scanned);
                if (!end) {
                        c->n_scanned = c->n_in - at;
                        break;
                }
                size_t n = (size_t)(end - c->in) - at;
                c->n_scanned = 0;
                if (n > 0 && client_line(c, c->in + at, n) == -EAGAIN) {
                        c->is_parked = true;
                        break;
                }
                at += n + 1;
        }
        if (c->fd < 0)
                return;
        if (at > 0)
                memmove(c->in, c->in + at, c->n_in - at);
        c->n_in -= at;
        if (c->n_in > LOCALSOCK_LINE_MAX && c->n_scanned == c->n_in)
                client_complain(c, "a line is too long");
}

static void client_read(LocalClient *c)
{
        if (c->n_in_allocated - c->n_in < READ_BYTES / 4) {
                size_t want =
                        MIN(MAX(c->n_in_allocated * 2, READ_BYTES / 4), LOCALSOCK_LINE_MAX + READ_BYTES);
                char *in = realloc(c->in, want);
                if (!in)
                        return;
                c->in = in;
                c->n_in_allocated = want;
        }
        ssize_t n = recv(c->fd, c->in + c->n_in, c->n_in_allocated - c->n_in, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n < 0) /* it left without having read all, which is told behind what it wrote */
                client_deafen(c);
        if (n <= 0)
                c->is_eof = true;
        else
                c->n_in += (size_t)n;
}

void local_client_turn(LocalClient *c)
{
        client_lines(c);
        client_settle(c);
}

static void on_client(void *userdata, int fd, short revents)
{
        LocalClient *c = userdata;
        if (revents & (POLLERR | POLLHUP) && !(revents & POLLIN))
                client_deafen(c);
        else if (revents & POLLOUT)
                client_flush(c);
        if (c->fd >= 0 && client_is_behind(c))
                client_lines(c);
        if (c->fd >= 0 && revents & POLLIN && !c->is_parked && !c->is_ending && !c->is_eof &&
            c->n_out < OUTPUT_PAUSE) {
                client_read(c);
                client_lines(c);
        }
        client_settle(c);
}
