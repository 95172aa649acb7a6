/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "base/base.h"

#define PULLS_MAX 16

struct Port {
        Guest *guest;
        SessionPort kind;
        int epoll, listener, fd;
        Session *session;
        uint8_t *rest; /* of a frame that the socket did not take; malloc'ed */
        size_t n_rest, n_rest_done;
        uint32_t events;
        Pull pulls[PULLS_MAX]; /* stream 0: free */
        uint64_t due;          /* latency: when what has come is looked at; 0: at once */
        Port *next_delayed;
};

static Port *delayed, **last_delayed = &delayed; /* in the order in which they are due */

uint64_t port_now_usec(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* Whether one in a million / n happens; from a seed, so that a run can be had again. */
static bool happens(Manners *m, uint32_t n)
{
        if (n == 0)
                return false;
        m->random = m->random * 6364136223846793005u + 1442695040888963407u;
        return (m->random >> 33) % 1000000 < n;
}

static void random_bytes(void *userdata, void *buf, size_t n)
{
        while (getrandom(buf, n, 0) != (ssize_t)n)
                ;
}

static void watch(Port *p, uint32_t events)
{
        struct epoll_event e = { .events = events, .data.ptr = p };

        if (p->events == events)
                return;
        p->events = events;
        (void)epoll_ctl(p->epoll, EPOLL_CTL_MOD, p->fd >= 0 ? p->fd : p->listener, &e);
}

int port_new(Guest *g, SessionPort kind, const char *path, int epoll, Port **ret)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        Port *p = calloc(1, sizeof(*p));
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = p };
        int r;

        if (!p)
                return -ENOMEM;
        *p = (Port){ .guest = g, .kind = kind, .epoll = epoll, .fd = -EBADF, .events = EPOLLIN };
        (void)unlink(path);
        (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
        p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (p->listener < 0 || bind(p->listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
            listen(p->listener, 1) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, p->listener, &e) < 0) {
                r = -errno;
                port_free(p);
                return r;
        }
        *ret = p;
        return 0;
}

Port *port_free(Port *p)
{
        if (!p)
                return NULL;
        port_hang_up(p);
        if (p->listener >= 0)
                (void)close(p->listener);
        free(p);
        return NULL;
}

/* Like QEMU: one client, the next one waits. */
void port_hang_up(Port *p)
{
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = p };

        if (p->fd < 0)
                return;
        (void)close(p->fd);
        p->fd = -EBADF;
        p->session = session_free(p->session);
        free(p->rest);
        p->rest = NULL;
        p->n_rest = p->n_rest_done = 0;
        memset(p->pulls, 0, sizeof(p->pulls));
        p->events = EPOLLIN;
        (void)epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->listener, &e);
}

static void take_client(Port *p)
{
        SessionConfig config = {
                .role = SESSION_GUEST, .port = p->kind, .hello = p->guest->hello, .random = random_bytes
        };
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = p };
        int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0)
                return;
        (void)epoll_ctl(p->epoll, EPOLL_CTL_DEL, p->listener, NULL);
        p->fd = fd;
        p->events = EPOLLIN;
        if (session_new(&config, &p->session) < 0 || epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &e) < 0) {
                port_hang_up(p);
                return;
        }
        session_open(p->session, port_now_usec());
        port_flush(p);
}

bool port_is_up(const Port *p)
{
        return p->session && session_is_up(p->session);
}

Guest *port_guest(const Port *p)
{
        return p->guest;
}

Session *port_session(Port *p)
{
        return p->session;
}

Pull *port_pull(Port *p, uint32_t stream)
{
        for (size_t i = 0; i < PULLS_MAX; i++)
                if (!p->pulls[i].stream || !session_stream_is_open(p->session, p->pulls[i].stream)) {
                        p->pulls[i] = (Pull){ .stream = stream };
                        return &p->pulls[i];
                }
        return NULL;
}

