/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A message is taken when a subscriber or a handler has it; from then on its repeats are answered without
 * being carried out. The answer of a call that was repeated is lost: only senders that need none repeat
 * calls. A sender that keeps an order waits for the handler's end, also by a repeat.
 */

#include <stdio.h>

#include "base/escape.h"
#include "guestd/handlers.h"
#include "guestd/log.h"
#include "guestd/messages.h"
#include "guestd/seen.h"
#include "proto/name.h"

typedef struct Pending {
        struct Pending *next;
        uint64_t serial, token, id, key;
        size_t n_payload;
        bool is_call, waits; /* waits: answered when the handler has ended */
        char topic[TOPIC_MAX + 1];
} Pending;

struct Messages {
        const Config *config;
        const MessagesOps *ops;
        void *userdata;
        Handlers *handlers;
        Localsock *localsock;
        Seen *seen;
        Pending *pending;
        uint64_t n_serials;
};

static void audit(bool is_call, uint64_t id, WireError error, const char *topic, size_t n_payload,
                  size_t n_answer)
{
        char text[24];

        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)id);
        log_audit(is_call ? "call" : "send", text, error == WIRE_OK ? "ok" : wire_error_to_string(error),
                  "topic=%s bytes=%zu answer=%zu", topic, n_payload, n_answer);
}

static void messages_end(Messages *m, uint64_t serial, WireError error, const char *text,
                         const void *payload, size_t n)
{
        for (Pending **at = &m->pending; *at; at = &(*at)->next) {
                if ((*at)->serial != serial)
                        continue;
                _cleanup_free_ Pending *p = *at;
                *at = p->next;
                audit(p->is_call, p->id, error, p->topic, p->n_payload, n);
                if (!p->is_call && !p->waits) { /* answered when it began */
                        if (error != WIRE_OK)
                                log_info("Message %llu of %s: %s", (unsigned long long)p->id, p->topic,
                                         text);
                        return;
                }
                if (error == WIRE_OK)
                        m->ops->reply(m->userdata, p->token, NULL, payload, n);
                else
                        m->ops->refuse(m->userdata, p->token, error, text);
                return;
        }
}

static void on_handled(void *userdata, uint64_t serial, WireError error, const char *text,
                       const void *payload, size_t n)
{
        messages_end(userdata, serial, error, text, payload, n);
}

void messages_on_called(Messages *m, uint64_t token, WireError error, const char *text, const void *payload,
                        size_t n)
{
        _cleanup_free_ char *shown = text ? escape_text(text, strlen(text), 256) : NULL;

        messages_end(m, token, error, shown ? shown : "", payload, n);
}

int messages_new(Loop *l, const Config *config, const MessagesOps *ops, void *userdata, Messages **ret)
{
        static const char *const dirs[] = { STATE_DIR, RUNTIME_DIR, NULL };

        _cleanup_(messages_freep) Messages *m = calloc(1, sizeof(*m));
        if (!m)
                return -ENOMEM;
        *m = (Messages){ .config = config, .ops = ops, .userdata = userdata };
        if (handlers_new(l, config, on_handled, m, &m->handlers) < 0 || seen_new(dirs, &m->seen) < 0)
                return -ENOMEM;
        *ret = TAKE(m);
        return 0;
}

Messages *messages_free(Messages *m)
{
        if (!m)
                return NULL;
        m->handlers = handlers_free(m->handlers);
        m->seen = seen_free(m->seen);
        while (m->pending) {
                Pending *p = m->pending;
                m->pending = p->next;
                free(p);
        }
        free(m);
        return NULL;
}

void messages_set_localsock(Messages *m, Localsock *l)
{
        m->localsock = l;
}

static int route_call(Messages *m, const Pending *p, const Message *msg, uint64_t timeout_usec)
{
        int r = !m->localsock
                        ? -ENOENT
                        : localsock_call(m->localsock, p->serial, p->topic, p->id, msg->payload,
                                         msg->n_payload,
                                         timeout_usec ? timeout_usec : m->config->handler_timeout_usec);
        if (r != -ENOENT)
                return r;
        return handlers_start(m->handlers, p->serial, HANDLER_CALL, p->topic, p->id, msg->payload,
                              msg->n_payload, timeout_usec);
}

/* For subscribers and handler, or for none of them while either is busy: the host may repeat it then.
 * *ret_is_taken: subscribers have it, whatever became of the handler. */
static int route_send(Messages *m, const Pending *p, const Message *msg, uint64_t timeout_usec,
                      bool *ret_is_taken)
{
        int r = handlers_check(m->handlers, p->topic);
        if (r == -ENOBUFS)
                return r;
        int n_taken = !m->localsock ? 0
                                    : localsock_deliver(m->localsock, p->topic, p->id, msg->payload,
                                                        msg->n_payload);
        if (n_taken == -ENOBUFS)
                return n_taken;
        *ret_is_taken = n_taken > 0;
        if (r == 0)
                r = handlers_start(m->handlers, p->serial, HANDLER_SEND, p->topic, p->id, msg->payload,
                                   msg->n_payload, timeout_usec);
        return r;
}

