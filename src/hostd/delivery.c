/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A one-way message whose session was lost is sent again, with its id, once the guest is ready: the guest
 * drops repeats. A call is not: what it did cannot be known.
 */

#include "hostd/delivery.h"

#include <glib.h>
#include <inttypes.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/loop.h"
#include "hostd/quota.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/name.h"

#define KEY_MAX 255u
#define RETRY_USEC (250 * USEC_PER_MSEC)
#define ANSWER_GRACE_USEC USEC_PER_SEC /* the guest keeps the time and says so itself */

struct Delivery {
        Jobs *jobs;
        uint64_t request; /* under way; 0 */
        Guest *guest;     /* of the request: it ends that before it goes */
        char *guest_uuid, *guest_name;
        char *share; /* of the caller, in QUOTA_SHARE; NULL: not limited */
        Caller *caller;
        bool is_call, queued, keyed;
        bool is_timed; /* by the caller */
        char *topic;
        uint8_t *payload;
        size_t n_payload;
        uint64_t id, deadline_usec; /* USEC_INFINITY: none */
        LoopTimer *retry;
        DeliveryDone done; /* NULL: nobody asks any more */
        void *userdata;
};

static GHashTable *under_way; /* Delivery* */

uint64_t delivery_next_id(void)
{
        static uint64_t last;
        uint64_t now = fs_realtime_usec();
        return last = MAX(now, last + 1);
}

WireError delivery_check_key(const char *key, char **ret_text)
{
        if (*key && strlen(key) <= KEY_MAX)
                return WIRE_OK;
        *ret_text = g_strdup_printf("A key has 1 to %u bytes", KEY_MAX);
        return WIRE_INVALID_ARGS;
}

/* Nobody can choose a key that makes another's message a repeat: that is why it is not a fast hash. */
uint64_t delivery_id_of_key(const Guest *g, uid_t uid, bool is_call, const char *topic, const char *key)
{
        g_autofree char *text = g_strdup_printf("%s\n%" PRIu32 "\n%s\n%s\n%s", guest_uuid(g), (uint32_t)uid,
                                                is_call ? "call" : "send", topic, key);
        g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
        uint8_t digest[32];
        gsize n = sizeof(digest);
        uint64_t id;

        g_checksum_update(sum, (const guchar *)text, -1);
        g_checksum_get_digest(sum, digest, &n);
        id = load_le64(digest) >> 1; /* JSON's integers are signed */
        return id ? id : 1;
}

static void release(Jobs *js, const char *guest_uuid, const char *share)
{
        quota_release(jobs_quota(js), QUOTA_CALLS, guest_uuid);
        if (share)
                quota_release(jobs_quota(js), QUOTA_SHARE, share);
}

static void finish(Delivery *d, WireError error, const char *text, const Message *m)
{
        g_autofree char *id = g_strdup_printf("%" PRIu64, d->id);

        g_hash_table_remove(under_way, d);
        if (!d->queued)
                audit_write(&(AuditEntry){
                        .verb = d->is_call ? "call" : "send",
                        .caller = d->caller,
                        .guest_uuid = d->guest_uuid,
                        .guest_name = d->guest_name,
                        .id = id,
                        .topic = d->topic,
                        .has_bytes = true,
                        .n_bytes = d->n_payload,
                        .error = error,
                        .text = text,
                });
        release(d->jobs, d->guest_uuid, d->share);
        if (d->done)
                d->done(d->userdata, error, text, d->id, m ? m->payload : NULL, m ? m->n_payload : 0);
        loop_timer_free(d->retry);
        caller_free(d->caller);
        g_free(d->guest_uuid);
        g_free(d->guest_name);
        g_free(d->share);
        g_free(d->topic);
        g_free(d->payload);
        g_free(d);
}

/* Whose topic it was, and what to do where nothing serves it. */
static char *sentence(const Delivery *d, WireError error, const char *text)
{
        const char *bare = job_bare_text(d->guest_name, text);

        if (error == WIRE_NO_HANDLER)
                return g_strdup_printf("Guest %s has nothing that serves topic %s: it needs an executable "
                                       "/etc/vmferry/handlers.d/%s, or a program on its local socket that "
                                       "subscribes to it",
                                       d->guest_name, d->topic, d->topic);
        if (bare == text)
                return g_strdup_printf("Message to topic %s: %s", d->topic, text);
        return g_strdup_printf("Topic %s of guest %s: %s", d->topic, d->guest_name, bare);
}

