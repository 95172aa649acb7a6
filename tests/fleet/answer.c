/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "answer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "proto/digest.h"
#include "proto/entry.h"

#define PIECE 131072u

/* A whole transfer of one file: the same for everybody. */
static uint8_t *pull_bytes;
static size_t n_pull_bytes;
static uint64_t n_file_bytes;

static int append(RecordBuffer *b, uint8_t *all, size_t *n)
{
        *n += record_buffer_take(b, all + *n, b->n);
        return 0;
}

int answer_set_pull(uint64_t n_bytes)
{
        uint8_t *content = calloc(1, n_bytes + 1),
                *all = malloc(n_bytes + (n_bytes / PIECE + 1) * 32 + 1024);
        RecordBuffer b = { 0 };
        size_t n = 0;
        Entry e = { .kind = ENTRY_FILE,
                    .mode = 0644,
                    .mtime_sec = 1,
                    .size = n_bytes,
                    .path = "",
                    .target = "",
                    .user = "",
                    .group = "" };
        int r = content && all ? 0 : -ENOMEM;

        if (r == 0 && (r = record_put_totals(&b, n_bytes, 1, n_bytes)) == 0 &&
            (r = record_put_entry(&b, &e)) == 0)
                r = append(&b, all, &n);
        for (uint64_t at = 0; r == 0 && at < n_bytes; at += PIECE) {
                size_t piece = n_bytes - at < PIECE ? (size_t)(n_bytes - at) : PIECE;

                record_format_data(all + n, 0, at, piece);
                n += RECORD_HEADER_SIZE + RECORD_DATA_PREFIX;
                memcpy(all + n, content + at, piece);
                n += piece;
        }
        if (r == 0 && (r = record_put_file_end(&b, 0, n_bytes, digest_of(content, n_bytes, 0))) == 0 &&
            (r = record_put_end(&b)) == 0)
                r = append(&b, all, &n);
        record_buffer_done(&b);
        free(content);
        if (r < 0) {
                free(all);
                return r;
        }
        free(pull_bytes);
        pull_bytes = all;
        n_pull_bytes = n;
        n_file_bytes = n_bytes;
        return 0;
}

size_t answer_pull_next(Session *s, Pull *pull, uint8_t *frame)
{
        size_t room = session_stream_room(s, pull->stream), left = n_pull_bytes - pull->n_sent;
        size_t n = left < room ? left : room;

        if (n == 0)
                return 0;
        memcpy(frame + FRAME_HEADER_SIZE, pull_bytes + pull->n_sent, n);
        pull->n_sent += n;
        return session_stream_seal(s, pull->stream, frame, n);
}

static void reply(Port *p, uint32_t id, json_object *json, const void *payload, size_t n)
{
        (void)session_reply(port_session(p), id, json, payload, n);
        json_object_put(json);
}

static void lie(Port *p)
{
        static const char *const lies[] = {
                "{\"method\":\"process.exited\",\"id\":\"00ff\",\"exit_status\":0}",
                "{\"method\":{}}",
                "{\"topic\":\"no method\"}",
                "{\"method\":\"message.publish\",\"topic\":\"../x\",\"id\":1}",
                "{\"method\":\"rm.rf\"}",
                "{\"method\":\"message.call\",\"topic\":\"nobody\",\"id\":\"x\",\"timeout\":-1}",
        };
        Guest *g = port_guest(p);
        json_object *json = json_tokener_parse(lies[g->n_said++ % ELEMENTSOF(lies)]);
        uint32_t id;

        if (g->n_said % 2)
                (void)session_notify(port_session(p), json, NULL, 0);
        else
                (void)session_request(port_session(p), json, "lie", 3, &id);
        json_object_put(json);
}

static void on_request(Port *p, uint32_t id, const Message *m)
{
        const char *method = message_str(m->json, "method", ""), *topic = message_str(m->json, "topic", "");
        Guest *g = port_guest(p);

        if (str_eq(method, "message.call") && str_eq(topic, "echo"))
                reply(p, id, json_object_new_object(), m->payload, m->n_payload);
        else if (str_eq(method, "message.send") || str_eq(method, "data.open")) {
                reply(p, id, json_object_new_object(), NULL, 0);
                /* A port that is opened again says so. */
                if (str_eq(method, "data.open") && port_session(g->data) && !port_is_up(g->data)) {
                        session_open(port_session(g->data), port_now_usec());
                        port_flush(g->data);
                }
        } else
                reply(p, id, message_error(WIRE_UNSUPPORTED, "no %s here", method), NULL, 0);
        if (g->number < g->manners->n_liars)
                lie(p);
}

static void on_open(Port *p, uint32_t stream, const Message *m)
{
        Pull *pull = str_eq(message_str(m->json, "kind", ""), "pull") ? port_pull(p, stream) : NULL;
        json_object *json;

        if (!pull) {
                (void)session_stream_reset(port_session(p), stream, WIRE_UNSUPPORTED, "only pulls here");
                return;
        }
        json = json_object_new_object();
        json_object_object_add(json, "tree", json_object_new_boolean(false));
        json_object_object_add(json, "name", json_object_new_string("file"));
        json_object_object_add(json, "bytes", json_object_new_uint64(n_file_bytes));
        json_object_object_add(json, "inode", json_object_new_int(1));
        json_object_object_add(json, "mtime_sec", json_object_new_int(1));
        json_object_object_add(json, "mtime_nsec", json_object_new_int(0));
        (void)session_stream_accept(port_session(p), stream, json);
        json_object_put(json);
}

void answer_event(Port *p, const SessionEvent *e)
{
        switch (e->type) {
        case SESSION_EVENT_REQUEST:
                on_request(p, e->id, e->message);
                break;
        case SESSION_EVENT_STREAM_OPEN:
                on_open(p, e->id, e->message);
                break;
        case SESSION_EVENT_STREAM_DATA: /* what the receiver says of the transfer */
                session_stream_taken(port_session(p), e->id, e->n_data);
                break;
        case SESSION_EVENT_STREAM_EOF:
                (void)session_stream_eof(port_session(p), e->id);
                break;
        case SESSION_EVENT_UP:
        case SESSION_EVENT_DOWN:
        case SESSION_EVENT_INCOMPATIBLE:
        case SESSION_EVENT_HEARD:
        case SESSION_EVENT_PONG:
        case SESSION_EVENT_BYE:
        case SESSION_EVENT_BYE_ACK:
        case SESSION_EVENT_REPLY:
        case SESSION_EVENT_NOTIFY:
        case SESSION_EVENT_STREAM_OPENED:
        case SESSION_EVENT_STREAM_RESET:
        case SESSION_EVENT_STREAM_ROOM:
                break;
        }
}

void answer_say(Guest *g)
{
        json_object *json;
        uint32_t id;

        if (!port_is_up(g->control))
                return;
        json = json_object_new_object();
        json_object_object_add(json, "method", json_object_new_string("message.publish"));
        json_object_object_add(json, "topic", json_object_new_string("fleet"));
        json_object_object_add(json, "id", json_object_new_uint64(++g->n_said));
        (void)session_request(port_session(g->control), json, "hello", 5, &id);
        json_object_put(json);
        port_flush(g->control);
}
