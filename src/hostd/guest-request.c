/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What is asked of a guest and what it asks. Each request ends once: by its reply, its time, or its
 * session's end. Ends that happen within a caller's own call are put into a queue and told from the loop.
 * Callbacks may do anything but free the guest: a request is out of the tables before its `done` is called.
 */

#include "base/escape.h"
#include "base/fs.h"
#include "hostd/guest-private.h"

typedef struct Request {
        uint64_t id, deadline, sent_at;
        uint32_t wire_id; /* 0: a ping, or never sent */
        GuestReply done;
        GuestPong pong;
        void *userdata;
        WireError error; /* failed: waits in the queue for its `done` */
        char *text;
} Request;

static void request_free(void *p)
{
        Request *q = p;

        g_free(q->text);
        g_free(q);
}

void request_init(Guest *g)
{
        g->requests = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, request_free);
        g->by_wire = g_hash_table_new(g_direct_hash, g_direct_equal);
        g->failed = g_queue_new();
        g->next_request = 1;
}

static Request *request_add(Guest *g, uint64_t timeout_usec, void *userdata)
{
        Request *q = g_new0(Request, 1);
        uint64_t now = fs_now_usec();

        *q = (Request){
                .id = g->next_request++,
                .sent_at = now,
                .deadline = usec_add(now, timeout_usec),
                .userdata = userdata,
        };
        g_hash_table_insert(g->requests, &q->id, q);
        return q;
}

static void request_fail(Guest *g, Request *q, WireError error, const char *format, ...) _printf_(4, 5);
static void request_fail(Guest *g, Request *q, WireError error, const char *format, ...)
{
        va_list ap;

        if (q->error != WIRE_OK)
                return;
        if (q->wire_id > 0) {
                g_hash_table_remove(g->by_wire, GUINT_TO_POINTER(q->wire_id));
                if (g->link.session)
                        session_forget(g->link.session, q->wire_id);
                q->wire_id = 0;
        }
        va_start(ap, format);
        q->text = g_strdup_vprintf(format, ap);
        va_end(ap);
        q->error = error;
        g_queue_push_tail(g->failed, g_memdup2(&q->id, sizeof(q->id)));
        guest_arm(g);
}

static void request_fail_not_ready(Guest *g, Request *q)
{
        request_fail(g, q, WIRE_NOT_READY, "Guest %s is not ready: it is %s (%s)", g->name,
                     guest_state_to_string(g->state), g->reason);
}

static void request_fail_errno(Guest *g, Request *q, int r)
{
        if (r == -E2BIG)
                request_fail(g, q, WIRE_TOO_LARGE, "The message to guest %s is larger than %u bytes",
                             g->name, PAYLOAD_MAX);
        else if (r == -ENOBUFS)
                request_fail(g, q, WIRE_LIMITS_EXCEEDED,
                             "Guest %s has too much unanswered already; try again later", g->name);
        else if (r == -EILSEQ || r == -EBADMSG)
                request_fail(g, q, WIRE_INVALID_ARGS, "The message to guest %s is not valid UTF-8", g->name);
        else if (r == -ENOTCONN)
                request_fail(g, q, WIRE_INTERRUPTED, "Guest %s is connecting anew", g->name);
        else
                request_fail(g, q, WIRE_FAILED, "The message to guest %s was not sent: %s", g->name,
                             strerror(-r));
}

static void request_end(Guest *g, Request *q, WireError error, const char *text, const Message *m)
{
        g_hash_table_steal(g->requests, &q->id);
        if (q->wire_id > 0)
                g_hash_table_remove(g->by_wire, GUINT_TO_POINTER(q->wire_id));
        if (q->done)
                q->done(q->userdata, error, text, m);
        else
                q->pong(q->userdata, error, text, error == WIRE_OK ? g->counters.last_rtt_usec : 0);
        request_free(q);
}

/* Those that are failed now; what their callbacks ask anew comes in the next turn. */
static void request_tell_failed(Guest *g)
{
        for (guint n = g_queue_get_length(g->failed); n > 0; n--) {
                g_autofree uint64_t *id = g_queue_pop_head(g->failed);
                Request *q = id ? g_hash_table_lookup(g->requests, id) : NULL;

                if (q)
                        request_end(g, q, q->error, q->text, NULL);
        }
}

void request_done(Guest *g)
{
        /* Callbacks may ask again, and are told at once that nobody is there. */
        while (request_is_any(g)) {
                request_fail_all(g, "was removed");
                request_tell_failed(g);
        }
        g_queue_free_full(g->failed, g_free);
        g_hash_table_unref(g->by_wire);
        g_hash_table_unref(g->requests);
}

static int compare_ids(const void *a, const void *b)
{
        const Request *x = *(Request *const *)a, *y = *(Request *const *)b;

        return x->id < y->id ? -1 : x->id > y->id;
}

static GPtrArray *request_list(Guest *g)
{
        GPtrArray *list = g_ptr_array_new();
        GHashTableIter i;
        void *q;

        g_hash_table_iter_init(&i, g->requests);
        while (g_hash_table_iter_next(&i, NULL, &q))
                g_ptr_array_add(list, q);
        g_ptr_array_sort(list, compare_ids);
        return list;
}

void request_fail_all(Guest *g, const char *why)
{
        g_autoptr(GPtrArray) list = NULL;

        if (!request_is_any(g))
                return;
        list = request_list(g);
        for (guint i = 0; i < list->len; i++)
                request_fail(g, list->pdata[i], WIRE_INTERRUPTED, "Guest %s %s before it answered", g->name,
                             why);
}

