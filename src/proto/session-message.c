/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The control port: requests, replies, notifications. What they say is for the layer above; here only their
 * form, their ids and their number are judged.
 */

#include "proto/session-private.h"

int session_message_gather(Session *s, const Frame *f, SessionEvent *ret, bool *ret_is_whole)
{
        const uint8_t *data;
        size_t n;
        int r;

        *ret_is_whole = false;
        r = fragments_feed(&s->fragments, &f->header, f->body, &data, &n);
        if (r == 0)
                return 0;
        if (r > 0)
                r = message_parse(data, n, &s->message);
        if (r == 0) {
                *ret_is_whole = true;
                return 0;
        }
        return session_break(s, ret, "%s",
                             r == -ENOMEM   ? "out of memory"
                             : r == -E2BIG  ? "the peer sent a message that is too long"
                             : r == -EPROTO ? "the peer sent too many messages in parts at once"
                                            : "the peer sent a message that is not well-formed");
}

/* The peer may believe that it has fewer requests open than we do: it forgot some. It is told, not punished.
 */
static void session_refuse(Session *s, uint32_t id)
{
        json_object *o =
                message_error(WIRE_LIMITS_EXCEEDED, "%u requests wait for an answer already", REQUESTS_MAX);

        if (!o) {
                s->doom = "out of memory";
                return;
        }
        (void)session_push_json(s, FRAME_REPLY, id, o);
        (void)json_object_put(o);
}

static int session_request_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        uint32_t id = f->header.stream;
        bool is_whole;
        int r;

        if (!fragments_has(&s->fragments, &f->header)) {
                if (!idset_is_next(&s->peer_requests, id))
                        return session_break(s, ret, "the peer's request %u does not follow %u", id,
                                             s->peer_requests.last);
                if (idset_add(&s->peer_requests, id) == -ENOMEM)
                        return session_break(s, ret, "out of memory");
        }
        r = session_message_gather(s, f, ret, &is_whole);
        if (!is_whole)
                return r;
        if (!idset_has(&s->peer_requests, id)) {
                session_refuse(s, id);
                message_done(&s->message);
                return 0;
        }
        *ret = (SessionEvent){ .type = SESSION_EVENT_REQUEST, .id = id, .message = &s->message };
        return 1;
}

int session_message_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        uint32_t id = f->header.stream;
        bool is_whole;
        int r;

        if (f->header.type == FRAME_REQUEST)
                return session_request_frame(s, f, ret);
        r = session_message_gather(s, f, ret, &is_whole);
        if (!is_whole)
                return r;
        if (f->header.type == FRAME_NOTIFY) {
                *ret = (SessionEvent){ .type = SESSION_EVENT_NOTIFY, .message = &s->message };
                return 1;
        }
        if (!idset_remove(&s->own_requests, id)) {
                message_done(&s->message);
                return session_drop(s);
        }
        *ret = (SessionEvent){ .type = SESSION_EVENT_REPLY, .id = id, .message = &s->message };
        return 1;
}

static int session_send(Session *s, uint8_t type, uint32_t id, json_object *json, const void *payload,
                        size_t n_payload)
{
        uint8_t *body;
        size_t n;
        int r;

        r = message_format(json, payload, n_payload, &body, &n);
        if (r < 0)
                return r;
        return outq_push(&s->outq, OUTQ_BYTES_MAX, type, id, body, n);
}

int session_request(Session *s, json_object *json, const void *payload, size_t n_payload, uint32_t *ret_id)
{
        uint32_t id = s->next_request ? s->next_request : 1;
        int r;

        if (!session_is_talking(s) || s->config.port != SESSION_CONTROL)
                return -ENOTCONN;
        if (s->own_requests.n >= REQUESTS_MAX)
                return -ENOBUFS;
        r = idset_add(&s->own_requests, id);
        if (r < 0)
                return r;
        r = session_send(s, FRAME_REQUEST, id, json, payload, n_payload);
        if (r < 0) {
                (void)idset_remove(&s->own_requests, id);
                return r;
        }
        s->next_request = id + 1;
        *ret_id = id;
        return 0;
}

void session_forget(Session *s, uint32_t id)
{
        (void)idset_remove(&s->own_requests, id);
}

int session_reply(Session *s, uint32_t id, json_object *json, const void *payload, size_t n_payload)
{
        int r;

        if (!session_is_talking(s))
                return -ENOTCONN;
        if (!idset_has(&s->peer_requests, id))
                return -ENOENT;
        r = session_send(s, FRAME_REPLY, id, json, payload, n_payload);
        if (r < 0)
                return r;
        (void)idset_remove(&s->peer_requests, id);
        return 0;
}

int session_notify(Session *s, json_object *json, const void *payload, size_t n_payload)
{
        if (!session_is_talking(s) || s->config.port != SESSION_CONTROL)
                return -ENOTCONN;
        return session_send(s, FRAME_NOTIFY, 0, json, payload, n_payload);
}