static bool write_out(Port *p, const uint8_t *data, size_t n)
{
        ssize_t k = send(p->fd, data, n, MSG_NOSIGNAL);

        if (k < 0 && errno != EAGAIN) {
                port_hang_up(p);
                return false;
        }
        k = k < 0 ? 0 : k;
        if ((size_t)k == n)
                return true;
        p->rest = malloc(n - (size_t)k);
        if (!p->rest) {
                port_hang_up(p);
                return false;
        }
        memcpy(p->rest, data + k, n - (size_t)k);
        p->n_rest = n - (size_t)k;
        p->n_rest_done = 0;
        watch(p, p->events | EPOLLOUT);
        return false;
}

/* One frame, as well as these guests do it. */
static bool write_frame(Port *p, const uint8_t *frame, size_t n)
{
        static uint8_t broken[FRAME_MAX];
        Manners *m = p->guest->manners;

        if (happens(m, m->n_close)) {
                port_hang_up(p);
                return false;
        }
        if (happens(m, m->n_drop))
                return true;
        if (happens(m, m->n_garble)) {
                memcpy(broken, frame, n);
                broken[m->random % n] ^= 0x20;
                return write_out(p, broken, n);
        }
        if (happens(m, m->n_half)) { /* as when the daemon was restarted in the middle of it */
                bool may_go_on = write_out(p, frame, n / 2);

                if (p->session)
                        session_open(p->session, port_now_usec());
                return may_go_on;
        }
        return write_out(p, frame, n);
}

static bool flush_rest(Port *p)
{
        while (p->n_rest_done < p->n_rest) {
                ssize_t k = send(p->fd, p->rest + p->n_rest_done, p->n_rest - p->n_rest_done, MSG_NOSIGNAL);

                if (k < 0 && errno == EAGAIN)
                        return false;
                if (k < 0) {
                        port_hang_up(p);
                        return false;
                }
                p->n_rest_done += (size_t)k;
        }
        free(p->rest);
        p->rest = NULL;
        p->n_rest = p->n_rest_done = 0;
        watch(p, p->events & ~(uint32_t)EPOLLOUT);
        return true;
}

void port_flush(Port *p)
{
        static uint8_t bulk[FRAME_MAX];
        const uint8_t *frame;
        size_t n;

        if (p->fd < 0 || !flush_rest(p))
                return;
        while (p->session && session_output_next(p->session, &frame, &n) > 0)
                if (!write_frame(p, frame, n))
                        return;
        for (size_t i = 0; p->session && i < PULLS_MAX; i++)
                while (p->session && p->pulls[i].stream &&
                       session_stream_is_open(p->session, p->pulls[i].stream) &&
                       (n = answer_pull_next(p->session, &p->pulls[i], bulk)) > 0)
                        if (!write_frame(p, bulk, n))
                                return;
}

static void read_in(Port *p)
{
        SessionEvent e;
        uint8_t *buf;
        size_t room;

        while (p->fd >= 0) {
                ssize_t n;

                session_input_space(p->session, &buf, &room);
                n = recv(p->fd, buf, room, 0);
                if (n < 0 && errno == EAGAIN)
                        break;
                if (n <= 0) {
                        port_hang_up(p);
                        return;
                }
                session_input_commit(p->session, (size_t)n, port_now_usec());
                while (p->session && session_next_event(p->session, &e) > 0)
                        answer_event(p, &e);
                port_flush(p);
        }
}

void port_on_event(Port *p)
{
        uint64_t latency = p->guest->manners->latency_usec;

        if (p->fd < 0) {
                take_client(p);
                return;
        }
        if (p->n_rest > 0)
                port_flush(p);
        if (latency == 0) {
                if (p->fd >= 0)
                        read_in(p);
                return;
        }
        if (p->due > 0 || p->fd < 0)
                return;
        p->due = port_now_usec() + latency;
        p->next_delayed = NULL;
        *last_delayed = p;
        last_delayed = &p->next_delayed;
        watch(p, p->events & ~(uint32_t)EPOLLIN);
}

uint64_t port_run_delayed(uint64_t now_usec)
{
        while (delayed && delayed->due <= now_usec) {
                Port *p = delayed;

                delayed = p->next_delayed;
                if (!delayed)
                        last_delayed = &delayed;
                p->due = 0;
                if (p->fd < 0)
                        continue;
                watch(p, p->events | EPOLLIN);
                read_in(p);
        }
        return delayed ? delayed->due : USEC_INFINITY;
}