static uint64_t time_left(const Delivery *d)
{
        uint64_t now = fs_now_usec();

        if (d->deadline_usec == USEC_INFINITY)
                return USEC_INFINITY;
        return d->deadline_usec > now ? d->deadline_usec - now : 0;
}

static void on_reply(void *userdata, WireError error, const char *text, const Message *m)
{
        Delivery *d = userdata;
        g_autofree char *why = NULL;

        d->request = 0;
        if (error == WIRE_INTERRUPTED && !d->is_call && d->retry && time_left(d) > RETRY_USEC)
                loop_timer_set(d->retry, fs_now_usec() + RETRY_USEC, RETRY_USEC / 4);
        else if (error == WIRE_OK)
                finish(d, WIRE_OK, NULL, m);
        else {
                why = sentence(d, error, text);
                finish(d, error, why, NULL);
        }
}

/* A time that the caller named is the handler's. Else the guest has its own for that, within which a call is
 * answered if it is shorter than what we wait; a message is taken long before. */
static void set_time(const Delivery *d, json_object *o, uint64_t left)
{
        const char *key = d->is_timed ? "timeout" : d->is_call ? "within" : NULL;

        if (key && left <= INT64_MAX)
                json_object_object_add(o, key, json_object_new_int64((int64_t)left));
}

static void start(Delivery *d, Guest *g)
{
        json_object *o = json_object_new_object();
        uint64_t left = MAX(time_left(d), 1); /* 0 would be the guest's own default */

        json_object_object_add(o, "method",
                               json_object_new_string(d->is_call ? "message.call" : "message.send"));
        json_object_object_add(o, "topic", json_object_new_string(d->topic));
        json_object_object_add(o, "id", json_object_new_int64((int64_t)d->id));
        if (d->queued)
                json_object_object_add(o, "wait", json_object_new_boolean(true));
        if (d->keyed)
                json_object_object_add(o, "keyed", json_object_new_boolean(true));
        set_time(d, o, left);
        d->guest = g;
        d->request = guest_request(g, o, d->payload, d->n_payload,
                                   left < USEC_INFINITY - ANSWER_GRACE_USEC ? left + ANSWER_GRACE_USEC
                                                                            : USEC_INFINITY,
                                   on_reply, d);
}

static void on_retry(void *userdata)
{
        Delivery *d = userdata;
        Guest *g = host_find_guest_uuid(jobs_host(d->jobs), d->guest_uuid);

        if (g && guest_state(g) == GUEST_READY)
                start(d, g);
        else if (g && guest_state(g) != GUEST_OFF && time_left(d) > RETRY_USEC)
                loop_timer_set(d->retry, fs_now_usec() + RETRY_USEC, RETRY_USEC / 4);
        else {
                g_autofree char *text = g_strdup_printf(
                        "Guest %s was lost before it confirmed message %" PRIu64 " to topic %s; it may have "
                        "arrived",
                        d->guest_name, d->id, d->topic);
                finish(d, WIRE_INTERRUPTED, text, NULL);
        }
}

WireError delivery_check(const Guest *g, const char *topic, size_t n_payload, char **ret_text)
{
        if (strlen(topic) > TOPIC_MAX) {
                *ret_text = g_strdup_printf("The topic for guest %s is too long: it has at most %u bytes",
                                            guest_name(g), TOPIC_MAX);
                return WIRE_TOO_LARGE;
        }
        if (!name_is_topic(topic)) {
                *ret_text = g_strdup_printf("\"%s\" is no topic of guest %s: letters, digits, '.', '_' and "
                                            "'-', not beginning with a dot",
                                            topic, guest_name(g));
                return WIRE_INVALID_ARGS;
        }
        if (n_payload > PAYLOAD_MAX) {
                *ret_text = g_strdup_printf(
                        "The payload for topic %s of guest %s has %zu bytes; a message carries at most %u",
                        topic, guest_name(g), n_payload, PAYLOAD_MAX);
                return WIRE_TOO_LARGE;
        }
        return WIRE_OK;
}

