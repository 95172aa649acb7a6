/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A list and one timer for the earliest of its deadlines.
 */

#include "guestd/calls.h"
#include "guestd/facts.h"

typedef struct Call {
        struct Call *next;
        uint64_t token, deadline_usec;
        uint32_t request;
} Call;

struct Calls {
        Loop *loop;
        const CallsOps *ops;
        void *userdata;
        Call *open;
        size_t n_open;
        LoopTimer *timer;
};

static void calls_arm(Calls *c)
{
        uint64_t next = USEC_INFINITY;

        for (const Call *x = c->open; x; x = x->next)
                next = MIN(next, x->deadline_usec);
        loop_timer_set(c->timer, next);
}

static void calls_end(Calls *c, Call **at, WireError error, const char *text, const void *payload, size_t n)
{
        Call *x = *at;
        uint64_t token = x->token;

        *at = x->next;
        c->n_open--;
        free(x);
        c->ops->done(c->userdata, token, error, text, payload, n);
}

static void on_deadline(void *userdata)
{
        Calls *c = userdata;
        Call **at = &c->open;

        while (*at) {
                if ((*at)->deadline_usec > loop_now(c->loop)) {
                        at = &(*at)->next;
                        continue;
                }
                c->ops->forget(c->userdata, (*at)->request);
                calls_end(c, at, WIRE_TIMEOUT, "The host has not answered in time.", NULL, 0);
                at = &c->open; /* `done` may have ended or begun others */
        }
        calls_arm(c);
}

int calls_new(Loop *l, const CallsOps *ops, void *userdata, Calls **ret)
{
        _cleanup_(calls_freep) Calls *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Calls){ .loop = l, .ops = ops, .userdata = userdata };
        if (loop_add_timer(l, on_deadline, c, &c->timer) < 0)
                return -ENOMEM;
        *ret = TAKE(c);
        return 0;
}

Calls *calls_free(Calls *c)
{
        if (!c)
                return NULL;
        while (c->open) {
                Call *x = c->open;
                c->open = x->next;
                free(x);
        }
        c->timer = loop_timer_free(c->timer);
        free(c);
        return NULL;
}

static json_object *call_json(const char *topic, uint64_t timeout_usec)
{
        json_object *o = json_object_new_object();
        uint64_t id = 0;

        if (!o)
                return NULL;
        facts_random(NULL, &id, sizeof(id));
        if (json_object_object_add(o, "method", json_object_new_string("message.call")) == 0 &&
            json_object_object_add(o, "topic", json_object_new_string(topic)) == 0 &&
            json_object_object_add(o, "id", json_object_new_int64((int64_t)(id >> 1))) == 0 &&
            json_object_object_add(o, "timeout",
                                   json_object_new_int64((int64_t)MIN(timeout_usec, INT64_MAX))) == 0)
                return o;
        (void)json_object_put(o);
        return NULL;
}

WireError calls_start(Calls *c, uint64_t token, const char *topic, const void *payload, size_t n,
                      uint64_t timeout_usec)
{
        if (c->n_open >= CALLS_MAX)
                return WIRE_LIMITS_EXCEEDED;
        if (!timeout_usec)
                timeout_usec = CALLS_TIMEOUT_USEC;
        _cleanup_free_ Call *x = calloc(1, sizeof(*x));
        json_object *json = call_json(topic, timeout_usec);
        if (!x || !json) {
                (void)json_object_put(json);
                return WIRE_FAILED;
        }
        int r = c->ops->send(c->userdata, json, payload, n, &x->request);
        if (r < 0)
                return r == -ENOTCONN  ? WIRE_NOT_READY
                       : r == -ENOBUFS ? WIRE_LIMITS_EXCEEDED
                       : r == -E2BIG   ? WIRE_TOO_LARGE
                                       : WIRE_FAILED;
        x->token = token;
        if (__builtin_add_overflow(loop_now(c->loop), timeout_usec, &x->deadline_usec))
                x->deadline_usec = USEC_INFINITY;
        x->next = c->open;
        c->open = TAKE(x);
        c->n_open++;
        calls_arm(c);
        return WIRE_OK;
}

bool calls_on_reply(Calls *c, uint32_t request, WireError error, const char *text, const Message *m)
{
        for (Call **at = &c->open; *at; at = &(*at)->next)
                if ((*at)->request == request) {
                        calls_end(c, at, error, text, error == WIRE_OK ? m->payload : NULL,
                                  error == WIRE_OK ? m->n_payload : 0);
                        calls_arm(c);
                        return true;
                }
        return false;
}

void calls_host_away(Calls *c)
{
        while (c->open)
                calls_end(c, &c->open, WIRE_INTERRUPTED, "The host has gone before it answered.", NULL, 0);
        calls_arm(c);
}
