/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Driver of the control session. All I/O follows edges of the port, so both directions are worked until
 * EAGAIN or until a turn's share is used up. A client of the port that went away ends the session here and
 * now (the flags may be wrong in other ways, not in this one: another client says HELLO anyway); the fresh
 * HELLO_REQ waits in the session until a client makes the port writable.
 */

#include <stdarg.h>
#include <stdio.h>

#include "base/escape.h"
#include "base/fs.h"
#include "guestd/facts.h"
#include "guestd/host.h"
#include "guestd/log.h"
#include "guestd/port.h"

#define READS_PER_TURN 32u
#define WRITES_PER_TURN 32u
#define LEAVE_USEC (500 * USEC_PER_MSEC)
#define WRITE_RETRY_USEC (10 * USEC_PER_MSEC)

struct Host {
        Loop *loop;
        Port *port;
        const HostOps *ops;
        void *userdata;
        Session *session;
        json_object *hello; /* the session's, for its life */
        LoopTimer *again;   /* unfinished work, or the session's own deadline */
        LoopTimer *leaving;
        void (*left)(void *userdata);
        const uint8_t *frame; /* being written, in the session's own buffer */
        size_t n_frame;
        uint32_t generation; /* of sessions: the upper half of tokens */
        bool is_up, has_more, must_renew, working;
        bool is_cut;  /* a part of `frame` is out */
        bool is_mute; /* after host_leave(): a host that says HELLO now is to wait for our successor */
};

static void host_down(Host *h, const char *why)
{
        if (!h->is_up)
                return;
        h->is_up = false;
        h->generation++;
        log_notice("Host gone: %s", why);
        h->ops->down(h->userdata, why);
}

static void host_finish_leaving(Host *h)
{
        void (*left)(void *) = h->left;

        if (!left)
                return;
        h->left = NULL;
        h->is_mute = true;
        loop_timer_set(h->leaving, USEC_INFINITY);
        left(h->userdata);
}

static void on_leave_timeout(void *userdata)
{
        host_finish_leaving(userdata);
}

/* A new Session, because the facts of a handshake are fixed for a Session's life. */
static int host_open(Host *h)
{
        json_object *hello = h->ops->hello(h->userdata);
        if (!hello)
                return -ENOMEM;
        SessionConfig config = {
                .role = SESSION_GUEST, .port = SESSION_CONTROL, .hello = hello, .random = facts_random
        };
        Session *session;
        int r = session_new(&config, &session);
        if (r < 0) {
                (void)json_object_put(hello);
                return r;
        }
        h->session = session_free(h->session);
        (void)json_object_put(h->hello);
        h->session = session;
        h->hello = hello;
        h->frame = NULL;
        h->n_frame = 0;
        h->is_cut = false;
        session_open(session, loop_now(h->loop));
        return 0;
}

static void host_restart(Host *h, const char *why)
{
        h->must_renew = false;
        host_down(h, why);
        if (host_open(h) < 0 && h->session)
                session_open(h->session, loop_now(h->loop)); /* yesterday's facts are better than none */
        h->frame = NULL;
        h->n_frame = 0;
        h->is_cut = false;
        host_finish_leaving(h);
}

static void on_up(Host *h, const Message *m)
{
        const char *agent = message_str(m->json, "agent", "");
        _cleanup_free_ char *shown = escape_text(agent, strlen(agent), 64);

        h->is_up = true;
        h->generation++;
        log_notice("Host connected: %s", shown ? shown : "");
        h->ops->up(h->userdata, m->json);
}

static uint64_t token_of(const Host *h, uint32_t id)
{
        return (uint64_t)h->generation << 32 | id;
}

/* What was taken for writing before the host spoke anew is of no use to it, and would make it start over. */
static void host_drop_frame(Host *h)
{
        if (!h->is_cut)
                h->n_frame = 0;
}