/* A place among what is under way with the guest, and in its caller's share of that. */
static WireError take_place(Jobs *js, const Guest *g, const Caller *caller, char **ret_share,
                            char **ret_text)
{
        const Config *c = host_config(jobs_host(js));
        g_autofree char *share =
                caller->uid == 0 ? NULL
                                 : g_strdup_printf("%s %" PRIu32, guest_uuid(g), (uint32_t)caller->uid);

        if (share && !quota_take(jobs_quota(js), QUOTA_SHARE, share, c->max_calls_per_caller)) {
                *ret_text = g_strdup_printf("User %" PRIu32 " has %" PRIu32
                                            " messages and calls under way with guest %s, the most that one "
                                            "user may have (MaxCallsPerCaller= of hostd.conf)",
                                            (uint32_t)caller->uid, c->max_calls_per_caller, guest_name(g));
                return WIRE_LIMITS_EXCEEDED;
        }
        if (!quota_take(jobs_quota(js), QUOTA_CALLS, guest_uuid(g), c->max_calls_per_guest)) {
                if (share)
                        quota_release(jobs_quota(js), QUOTA_SHARE, share);
                *ret_text = g_strdup_printf("Guest %s has %" PRIu32
                                            " messages and calls under way, the most at once "
                                            "(MaxCallsPerGuest= of hostd.conf)",
                                            guest_name(g), c->max_calls_per_guest);
                return WIRE_LIMITS_EXCEEDED;
        }
        *ret_share = TAKE(share);
        return WIRE_OK;
}

Delivery *delivery_send(Jobs *js, Guest *g, const Caller *caller, bool is_call, const char *topic,
                        const void *payload, size_t n_payload, const DeliveryOptions *options,
                        DeliveryDone done, void *userdata)
{
        uint64_t timeout = options->timeout_usec == 0 ? DELIVERY_TIMEOUT_USEC : options->timeout_usec,
                 now = fs_now_usec();
        g_autofree char *text = NULL, *share = NULL;
        WireError error = delivery_check(g, topic, n_payload, &text);
        Delivery *d;

        if (error == WIRE_OK)
                error = jobs_check_guest(g, &text);
        if (error == WIRE_OK)
                error = take_place(js, g, caller, &share, &text);
        if (error != WIRE_OK) {
                if (!options->queued)
                        audit_write(&(AuditEntry){
                                .verb = is_call ? "call" : "send",
                                .caller = caller,
                                .guest_uuid = guest_uuid(g),
                                .guest_name = guest_name(g),
                                .topic = topic,
                                .has_bytes = true,
                                .n_bytes = n_payload,
                                .refused = true,
                                .error = error,
                                .text = text,
                        });
                done(userdata, error, text, 0, NULL, 0);
                return NULL;
        }
        d = g_new0(Delivery, 1);
        *d = (Delivery){
                .jobs = js,
                .guest_uuid = g_strdup(guest_uuid(g)),
                .guest_name = g_strdup(guest_name(g)),
                .share = TAKE(share),
                .caller = caller_copy(caller),
                .is_call = is_call,
                .queued = options->queued,
                .keyed = options->keyed,
                .is_timed = options->timeout_usec != 0,
                .topic = g_strdup(topic),
                .payload = n_payload > 0 ? g_memdup2(payload, n_payload) : NULL,
                .n_payload = n_payload,
                .id = options->id ? options->id : delivery_next_id(),
                .deadline_usec = timeout < USEC_INFINITY - now ? now + timeout : USEC_INFINITY,
                .retry = is_call ? NULL : loop_timer_new(loop_default(), on_retry, d), /* NULL: one try */
                .done = done,
                .userdata = userdata,
        };
        if (!under_way)
                under_way = g_hash_table_new(NULL, NULL);
        g_hash_table_add(under_way, d);
        start(d, g);
        return d;
}

static void stop(Delivery *d, WireError error, const char *text)
{
        if (d->request != 0)
                guest_cancel(d->guest, d->request);
        finish(d, error, text, NULL);
}

void delivery_cancel(Delivery *d)
{
        d->done = NULL;
        stop(d, WIRE_CANCELLED, "Cancelled; the message may have arrived");
}

/* One after the other: what is told of an end may end others. */
static Delivery *find(bool (*matches)(const Delivery *d, const void *key), const void *key)
{
        GHashTableIter i;
        void *d;

        if (!under_way)
                return NULL;
        g_hash_table_iter_init(&i, under_way);
        while (g_hash_table_iter_next(&i, &d, NULL))
                if (matches(d, key))
                        return d;
        return NULL;
}

static bool is_call_of(const Delivery *d, const void *sender)
{
        return d->is_call && !d->queued && str_eq(d->caller->sender, sender);
}

void delivery_caller_left(const char *sender)
{
        Delivery *d;

        while ((d = find(is_call_of, sender)))
                stop(d, WIRE_CANCELLED, "The caller has left the bus; what it called may have been done");
}

static bool is_any(const Delivery *d, const void *key)
{
        return true;
}

void delivery_stop_all(void)
{
        Delivery *d;

        while ((d = find(is_any, NULL)))
                stop(d, WIRE_INTERRUPTED, "hostd ends; the message may have arrived");
}
