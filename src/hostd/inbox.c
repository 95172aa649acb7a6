/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A guest has a line here while it is known: of what is too fast, and of what the bus has not read yet. What
 * was answered the guest forgets: by then it is in the bus's socket, and arrives whatever becomes of hostd.
 */

#include "hostd/inbox.h"

#include <glib.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "hostd/names.h"
#include "proto/limits.h"
#include "proto/message.h"

#define TURN_USEC (10 * USEC_PER_MSEC) /* several in one go rather than a timer for each */

typedef struct Held {
        uint32_t request;
        uint64_t id;
        char *topic;
        uint8_t *payload;
        size_t n;
} Held;

typedef struct Line {
        Inbox *inbox;
        char *guest_uuid;
        QuotaBucket bucket;
        AuditFlood refusals;
        GQueue held;    /* Held*, oldest first: not signalled yet */
        GQueue sent;    /* Held*: signalled, not answered, as sd-bus has them in a queue of its own */
        size_t n_bytes; /* of both */
        LoopTimer *timer;
} Line;

struct Inbox {
        sd_bus *bus;
        Host *host;
        GHashTable *lines; /* guest uuid → Line*, owned */
};

static void held_free(void *p)
{
        Held *x = p;

        g_free(x->topic);
        g_free(x->payload);
        g_free(x);
}

static size_t held_bytes(size_t n_payload)
{
        return sizeof(Held) + TOPIC_MAX + n_payload;
}

static void line_clear(Line *l)
{
        g_queue_clear_full(&l->held, held_free);
        g_queue_clear_full(&l->sent, held_free);
        l->n_bytes = 0;
}

static void line_free(void *p)
{
        Line *l = p;

        line_clear(l);
        loop_timer_free(l->timer);
        g_free(l->guest_uuid);
        g_free(l);
}

static int emit(Inbox *b, Guest *g, uint64_t id, const char *topic, const void *payload, size_t n)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *all = NULL, *own = NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        (void)((r = sd_bus_path_encode(BUS_GUEST_PREFIX, guest_uuid(g), &path)) < 0 ||
               (r = sd_bus_message_new_signal(b->bus, &all, BUS_PATH, IFACE_MANAGER, "MessageReceived")) <
                       0 ||
               (r = sd_bus_message_append(all, "oss", path, guest_name(g), topic)) < 0 ||
               (r = sd_bus_message_append_array(all, 'y', payload, n)) < 0 ||
               (r = sd_bus_message_append(all, "t", id)) < 0 ||
               (r = sd_bus_message_new_signal(b->bus, &own, path, IFACE_GUEST, "MessageReceived")) < 0 ||
               (r = sd_bus_message_append(own, "s", topic)) < 0 ||
               (r = sd_bus_message_append_array(own, 'y', payload, n)) < 0 ||
               (r = sd_bus_message_append(own, "t", id)) < 0 || (r = sd_bus_send(b->bus, all, NULL)) < 0 ||
               (r = sd_bus_send(b->bus, own, NULL)) < 0);
        return r;
}

static void refuse(Line *l, Guest *g, uint32_t request, const AuditEntry *asked, WireError error,
                   const char *text)
{
        AuditEntry a = *asked;

        a.error = error;
        a.text = text;
        audit_write_refusal(&l->refusals, &a);
        (void)guest_reply(g, request, message_error(error, "%s", text), NULL, 0);
}

static AuditEntry entry_of(const Guest *g, uint64_t id, const char *topic, size_t n, char ret_id[static 24])
{
        (void)snprintf(ret_id, 24, "%" PRIu64, id);
        return (AuditEntry){
                .verb = "publish",
                .guest_uuid = guest_uuid(g),
                .guest_name = guest_name(g),
                .id = ret_id,
                .topic = topic,
                .has_bytes = true,
                .n_bytes = n,
        };
}

static bool is_bus_written(const Inbox *b)
{
        uint64_t n = 0;

        return sd_bus_get_n_queued_write(b->bus, &n) < 0 || n == 0;
}

static void line_keep(Line *l, GQueue *where, Held *x)
{
        if (g_queue_is_empty(&l->held) && g_queue_is_empty(&l->sent))
                loop_timer_set(l->timer, fs_now_usec() + TURN_USEC, TURN_USEC / 2);
        l->n_bytes += held_bytes(x->n);
        g_queue_push_tail(where, x);
}

static Held *line_take(Line *l, GQueue *from)
{
        Held *x = g_queue_pop_head(from);

        if (x)
                l->n_bytes -= held_bytes(x->n);
        return x;
}

static void answer_sent(Line *l, Guest *g)
{
        Held *x;

        while (is_bus_written(l->inbox) && (x = line_take(l, &l->sent))) {
                (void)guest_reply(g, x->request, json_object_new_object(), NULL, 0);
                held_free(x);
        }
}

