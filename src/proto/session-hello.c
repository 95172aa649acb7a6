/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The handshake. The session id is made of a nonce of each side, and what makes it fresh is the host's: a
 * guest that was restored from a snapshot says again what it said before. Nothing here believes a body
 * beyond its types; what the guest says about itself is judged by whoever uses it.
 */

#include "proto/session-private.h"

#include <stdio.h>

#include "proto/digest.h"

static void nonce_format(const uint8_t nonce[NONCE_SIZE], char ret[NONCE_TEXT_SIZE])
{
        for (size_t i = 0; i < NONCE_SIZE; i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", nonce[i]);
}

static int hex_value(char c)
{
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool nonce_parse(const char *untrusted, uint8_t ret[NONCE_SIZE])
{
        uint8_t nonce[NONCE_SIZE];

        if (!untrusted || strnlen(untrusted, NONCE_TEXT_SIZE) != NONCE_TEXT_SIZE - 1)
                return false;
        for (size_t i = 0; i < NONCE_SIZE; i++) {
                int high = hex_value(untrusted[2 * i]), low = hex_value(untrusted[2 * i + 1]);

                if (high < 0 || low < 0)
                        return false;
                nonce[i] = (uint8_t)(high << 4 | low);
        }
        memcpy(ret, nonce, NONCE_SIZE);
        return true;
}

static uint64_t epoch_of(const uint8_t host[NONCE_SIZE], const uint8_t guest[NONCE_SIZE])
{
        uint8_t both[2 * NONCE_SIZE];
        uint64_t epoch;

        memcpy(both, host, NONCE_SIZE);
        memcpy(both + NONCE_SIZE, guest, NONCE_SIZE);
        epoch = digest_of(both, sizeof(both), 0);
        return epoch ? epoch : 1; /* 0 stands for no session */
}

static const char *port_name(const Session *s)
{
        return s->config.port == SESSION_CONTROL ? "control" : "data";
}

void session_hello_drop(Session *s)
{
        free(s->hello_body);
        s->hello_body = NULL;
        s->n_hello_body = 0;
        s->hello_type = 0;
}

/* Replaces what waits: only the latest word of a handshake counts. If there is no memory, nothing is said,
 * and the driver's patience does the rest. */
static void hello_queue(Session *s, uint8_t type, json_object *json)
{
        uint8_t *body;
        size_t n;

        session_hello_drop(s);
        if (message_format(json, NULL, 0, &body, &n) < 0)
                return;
        if (n > FRAME_BODY_MAX) {
                free(body);
                return;
        }
        s->hello_type = type;
        s->hello_body = body;
        s->n_hello_body = n;
}

static void add(json_object *o, const char *key, json_object *value)
{
        if (json_object_object_add(o, key, value) < 0)
                (void)json_object_put(value);
}

static void add_nonce(json_object *o, const char *key, const uint8_t nonce[NONCE_SIZE])
{
        char text[NONCE_TEXT_SIZE];

        nonce_format(nonce, text);
        add(o, key, json_object_new_string(text));
}

static void add_range(json_object *o, const char *key, const Session *s)
{
        json_object *range = json_object_new_array();

        if (!range)
                return;
        (void)json_object_array_add(range, json_object_new_int(s->config.version_min));
        (void)json_object_array_add(range, json_object_new_int(s->config.version_max));
        add(o, key, range);
}

/* What this side says about itself, as far as one frame has room for it. */
static void add_config(json_object *o, const Session *s)
{
        size_t n_room = FRAME_BODY_MAX - 1024;

        if (!s->config.hello)
                return;
        json_object_object_foreach(s->config.hello, key, value)
        {
                size_t n = strlen(key) + 4;

                n += strlen(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
                                                                          JSON_C_TO_STRING_NOSLASHESCAPE));
                if (n > n_room)
                        continue;
                n_room -= n;
                add(o, key, json_object_get(value));
        }
}

void session_hello_begin(Session *s)
{
        json_object *o = json_object_new_object();

        s->state = SESSION_HELLO_SENT;
        s->config.random(s->config.userdata, s->nonce, sizeof(s->nonce));
        session_hello_drop(s);
        if (!o)
                return;
        if (s->config.role == SESSION_GUEST) {
                hello_queue(s, FRAME_HELLO_REQ, o);
        } else {
                add_config(o, s);
                add(o, "port", json_object_new_string(port_name(s)));
                add_range(o, "version", s);
                add_nonce(o, "nonce", s->nonce);
                hello_queue(s, FRAME_HELLO, o);
        }
        (void)json_object_put(o);
}

static bool range_parse(json_object *o, const char *key, int64_t ret[2])
{
        json_object *range = message_obj(o, key);

        if (!json_object_is_type(range, json_type_array) || json_object_array_length(range) != 2)
                return false;
        for (size_t i = 0; i < 2; i++) {
                json_object *v = json_object_array_get_idx(range, i);

                if (!json_object_is_type(v, json_type_int))
                        return false;
                ret[i] = json_object_get_int64(v);
        }
        return ret[0] >= 1 && ret[1] >= ret[0];
}

static int session_up(Session *s, SessionEvent *ret)
{
        s->state = SESSION_UP;
        s->counters.n_sessions++;
        *ret = (SessionEvent){ .type = SESSION_EVENT_UP, .message = &s->hello };
        return 1;
}

static int session_heard(Session *s, SessionEvent *ret)
{
        *ret = (SessionEvent){ .type = SESSION_EVENT_HEARD };
        return 1;
}

/* Host: the guest has opened its port. Each of these is worth one HELLO, also the one that crossed our last.
 */
static int host_hello_req(Session *s, SessionEvent *ret)
{
        if (s->state == SESSION_UP)
                return session_break(s, ret, "the guest's daemon has opened the port anew");
        if (s->hello_type != FRAME_HELLO)
                session_hello_begin(s);
        return session_heard(s, ret);
}

static int host_refused(Session *s, SessionEvent *ret, json_object *ack, int64_t version)
{
        int64_t range[2];

        s->state = SESSION_REFUSED;
        if (version != 0)
                (void)snprintf(s->text, sizeof(s->text),
                               "the guest chose version %lld, which was not offered", (long long)version);
        else if (!range_parse(ack, "range", range))
                (void)snprintf(s->text, sizeof(s->text), "the guest speaks no version from %d to %d",
                               s->config.version_min, s->config.version_max);
        else
                (void)snprintf(s->text, sizeof(s->text),
                               "the guest speaks versions %lld to %lld, this host %d to %d",
                               (long long)range[0], (long long)range[1], s->config.version_min,
                               s->config.version_max);
        *ret = (SessionEvent){ .type = SESSION_EVENT_INCOMPATIBLE, .text = s->text };
        return 1;
}

static int host_hello_ack(Session *s, const Frame *f, SessionEvent *ret)
{
        uint8_t echo[NONCE_SIZE], nonce[NONCE_SIZE];
        json_object *start;
        Message ack;
        int64_t version;

        if (s->state != SESSION_HELLO_SENT)
                return session_drop(s);
        if (message_parse(f->body, f->header.length, &ack) < 0) {
                s->counters.n_frames_dropped++;
                return session_heard(s, ret);
        }
        version = message_int(ack.json, "version", -1);
        if (!nonce_parse(message_str(ack.json, "echo", NULL), echo) ||
            memcmp(echo, s->nonce, NONCE_SIZE) != 0 ||
            !nonce_parse(message_str(ack.json, "nonce", NULL), nonce)) {
                /* an answer to an earlier HELLO: somebody is there, and the answer to this one is on its way
                 */
                message_done(&ack);
                s->counters.n_frames_dropped++;
                return session_heard(s, ret);
        }
        message_done(&s->hello);
        s->hello = ack;
        if (version < s->config.version_min || version > s->config.version_max)
                return host_refused(s, ret, s->hello.json, version);

        start = json_object_new_object();
        if (start) {
                add_nonce(start, "echo", nonce);
                hello_queue(s, FRAME_START, start);
                (void)json_object_put(start);
        }
        s->epoch = epoch_of(s->nonce, nonce);
        return session_up(s, ret);
}

/* Guest: the host begins a session, whatever we were at. */
static int guest_hello(Session *s, const Frame *f, SessionEvent *ret)
{
        bool was_up = s->state == SESSION_UP;
        uint8_t host_nonce[NONCE_SIZE];
        int64_t range[2], version;
        json_object *ack;
        Message hello;

        if (message_parse(f->body, f->header.length, &hello) < 0)
                return session_drop(s);
        if (!str_eq(message_str(hello.json, "port", NULL), port_name(s)) ||
            !nonce_parse(message_str(hello.json, "nonce", NULL), host_nonce) ||
            !range_parse(hello.json, "version", range)) {
                message_done(&hello);
                return session_drop(s);
        }
        message_done(&s->hello);
        s->hello = hello;
        session_clear(s);
        s->config.random(s->config.userdata, s->nonce, sizeof(s->nonce));
        version = MIN(range[1], (int64_t)s->config.version_max);
        if (version < range[0] || version < s->config.version_min)
                version = 0;

        s->state = version ? SESSION_ACK_SENT : SESSION_HELLO_SENT;
        s->epoch = version ? epoch_of(host_nonce, s->nonce) : 0;
        session_hello_drop(s);
        ack = json_object_new_object();
        if (ack) {
                add_config(ack, s);
                add(ack, "version", json_object_new_int64(version));
                if (!version)
                        add_range(ack, "range", s);
                add_nonce(ack, "nonce", s->nonce);
                add_nonce(ack, "echo", host_nonce);
                hello_queue(s, FRAME_HELLO_ACK, ack);
                (void)json_object_put(ack);
        }
        if (!was_up)
                return session_heard(s, ret);
        *ret = (SessionEvent){ .type = SESSION_EVENT_DOWN, .text = "the host has begun a new session" };
        return 1;
}

int session_hello_frame(Session *s, const Frame *f, SessionEvent *ret)
{
        bool is_host = s->config.role == SESSION_HOST;

        /* what a peer of our own role says is an echo of ourselves */
        if (is_host == (f->header.type == FRAME_HELLO))
                return session_drop(s);
        s->heard_usec = s->now_usec;
        if (f->header.type == FRAME_HELLO_REQ)
                return host_hello_req(s, ret);
        if (f->header.type == FRAME_HELLO_ACK)
                return host_hello_ack(s, f, ret);
        return guest_hello(s, f, ret);
}

int session_hello_start(Session *s, const Frame *f, SessionEvent *ret)
{
        uint8_t echo[NONCE_SIZE];
        bool is_ours;
        Message start;

        if (f->header.seq != 0 || message_parse(f->body, f->header.length, &start) < 0)
                return session_drop(s);
        is_ours = nonce_parse(message_str(start.json, "echo", NULL), echo) &&
                  memcmp(echo, s->nonce, NONCE_SIZE) == 0;
        message_done(&start);
        if (!is_ours)
                return session_drop(s);
        s->heard_usec = s->now_usec;
        s->seq_in = 1;
        return session_up(s, ret);
}