static void on_event(Host *h, const SessionEvent *e)
{
        const char *method, *text;

        switch (e->type) {
        case SESSION_EVENT_UP:
                on_up(h, e->message);
                return;
        case SESSION_EVENT_DOWN:
                host_drop_frame(h);
                host_down(h, e->text);
                host_finish_leaving(h);
                return;
        case SESSION_EVENT_REQUEST:
                method = message_str(e->message->json, "method", NULL);
                if (!method)
                        host_refuse(h, token_of(h, e->id), WIRE_PROTOCOL, "The request names no method.");
                else if (h->is_up)
                        h->ops->request(h->userdata, token_of(h, e->id), method, e->message);
                return;
        case SESSION_EVENT_REPLY: {
                WireError error = message_get_error(e->message->json, &text);
                h->ops->reply(h->userdata, e->id, error, text, e->message);
                return;
        }
        case SESSION_EVENT_NOTIFY:
                method = message_str(e->message->json, "method", NULL);
                if (method)
                        h->ops->notify(h->userdata, method, e->message);
                return;
        case SESSION_EVENT_BYE:
                host_down(h, "it said goodbye");
                return;
        case SESSION_EVENT_BYE_ACK:
                host_finish_leaving(h);
                return;
        case SESSION_EVENT_HEARD:
                host_drop_frame(h);
                return;
        case SESSION_EVENT_INCOMPATIBLE:
        case SESSION_EVENT_PONG:
        case SESSION_EVENT_STREAM_OPEN:
        case SESSION_EVENT_STREAM_OPENED:
        case SESSION_EVENT_STREAM_DATA:
        case SESSION_EVENT_STREAM_EOF:
        case SESSION_EVENT_STREAM_RESET:
        case SESSION_EVENT_STREAM_ROOM:
                return;
        }
}

static void host_take_events(Host *h)
{
        SessionEvent e;

        while (!h->must_renew && session_next_event(h->session, &e) > 0)
                on_event(h, &e);
}

/* 0; -ENODEV: the port is gone, and so is everything that hung on it. */
static int host_write(Host *h)
{
        for (unsigned i = 0; i < WRITES_PER_TURN; i++) {
                if (!h->n_frame && !session_output_next(h->session, &h->frame, &h->n_frame))
                        return 0;
                ssize_t n = write(port_fd(h->port), h->frame, h->n_frame);
                if (n > 0) {
                        h->frame += n;
                        h->n_frame -= (size_t)n;
                        h->is_cut = h->n_frame > 0;
                        continue;
                }
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return 0; /* the edge will come */
                if (n < 0 && errno != ENOMEM && errno != ENOBUFS) {
                        port_reopen(h->port, strerror(errno));
                        return -ENODEV;
                }
                /* No contiguous memory for a copy of it in the kernel, or a queue that filled up under our
                 * hands. */
                loop_timer_set(h->again, loop_now(h->loop) + WRITE_RETRY_USEC);
                return 0;
        }
        h->has_more = true;
        return 0;
}

/* The same. */
static int host_read(Host *h)
{
        for (unsigned i = 0; i < READS_PER_TURN; i++) {
                uint8_t *buf;
                size_t room;

                session_input_space(h->session, &buf, &room);
                ssize_t n = read(port_fd(h->port), buf, room);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno != EAGAIN) {
                        port_reopen(h->port, strerror(errno));
                        return -ENODEV;
                }
                if (n <= 0)
                        return 0; /* nothing now, or no client: not an end */
                session_input_commit(h->session, (size_t)n, loop_now(h->loop));
                host_take_events(h);
                if (h->must_renew)
                        return 0;
                /* An answer goes before a look for more, which is most often in vain. */
                if (session_output_pending(h->session) && !h->is_mute) {
                        int r = host_write(h);
                        if (r < 0)
                                return r;
                }
        }
        h->has_more = true;
        return 0;
}

static void host_work(Host *h)
{
        if (port_fd(h->port) < 0 || !h->session)
                return;
        h->has_more = false;
        h->working = true;
        loop_timer_set(h->again, USEC_INFINITY);
        int r = host_read(h);
        if (r == 0 && h->must_renew)
                host_restart(h, "a new handshake is due");
        if (r == 0 && !h->is_mute)
                r = host_write(h);
        h->working = false;
        if (r < 0)
                return;
        uint64_t deadline = h->has_more ? 0 : session_deadline(h->session);
        if (deadline < loop_timer_deadline(h->again))
                loop_timer_set(h->again, deadline);
}

static void on_port_opened(void *userdata)
{
        Host *h = userdata;

        host_restart(h, "the port was opened anew");
        if (h->session)
                host_work(h);
        else
                loop_timer_set(h->again, loop_now(h->loop) + USEC_PER_SEC);
}

static void on_again(void *userdata)
{
        Host *h = userdata;

        if (port_fd(h->port) < 0)
                return;
        if (!h->session) {
                on_port_opened(h);
                return;
        }
        session_tick(h->session, loop_now(h->loop));
        host_take_events(h);
        host_work(h);
}