uint64_t request_deadline(const Guest *g)
{
        uint64_t at = g_queue_is_empty(g->failed) ? USEC_INFINITY : 0;
        GHashTableIter i;
        void *q;

        g_hash_table_iter_init(&i, g->requests);
        while (at > 0 && g_hash_table_iter_next(&i, NULL, &q))
                if (((Request *)q)->error == WIRE_OK)
                        at = MIN(at, ((Request *)q)->deadline);
        return at;
}

void request_tick(Guest *g, uint64_t now)
{
        g_autoptr(GPtrArray) list = NULL;

        if (!request_is_any(g))
                return;
        list = request_list(g);
        for (guint i = 0; i < list->len; i++) {
                Request *q = list->pdata[i];

                if (q->deadline <= now)
                        request_fail(g, q, WIRE_TIMEOUT, "Guest %s did not answer within %.3g s", g->name,
                                     (double)(q->deadline - q->sent_at) / USEC_PER_SEC);
        }
        request_tell_failed(g);
}

void request_on_reply(Guest *g, uint32_t wire_id, const Message *m)
{
        Request *q = g_hash_table_lookup(g->by_wire, GUINT_TO_POINTER(wire_id));
        _cleanup_free_ char *text = NULL, *sentence = NULL;
        const char *untrusted_text;
        WireError error;

        if (!q)
                return; /* cancelled, or it came too late */
        share_answered(g, m->n_payload);
        error = message_get_error(m->json, &untrusted_text);
        if (error != WIRE_OK) {
                text = escape_text(untrusted_text, strlen(untrusted_text), 1024);
                sentence = g_strdup_printf("Guest %s: %s", g->name, text ? text : "");
        }
        request_end(g, q, error, sentence, m);
}

void request_on_pong(Guest *g, uint64_t cookie, uint64_t now)
{
        Request *q = g_hash_table_lookup(g->requests, &cookie);

        if (!q || !q->pong || q->error != WIRE_OK)
                return;
        share_answered(g, 0);
        g->counters.last_rtt_usec = now - q->sent_at;
        request_end(g, q, WIRE_OK, NULL, NULL);
}

void request_on_request(Guest *g, uint32_t wire_id, const Message *m)
{
        if (message_str(m->json, "method", NULL)) {
                g->ops->request(g->userdata, g, wire_id, m);
                return;
        }
        (void)guest_reply(g, wire_id, message_error(WIRE_INVALID_ARGS, "the request has no method"), NULL,
                          0);
}

void request_on_notify(Guest *g, const Message *m)
{
        if (message_str(m->json, "method", NULL))
                g->ops->notify(g->userdata, g, m);
        else
                g->counters.n_requests_refused++;
}

/* --- for others --- */

static void sent(Guest *g)
{
        link_asked(g);
        link_flush(g);
        guest_arm(g);
}

uint64_t guest_request(Guest *g, json_object *json, const void *payload, size_t n_payload,
                       uint64_t timeout_usec, GuestReply done, void *userdata)
{
        Request *q = request_add(g, timeout_usec, userdata);
        uint64_t id = q->id;
        int r;

        q->done = done;
        if (g->state != GUEST_READY)
                request_fail_not_ready(g, q);
        else {
                r = session_request(g->link.session, json, payload, n_payload, &q->wire_id);
                if (r < 0)
                        request_fail_errno(g, q, r);
                else {
                        g_hash_table_insert(g->by_wire, GUINT_TO_POINTER(q->wire_id), q);
                        sent(g);
                }
        }
        json_object_put(json);
        return id;
}

uint64_t guest_ping(Guest *g, uint64_t timeout_usec, GuestPong done, void *userdata)
{
        Request *q = request_add(g, timeout_usec, userdata);
        uint64_t id = q->id;
        int r;

        q->pong = done;
        if (g->state != GUEST_READY)
                request_fail_not_ready(g, q);
        else {
                r = session_ping(g->link.session, id);
                if (r < 0)
                        request_fail_errno(g, q, r);
                else
                        sent(g);
        }
        return id;
}

void guest_cancel(Guest *g, uint64_t request)
{
        Request *q = g_hash_table_lookup(g->requests, &request);

        if (!q)
                return;
        if (q->wire_id > 0) {
                g_hash_table_remove(g->by_wire, GUINT_TO_POINTER(q->wire_id));
                if (g->link.session)
                        session_forget(g->link.session, q->wire_id);
        }
        g_hash_table_remove(g->requests, &request);
}

int guest_reply(Guest *g, uint32_t id, json_object *json, const void *payload, size_t n_payload)
{
        bool is_refusal = message_str(json, "error", NULL) != NULL;
        int r = g->link.phase == LINK_UP ? session_reply(g->link.session, id, json, payload, n_payload)
                                         : -ENOTCONN;

        json_object_put(json);
        if (r >= 0) {
                if (is_refusal)
                        g->counters.n_requests_refused++;
                link_flush(g);
                guest_arm(g);
        }
        return r;
}

int guest_notify(Guest *g, json_object *json)
{
        int r = g->link.phase == LINK_UP ? session_notify(g->link.session, json, NULL, 0) : -ENOTCONN;

        json_object_put(json);
        if (r >= 0) {
                link_flush(g);
                guest_arm(g);
        }
        return r;
}
