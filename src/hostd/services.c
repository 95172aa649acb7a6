/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/services.h"

#include <fnmatch.h>
#include <glib.h>
#include <inttypes.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/inbox.h"
#include "hostd/job.h"
#include "hostd/names.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/name.h"

#define CALL_TIMEOUT_MAX_USEC (3600 * USEC_PER_SEC)
#define CALL_TIMEOUT_USEC (20 * USEC_PER_SEC)

struct Services {
        sd_bus *bus;
        Host *host;
        Quota *quota;
        GHashTable *owners; /* topic → unique name */
        Inbox *inbox;
        GHashTable *calls;  /* Call*, owned */
        GHashTable *askers; /* guest uuid → Asker* */
};

typedef struct Asker { /* a guest that has called */
        QuotaBucket calls;
        AuditFlood refusals;
} Asker;

typedef struct Call { /* of a guest, under way to its owner */
        Services *services;
        char *guest_uuid, *guest_name, *topic;
        uint64_t id;
        size_t n_payload;
        uint32_t request;
        sd_bus_slot *slot; /* NULL: it was not called */
        bool is_over;      /* what became of it is in the journal */
} Call;

static void audit(Call *c, WireError error, const char *text)
{
        g_autofree char *id = g_strdup_printf("%" PRIu64, c->id);

        c->is_over = true;
        audit_write(&(AuditEntry){
                .verb = "call",
                .guest_uuid = c->guest_uuid,
                .guest_name = c->guest_name,
                .id = id,
                .topic = c->topic,
                .has_bytes = true,
                .n_bytes = c->n_payload,
                .error = error,
                .text = text,
        });
}

static void call_free(void *p)
{
        Call *c = p;

        if (c->slot && !c->is_over)
                audit(c, WIRE_INTERRUPTED, "The guest or hostd was gone before the answer");
        quota_release(c->services->quota, QUOTA_CALLS, c->guest_uuid);
        sd_bus_slot_unref(c->slot);
        g_free(c->guest_uuid);
        g_free(c->guest_name);
        g_free(c->topic);
        g_free(c);
}

static void answer(Guest *g, uint32_t request, json_object *json, const void *payload, size_t n)
{
        (void)guest_reply(g, request, json ? json : json_object_new_object(), payload,
                          n); /* its session may be over */
}

static Asker *find_asker(Services *s, const Guest *g)
{
        Asker *a = g_hash_table_lookup(s->askers, guest_uuid(g));

        if (!a) {
                a = g_new0(Asker, 1);
                g_hash_table_insert(s->askers, g_strdup(guest_uuid(g)), a);
        }
        return a;
}

/* m is the request's, for its id; its topic is checked, or NULL. */
static void refuse(Services *s, Guest *g, uint32_t request, const Message *m, const char *verb,
                   const char *topic, WireError error, const char *text)
{
        g_autofree char *id = g_strdup_printf("%" PRIu64, (uint64_t)message_int(m->json, "id", 0));

        audit_write_refusal(&find_asker(s, g)->refusals, &(AuditEntry){
                                                                 .verb = verb,
                                                                 .guest_uuid = guest_uuid(g),
                                                                 .guest_name = guest_name(g),
                                                                 .id = id,
                                                                 .topic = topic,
                                                                 .has_bytes = true,
                                                                 .n_bytes = m->n_payload,
                                                                 .error = error,
                                                                 .text = text,
                                                         });
        answer(g, request, message_error(error, "%s", text), NULL, 0);
}

static void fail(Call *c, Guest *g, WireError error, const char *text)
{
        audit(c, error, text);
        if (g)
                answer(g, c->request, message_error(error, "%s", text), NULL, 0);
}

static WireError error_of(const sd_bus_error *e)
{
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_NO_REPLY) ||
            sd_bus_error_has_name(e, SD_BUS_ERROR_TIMEOUT))
                return WIRE_TIMEOUT;
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
            sd_bus_error_has_name(e, SD_BUS_ERROR_NAME_HAS_NO_OWNER) ||
            sd_bus_error_has_name(e, SD_BUS_ERROR_UNKNOWN_OBJECT) ||
            sd_bus_error_has_name(e, SD_BUS_ERROR_UNKNOWN_METHOD))
                return WIRE_NO_HANDLER;
        return WIRE_FAILED;
}