/* True: the bus has it, or it is refused; false: neither is there room for it on the bus now. */
static bool pass(Line *l, Guest *g, uint32_t request, uint64_t id, const char *topic, const void *payload,
                 size_t n)
{
        int r = emit(l->inbox, g, id, topic, payload, n);
        AuditEntry entry;
        char text[24];

        if (r == -ENOBUFS)
                return false;
        entry = entry_of(g, id, topic, n, text);
        if (r < 0) {
                log_guest(LOG_WARNING, guest_uuid(g), guest_name(g), 0,
                          "Cannot signal a message of guest %s: %s", guest_name(g), g_strerror(-r));
                refuse(l, g, request, &entry, WIRE_FAILED, "The host's bus did not take the message");
        } else {
                Held *x = g_new0(Held, 1);

                *x = (Held){ .request = request, .n = n };
                audit_write(&entry);
                line_keep(l, &l->sent, x);
                answer_sent(l, g);
        }
        return true;
}

static bool may_pass(Line *l)
{
        return quota_bucket_take(&l->bucket, host_config(l->inbox->host)->max_messages_per_second,
                                 fs_now_usec());
}

static void on_turn(void *userdata)
{
        Line *l = userdata;
        Guest *g = host_find_guest_uuid(l->inbox->host, l->guest_uuid);
        Held *x;

        if (g)
                answer_sent(l, g);
        while (g && (x = g_queue_peek_head(&l->held)) && may_pass(l) &&
               pass(l, g, x->request, x->id, x->topic, x->payload, x->n)) {
                /* Answering can end the session, and with it all that is held. */
                if (g_queue_peek_head(&l->held) != x)
                        break;
                held_free(line_take(l, &l->held));
        }
        if (!g_queue_is_empty(&l->held) || !g_queue_is_empty(&l->sent))
                loop_timer_set(l->timer, fs_now_usec() + TURN_USEC, TURN_USEC / 2);
}

static Line *find_line(Inbox *b, const Guest *g)
{
        Line *l = g_hash_table_lookup(b->lines, guest_uuid(g));

        if (l)
                return l;
        l = g_new0(Line, 1);
        l->inbox = b;
        l->guest_uuid = g_strdup(guest_uuid(g));
        l->timer = loop_timer_new(loop_default(), on_turn, l);
        g_queue_init(&l->held);
        g_queue_init(&l->sent);
        if (!l->timer) {
                line_free(l);
                return NULL;
        }
        g_hash_table_insert(b->lines, l->guest_uuid, l);
        return l;
}

static void hold(Line *l, uint32_t request, const Message *m, const char *topic)
{
        Held *x = g_new0(Held, 1);

        *x = (Held){
                .request = request,
                .id = (uint64_t)message_int(m->json, "id", 0),
                .topic = g_strdup(topic),
                .payload = m->n_payload > 0 ? g_memdup2(m->payload, m->n_payload) : NULL,
                .n = m->n_payload,
        };
        line_keep(l, &l->held, x);
}

void inbox_take(Inbox *b, Guest *g, uint32_t request, const Message *m, const char *topic)
{
        uint64_t id = (uint64_t)message_int(m->json, "id", 0);
        Line *l = find_line(b, g);
        const char *why = NULL;

        if (!l) {
                (void)guest_reply(g, request, message_error(WIRE_LIMITS_EXCEEDED, "No memory on the host"),
                                  NULL, 0);
                return;
        }
        if (host_config(b->host)->max_messages_per_second == 0)
                why = "The host takes no messages of guests now";
        else if (l->n_bytes + held_bytes(m->n_payload) > INBOX_HELD_BYTES_MAX)
                why = "Too many messages a second; send it again later";
        if (why) {
                char text[24];
                AuditEntry entry = entry_of(g, id, topic, m->n_payload, text);

                refuse(l, g, request, &entry, WIRE_LIMITS_EXCEEDED, why);
        } else if (!g_queue_is_empty(&l->held) || !may_pass(l) ||
                   !pass(l, g, request, id, topic, m->payload, m->n_payload))
                hold(l, request, m, topic);
}

void inbox_guest_away(Inbox *b, Guest *g)
{
        Line *l = g_hash_table_lookup(b->lines, guest_uuid(g));

        if (l)
                line_clear(l);
}

void inbox_guest_removed(Inbox *b, Guest *g)
{
        g_hash_table_remove(b->lines, guest_uuid(g));
}

Inbox *inbox_new(sd_bus *bus, Host *h)
{
        Inbox *b = g_new0(Inbox, 1);

        *b = (Inbox){
                .bus = sd_bus_ref(bus),
                .host = h,
                .lines = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, line_free),
        };
        return b;
}

Inbox *inbox_free(Inbox *b)
{
        if (!b)
                return NULL;
        g_hash_table_unref(b->lines);
        sd_bus_unref(b->bus);
        g_free(b);
        return NULL;
}