static WireError error_of_route(int error, const char **ret_text)
{
        switch (-error) {
        case ENOENT:
                *ret_text = "Nothing in this guest serves the topic: no program on the local socket, no "
                            "handler.";
                return WIRE_NO_HANDLER;
        case ENOBUFS:
                *ret_text = "Too many messages are being handled in this guest.";
                return WIRE_LIMITS_EXCEEDED;
        case EACCES:
                *ret_text = "The topic's handler is not executable.";
                return WIRE_PERMISSION_DENIED;
        default:
                *ret_text = strerror(-error);
                return WIRE_FAILED;
        }
}

static json_object *duplicate_json(void)
{
        json_object *o = json_object_new_object();

        if (o)
                (void)json_object_object_add(o, "duplicate", json_object_new_boolean(true));
        return o;
}

static void take_repeat(Messages *m, uint64_t token, uint64_t key, const char *topic, uint64_t id,
                        bool waits)
{
        log_debug("Message %llu of %s came again", (unsigned long long)id, topic);
        for (Pending *p = m->pending; waits && p; p = p->next)
                if (p->waits && p->key == key) {
                        p->token = token; /* the one before is of a session that was lost */
                        return;
                }
        m->ops->reply(m->userdata, token, duplicate_json(), NULL, 0);
}

/* Whose time it is: the caller's; or the guest's own, which is no longer than the host waits. */
static uint64_t time_for(const Messages *m, json_object *untrusted)
{
        int64_t timeout = message_int(untrusted, "timeout", 0), within = message_int(untrusted, "within", 0);

        if (timeout > 0)
                return (uint64_t)timeout;
        return within > 0 ? MIN((uint64_t)within, m->config->handler_timeout_usec)
                          : m->config->handler_timeout_usec;
}

void messages_take(Messages *m, uint64_t token, bool is_call, const Message *untrusted)
{
        const char *topic = message_str(untrusted->json, "topic", NULL), *text = "";
        uint64_t id = (uint64_t)message_int(untrusted->json, "id", 0);
        bool waits = !is_call && message_bool(untrusted->json, "wait", false),
             is_keyed = message_bool(untrusted->json, "keyed", false);
        _cleanup_free_ Pending *p = NULL;

        if (!name_is_topic(topic)) {
                m->ops->refuse(m->userdata, token, WIRE_INVALID_ARGS, "This is no topic's name.");
                return;
        }
        if (!policy_may(&m->config->policy, is_call ? POLICY_CALL : POLICY_SEND)) {
                audit(is_call, id, WIRE_PERMISSION_DENIED, topic, untrusted->n_payload, 0);
                m->ops->refuse(m->userdata, token, WIRE_PERMISSION_DENIED,
                               "This guest's policy takes no such messages.");
                return;
        }
        uint64_t key = seen_key(topic, id, untrusted->payload, is_keyed ? 0 : untrusted->n_payload);
        if (id && seen_has(m->seen, key)) {
                take_repeat(m, token, key, topic, id, waits);
                return;
        }
        p = calloc(1, sizeof(*p));
        if (!p) {
                m->ops->refuse(m->userdata, token, WIRE_FAILED, "No memory in this guest.");
                return;
        }
        p->serial = ++m->n_serials;
        p->token = token;
        p->id = id;
        p->key = key;
        p->is_call = is_call;
        p->waits = waits;
        p->n_payload = untrusted->n_payload;
        (void)snprintf(p->topic, sizeof(p->topic), "%s", topic);

        /* First remembered, then begun: what dies in between is not done twice. */
        if (id)
                seen_add(m->seen, key);
        /* It may end before localsock_call() returns: so it is on the list by then. */
        uint64_t serial = p->serial;
        Pending *listed = p;
        p->next = m->pending;
        m->pending = TAKE(p);
        bool is_taken = false, is_answered_later = is_call || listed->waits;
        uint64_t usec = time_for(m, untrusted->json);
        int r = is_call ? route_call(m, listed, untrusted, usec)
                        : route_send(m, listed, untrusted, usec, &is_taken);
        if (r == 0) { /* its end will be told */
                if (!is_answered_later)
                        m->ops->reply(m->userdata, token, NULL, NULL, 0);
                return;
        }
        WireError error = is_taken && r == -ENOENT ? WIRE_OK : error_of_route(r, &text);
        if (is_taken && error != WIRE_OK)
                log_warning("Message %llu of %s: its subscribers have it, its handler was not started: %s",
                            (unsigned long long)id, topic, text);
        if (id && !is_taken)
                seen_remove(m->seen, key);
        messages_end(m, serial, error, text, NULL, 0); /* which answers those that wait */
        if (is_answered_later)
                return;
        if (is_taken)
                m->ops->reply(m->userdata, token, NULL, NULL, 0);
        else
                m->ops->refuse(m->userdata, token, error, text);
}

bool messages_is_repeat(Messages *m, const char *kind, const char *id)
{
        uint64_t key = seen_key(kind, 0, id, strlen(id));

        if (seen_has(m->seen, key))
                return true;
        seen_add(m->seen, key);
        return false;
}