static void on_port_changed(void *userdata, short revents)
{
        Host *h = userdata;

        /* A HELLO_REQ that still waits for a client need not be replaced. */
        if (port_peer(revents) == PORT_PEER_ABSENT && h->session &&
            (session_state(h->session) != SESSION_HELLO_SENT ||
             (!session_output_pending(h->session) && !h->n_frame)))
                host_restart(h, "it has closed the port");
        host_work(h);
}

static void on_port_lost(void *userdata, const char *why)
{
        Host *h = userdata;

        host_down(h, why);
        h->session = session_free(h->session);
        h->frame = NULL;
        h->n_frame = 0;
        h->is_cut = false;
        loop_timer_set(h->again, USEC_INFINITY);
        host_finish_leaving(h);
}

int host_new(Loop *l, const char *channel, const HostOps *ops, void *userdata, Host **ret)
{
        static const PortOps port_ops = { on_port_opened, on_port_changed, on_port_lost };

        _cleanup_(host_freep) Host *h = calloc(1, sizeof(*h));
        if (!h)
                return -ENOMEM;
        *h = (Host){ .loop = l, .ops = ops, .userdata = userdata };
        if (loop_add_timer(l, on_again, h, &h->again) < 0 ||
            loop_add_timer(l, on_leave_timeout, h, &h->leaving) < 0 ||
            port_new(l, channel, &port_ops, h, &h->port) < 0)
                return -ENOMEM;
        *ret = TAKE(h);
        return 0;
}

Host *host_free(Host *h)
{
        if (!h)
                return NULL;
        h->port = port_free(h->port);
        h->session = session_free(h->session);
        (void)json_object_put(h->hello);
        h->again = loop_timer_free(h->again);
        h->leaving = loop_timer_free(h->leaving);
        free(h);
        return NULL;
}

void host_start(Host *h)
{
        port_start(h->port);
}

bool host_is_up(const Host *h)
{
        return h->is_up;
}

/* What was queued is written from the loop: a caller may be in the middle of an event. */
static void host_wake(Host *h)
{
        if (!h->working)
                loop_timer_set(h->again, 0);
}

void host_renew(Host *h)
{
        if (!h->session)
                return;
        h->must_renew = true;
        host_wake(h);
}

void host_leave(Host *h, void (*done)(void *userdata))
{
        h->left = done;
        if (!h->is_up || session_bye(h->session) < 0) {
                host_finish_leaving(h);
                return;
        }
        loop_timer_set(h->leaving, loop_now(h->loop) + LEAVE_USEC);
        host_wake(h);
}

void host_reply(Host *h, uint64_t token, json_object *json, const void *payload, size_t n_payload)
{
        if (!json)
                json = json_object_new_object();
        if (json && h->session && token >> 32 == h->generation) {
                int r = session_reply(h->session, (uint32_t)token, json, payload, n_payload);
                if (r == -E2BIG) {
                        json_object *error =
                                message_error(WIRE_TOO_LARGE, "The answer is larger than a message may be.");
                        r = error ? session_reply(h->session, (uint32_t)token, error, NULL, 0) : -ENOMEM;
                        (void)json_object_put(error);
                }
                if (r == -ENOBUFS || r == -ENOMEM) {
                        log_warning("The host doesn't read its answers, or there is no memory for them");
                        h->must_renew = true;
                }
                host_wake(h);
        }
        (void)json_object_put(json);
}

void host_refuse(Host *h, uint64_t token, WireError error, const char *format, ...)
{
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        host_reply(h, token, message_error(error, "%s", text), NULL, 0);
}

int host_request(Host *h, json_object *json, const void *payload, size_t n_payload, uint32_t *ret_request)
{
        int r = !json ? -ENOMEM : !h->is_up ? -ENOTCONN : 0;

        if (r == 0)
                r = session_request(h->session, json, payload, n_payload, ret_request);
        if (r == 0)
                host_wake(h);
        (void)json_object_put(json);
        return r;
}

void host_forget(Host *h, uint32_t request)
{
        if (h->is_up)
                session_forget(h->session, request);
}

int host_notify(Host *h, json_object *borrowed)
{
        if (!h->is_up)
                return -ENOTCONN;
        int r = session_notify(h->session, borrowed, NULL, 0);
        if (r == 0)
                host_wake(h);
        return r;
}