static int on_answer(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        Call *c = userdata;
        Guest *g = host_find_guest_uuid(c->services->host, c->guest_uuid); /* NULL: gone; so is who asked */
        const sd_bus_error *e = sd_bus_message_get_error(reply);
        const void *payload;
        size_t n;

        (void)g_hash_table_steal(c->services->calls,
                                 c); /* answering can end the session, and all its calls */
        if (e)
                fail(c, g, error_of(e), e->message ? e->message : e->name);
        else if (sd_bus_message_read_array(reply, 'y', &payload, &n) < 0)
                fail(c, g, WIRE_FAILED, "The service on the host answered in a way of its own");
        else if (n > PAYLOAD_MAX)
                fail(c, g, WIRE_TOO_LARGE, "The answer of the service on the host is larger than a message");
        else {
                audit(c, WIRE_OK, NULL);
                if (g)
                        answer(g, c->request, NULL, payload, n);
        }
        call_free(c);
        return 1;
}

static void on_call(Services *s, Guest *g, uint32_t request, const Message *m, const char *topic)
{
        const Config *config = host_config(s->host);
        int64_t asked = message_int(m->json, "timeout", (int64_t)CALL_TIMEOUT_USEC);
        uint64_t timeout = MIN((uint64_t)MAX(asked, (int64_t)USEC_PER_MSEC), CALL_TIMEOUT_MAX_USEC);
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        const char *owner;
        Call *c;
        int r;

        if (!quota_bucket_take(&find_asker(s, g)->calls, config->max_messages_per_second, fs_now_usec())) {
                refuse(s, g, request, m, "call", topic, WIRE_LIMITS_EXCEEDED,
                       "Too many calls a second; try again later");
                return;
        }
        if (!services_may_call((const char *const *)config->guest_calls, topic, guest_name(g))) {
                refuse(s, g, request, m, "call", topic, WIRE_PERMISSION_DENIED,
                       "The host does not let this guest call that topic (AllowGuestCall= of hostd.conf)");
                return;
        }
        owner = g_hash_table_lookup(s->owners, topic);
        if (!owner) {
                refuse(s, g, request, m, "call", topic, WIRE_NO_HANDLER,
                       "No program on the host has registered that topic");
                return;
        }
        if (!quota_take(s->quota, QUOTA_CALLS, guest_uuid(g), config->max_calls_per_guest)) {
                refuse(s, g, request, m, "call", topic, WIRE_LIMITS_EXCEEDED,
                       "Too many calls of this guest are under way");
                return;
        }
        c = g_new0(Call, 1);
        *c = (Call){ .services = s,
                     .guest_uuid = g_strdup(guest_uuid(g)),
                     .guest_name = g_strdup(guest_name(g)),
                     .topic = g_strdup(topic),
                     .id = (uint64_t)message_int(m->json, "id", 0),
                     .n_payload = m->n_payload,
                     .request = request };
        g_hash_table_add(s->calls, c);
        if ((r = sd_bus_message_new_method_call(s->bus, &call, owner, BUS_SERVICE_PATH, IFACE_SERVICE,
                                                "Call")) < 0 ||
            (r = sd_bus_message_append(call, "sss", guest_name(g), guest_uuid(g), topic)) < 0 ||
            (r = sd_bus_message_append_array(call, 'y', m->payload, m->n_payload)) < 0 ||
            (r = sd_bus_message_set_auto_start(call, false)) < 0 ||
            (r = sd_bus_call_async(s->bus, &c->slot, call, on_answer, c, timeout)) < 0) {
                g_hash_table_remove(s->calls, c);
                refuse(s, g, request, m, "call", topic, WIRE_FAILED,
                       "The service on the host cannot be called");
                return;
        }
}

static void on_request(void *userdata, Guest *g, uint32_t id, const Message *m)
{
        Services *s = userdata;
        const char *method = message_str(m->json, "method", ""), *topic = message_str(m->json, "topic", "");
        bool is_call = str_eq(method, "message.call");

        if (!is_call && !str_eq(method, "message.publish"))
                refuse(s, g, id, m, "request", NULL, WIRE_UNSUPPORTED, "The host does not know that method");
        else if (!name_is_topic(topic))
                refuse(s, g, id, m, is_call ? "call" : "publish", NULL, WIRE_INVALID_ARGS,
                       "That is no topic");
        else if (is_call)
                on_call(s, g, id, m, topic);
        else
                inbox_take(s->inbox, g, id, m, topic);
}

static gboolean is_of_guest(void *key, void *value, void *userdata)
{
        return str_eq(((Call *)key)->guest_uuid, userdata);
}

static void on_guest_state(void *userdata, Guest *g, GuestState old)
{
        Services *s = userdata;

        if (old == GUEST_READY && guest_state(g) != GUEST_READY) { /* its request ids are dead */
                g_hash_table_foreach_remove(s->calls, is_of_guest, (void *)guest_uuid(g));
                inbox_guest_away(s->inbox, g);
        }
}

static void on_guest_removed(void *userdata, Guest *g)
{
        Services *s = userdata;

        g_hash_table_foreach_remove(s->calls, is_of_guest, (void *)guest_uuid(g));
        inbox_guest_removed(s->inbox, g);
        g_hash_table_remove(s->askers, guest_uuid(g));
}

static const HostListener listener = {
        .guest_request = on_request,
        .guest_state = on_guest_state,
        .guest_removed = on_guest_removed,
};

Services *services_new(sd_bus *bus, Host *h, Quota *quota)
{
        Services *s = g_new0(Services, 1);

        s->bus = sd_bus_ref(bus);
        s->host = h;
        s->quota = quota;
        s->owners = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        s->inbox = inbox_new(bus, h);
        s->calls = g_hash_table_new_full(NULL, NULL, call_free, NULL);
        s->askers = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        host_listen(h, &listener, s);
        return s;
}

Services *services_free(Services *s)
{
        if (!s)
                return NULL;
        g_hash_table_unref(s->calls);
        g_hash_table_unref(s->askers);
        g_hash_table_unref(s->owners);
        inbox_free(s->inbox);
        sd_bus_unref(s->bus);
        g_free(s);
        return NULL;
}

WireError services_register(Services *s, const char *topic, const char *owner, char **ret_text)
{
        const char *now;

        if (!name_is_topic(topic)) {
                *ret_text = g_strdup_printf(
                        "\"%s\" is no topic: letters, digits, '.', '_' and '-', not beginning with a dot",
                        topic);
                return WIRE_INVALID_ARGS;
        }
        now = g_hash_table_lookup(s->owners, topic);
        if (now && !str_eq(now, owner)) {
                *ret_text = g_strdup_printf("Topic %s is registered by another program (%s)", topic, now);
                return WIRE_EXISTS;
        }
        g_hash_table_insert(s->owners, g_strdup(topic), g_strdup(owner));
        return WIRE_OK;
}

WireError services_unregister(Services *s, const char *topic, const char *owner, char **ret_text)
{
        if (!str_eq(g_hash_table_lookup(s->owners, topic), owner)) {
                *ret_text = g_strdup_printf("Topic %s is not registered by this program", topic);
                return WIRE_NOT_FOUND;
        }
        g_hash_table_remove(s->owners, topic);
        return WIRE_OK;
}

static gboolean is_owned_by(void *key, void *value, void *userdata)
{
        return str_eq(value, userdata);
}

void services_owner_left(Services *s, const char *owner)
{
        g_hash_table_foreach_remove(s->owners, is_owned_by, (void *)owner);
}

bool services_may_call(const char *const *rules, const char *topic, const char *guest)
{
        for (; rules && *rules; rules++) {
                const char *colon = strchr(*rules, ':');
                if (!colon) /* names no guest: allows nothing */
                        continue;
                g_autofree char *glob = g_strndup(*rules, (size_t)(colon - *rules));
                if (fnmatch(glob, topic, 0) == 0 && fnmatch(colon + 1, guest, 0) == 0)
                        return true;
        }
        return false;
}
