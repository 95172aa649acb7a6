/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A line for each guest. The head of a line is carried out when it is on disk and the guest is ready; it
 * leaves the line when its job has ended, and that is when the next one's turn has come. The job itself
 * writes it down and takes it out.
 */

#include "hostd/queue-private.h"

#include <glib.h>
#include <inttypes.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/delivery.h"
#include "hostd/log.h"
#include "hostd/quota.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/name.h"

#define RETRY_USEC USEC_PER_SEC
#define CLOCK_LOOK_USEC (3600 * USEC_PER_SEC) /* ttl is by the calendar, timers are not */
#define KEYS_KEPT 1024u

typedef struct Waiter {
        QueueDone done;
        void *userdata;
} Waiter;

struct Queue {
        Jobs *jobs;
        GHashTable *items; /* id → QueueItem*, owned */
        GHashTable *lines; /* guest uuid → GQueue of QueueItem* */
        GHashTable *keys;  /* key_format() → id, as long as the job is known */
        LoopTimer *expiry, *retry;
};

static Queue *the_queue; /* for what the store tells late */

Jobs *queue_jobs(Queue *q)
{
        return q->jobs;
}

QueueItem *queue_find(Queue *q, uint32_t id)
{
        return g_hash_table_lookup(q->items, GUINT_TO_POINTER(id));
}

bool queue_has(const Queue *q, uint32_t id)
{
        return g_hash_table_contains(q->items, GUINT_TO_POINTER(id));
}

static char *uid_key(uid_t uid)
{
        return g_strdup_printf("%" PRIu32, (uint32_t)uid);
}

static void tell_waiters(QueueItem *i, WireError error, const char *text, const Job *j)
{
        GSList *waiters = TAKE(i->waiters);

        for (GSList *l = waiters; l; l = l->next) {
                Waiter *w = l->data;
                w->done(w->userdata, error, text, j);
        }
        g_slist_free_full(waiters, g_free);
}

static void arm_expiry(Queue *q)
{
        uint64_t now = fs_realtime_usec(), first = UINT64_MAX;
        GHashTableIter iter;
        void *p;

        g_hash_table_iter_init(&iter, q->items);
        while (g_hash_table_iter_next(&iter, NULL, &p)) {
                const QueueItem *i = p;
                if (i->expires_at > 0 && !i->is_running)
                        first = MIN(first, i->expires_at);
        }
        if (first == UINT64_MAX)
                loop_timer_set(q->expiry, USEC_INFINITY, 0);
        else
                loop_timer_set(q->expiry,
                               fs_now_usec() + MIN(first > now ? first - now : 0, CLOCK_LOOK_USEC),
                               USEC_PER_SEC / 10);
}

static void expire(QueueItem *i)
{
        g_autofree char *text = g_strdup_printf(
                "Guest %s was not ready within the item's ttl: it is not carried out", i->guest_name);
        Job *j = item_job(i);

        log_guest(LOG_WARNING, i->guest_uuid, i->guest_name, i->id, "Queued item %" PRIu32 ": %s", i->id,
                  text);
        if (j->kind != JOB_SEND) /* on_ended() does it */
                item_audit(i, j, WIRE_TIMEOUT, text);
        job_finish(i->queue->jobs, j, WIRE_TIMEOUT, text, NULL);
}

static void on_expiry(void *userdata)
{
        g_autoptr(GArray) due = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        uint64_t now = fs_realtime_usec();
        Queue *q = userdata;
        GHashTableIter iter;
        void *p;

        g_hash_table_iter_init(&iter, q->items);
        while (g_hash_table_iter_next(&iter, NULL, &p)) {
                const QueueItem *i = p;
                if (i->expires_at > 0 && i->expires_at <= now && !i->is_running && i->is_on_disk)
                        g_array_append_val(due, i->id);
        }
        for (guint n = 0; n < due->len; n++) {
                QueueItem *i = queue_find(q, g_array_index(due, uint32_t, n));
                if (i)
                        expire(i);
        }
        arm_expiry(q);
}

static void advance(Queue *q, const char *uuid)
{
        GQueue *line = g_hash_table_lookup(q->lines, uuid);
        Guest *g = host_find_guest_uuid(jobs_host(q->jobs), uuid);
        QueueItem *i = line ? g_queue_peek_head(line) : NULL;

        if (!i || i->is_running || !i->is_on_disk || !g || guest_state(g) != GUEST_READY)
                return;
        if (i->expires_at > 0 && i->expires_at <= fs_realtime_usec())
                expire(i); /* which comes here again */
        else
                item_run(i, g);
}

void queue_retry(QueueItem *i, WireError error)
{
        bool was_refused = error == WIRE_NOT_READY || error == WIRE_LIMITS_EXCEEDED;

        i->is_running = false;
        if (!was_refused)
                i->expires_at = 0; /* it may have arrived: it is not given up any more */
        job_set_state(i->queue->jobs, item_job(i), JOB_WAITING);
        loop_timer_set(i->queue->retry, fs_now_usec() + RETRY_USEC, RETRY_USEC / 4);
}

static void on_retry(void *userdata)
{
        g_autoptr(GPtrArray) uuids = g_ptr_array_new_with_free_func(g_free);
        Queue *q = userdata;
        GHashTableIter iter;
        void *uuid;

        g_hash_table_iter_init(&iter, q->lines);
        while (g_hash_table_iter_next(&iter, &uuid, NULL))
                g_ptr_array_add(uuids, g_strdup(uuid));
        for (guint n = 0; n < uuids->len; n++)
                advance(q, g_ptr_array_index(uuids, n));
}

static void item_remove(QueueItem *i)
{
        GQueue *line = g_hash_table_lookup(i->queue->lines, i->guest_uuid);
        g_autofree char *uid = uid_key(i->uid);

        quota_release(jobs_quota(i->queue->jobs), QUOTA_QUEUED, uid);
        g_queue_remove(line, i);
        if (g_queue_is_empty(line))
                g_hash_table_remove(i->queue->lines, i->guest_uuid);
        g_hash_table_remove(i->queue->items, GUINT_TO_POINTER(i->id));
}

static void on_ended(void *userdata, const Job *j)
{
        g_autofree char *uuid = g_strdup(j->guest_uuid);
        QueueItem *i = queue_find(userdata, j->id);

        if (!i)
                return;
        if (j->kind == JOB_SEND) /* the engines of others do it */
                item_audit(i, j, j->error, j->error_message);
        tell_waiters(i, j->error != WIRE_OK ? j->error : WIRE_INTERRUPTED, j->error_message, j);
        item_remove(i);
        advance(userdata, uuid);
}

static void on_guest_state(void *userdata, Guest *g, GuestState old)
{
        if (guest_state(g) == GUEST_READY && old != GUEST_READY)
                advance(userdata, guest_uuid(g));
}

static const HostListener listener = { .guest_state = on_guest_state };

static void free_item(void *p)
{
        (void)item_free(p);
}

static void free_line(void *p)
{
        g_queue_free(p);
}

Queue *queue_new(Jobs *js)
{
        Queue *q = g_new0(Queue, 1);

        q->jobs = js;
        q->items = g_hash_table_new_full(NULL, NULL, NULL, free_item);
        q->lines = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_line);
        q->keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        q->expiry = loop_timer_new(loop_default(), on_expiry, q);
        q->retry = loop_timer_new(loop_default(), on_retry, q);
        the_queue = q;
        if (!q->expiry || !q->retry)
                return queue_free(q);
        host_listen(jobs_host(js), &listener, q);
        return q;
}

Queue *queue_free(Queue *q)
{
        GHashTableIter iter;
        void *p;

        if (!q)
                return NULL;
        the_queue = NULL;
        g_hash_table_iter_init(&iter, q->items);
        while (g_hash_table_iter_next(&iter, NULL, &p)) {
                QueueItem *i = p;
                Job *j = item_job(i);
                if (j)
                        job_on_end(j, NULL, NULL);
                tell_waiters(i, WIRE_INTERRUPTED, "hostd ends; the item may be kept", NULL);
        }
        g_hash_table_unref(q->lines);
        g_hash_table_unref(q->items);
        g_hash_table_unref(q->keys);
        loop_timer_free(q->expiry);
        loop_timer_free(q->retry);
        g_free(q);
        return NULL;
}

static void enter(Queue *q, QueueItem *i, Job *j)
{
        GQueue *line = g_hash_table_lookup(q->lines, j->guest_uuid);

        i->queue = q;
        i->id = j->id;
        i->guest_uuid = g_strdup(j->guest_uuid);
        i->guest_name = g_strdup(j->guest_name);
        i->uid = j->caller->uid;
        if (i->start)
                item_show_process(i, j);
        if (!line) {
                line = g_queue_new();
                g_hash_table_insert(q->lines, g_strdup(j->guest_uuid), line);
        }
        g_queue_push_tail(line, i);
        g_hash_table_insert(q->items, GUINT_TO_POINTER(j->id), i);
        job_on_end(j, on_ended, q);
}

/* Keys */

/* what: the method, and the topic of a message. */
static char *key_format(const char *guest_uuid, uid_t uid, const char *what, const char *key)
{
        return g_strdup_printf("%s\n%" PRIu32 "\n%s\n%s", guest_uuid, (uint32_t)uid, what, key);
}

static char *what_of(JobKind kind, bool is_call, const char *topic)
{
        return kind == JOB_SEND ? g_strdup_printf("%s %s", is_call ? "call" : "send", topic)
                                : g_strdup(job_kind_to_string(kind));
}

static gboolean is_forgotten(gpointer key, gpointer id, gpointer userdata)
{
        return !jobs_find(userdata, GPOINTER_TO_UINT(id));
}

static void key_add(Queue *q, const QueueItem *i, const Job *j, const char *key)
{
        g_autofree char *what = what_of(j->kind, i->is_call, i->topic);

        if (!key)
                return;
        if (g_hash_table_size(q->keys) > KEYS_KEPT &&
            g_hash_table_size(q->keys) > 2 * g_hash_table_size(jobs_all(q->jobs)))
                (void)g_hash_table_foreach_remove(q->keys, is_forgotten, q->jobs);
        g_hash_table_replace(q->keys, key_format(i->guest_uuid, i->uid, what, key), GUINT_TO_POINTER(i->id));
}

static Job *key_find(Queue *q, Guest *g, const Caller *caller, const char *what, const char *key)
{
        g_autofree char *full = key ? key_format(guest_uuid(g), caller->uid, what, key) : NULL;
        void *id = full ? g_hash_table_lookup(q->keys, full) : NULL;

        return id ? jobs_find(q->jobs, GPOINTER_TO_UINT(id)) : NULL;
}

/* Adding */

static void on_written(void *userdata, int r)
{
        Queue *q = the_queue;
        QueueItem *i = q ? queue_find(q, GPOINTER_TO_UINT(userdata)) : NULL;
        Job *j = i ? item_job(i) : NULL;

        if (!j || i->is_on_disk)
                return;
        if (r < 0) {
                g_autofree char *text =
                        g_strdup_printf("The item cannot be written down: %s", g_strerror(-r));
                g_autofree char *uuid = g_strdup(i->guest_uuid);
                WireError error = r == -ENOSPC ? WIRE_NO_SPACE : WIRE_FAILED;

                item_audit(i, j, error, text);
                tell_waiters(i, error, text, NULL);
                job_on_end(j, NULL, NULL);
                item_remove(i);
                jobs_drop(q->jobs, j);
                advance(q, uuid);
                return;
        }
        i->is_on_disk = true;
        tell_waiters(i, WIRE_OK, NULL, j);
        jobs_show(q->jobs, j);
        arm_expiry(q);
        advance(q, i->guest_uuid);
}

static void wait_for_disk(QueueItem *i, QueueDone done, void *userdata)
{
        Waiter *w = g_new0(Waiter, 1);

        *w = (Waiter){ .done = done, .userdata = userdata };
        i->waiters = g_slist_append(i->waiters, w);
}

static void refuse(const AuditEntry *asked, WireError error, const char *text, QueueDone done,
                   void *userdata)
{
        AuditEntry a = *asked;

        a.refused = true;
        a.error = error;
        a.text = text;
        audit_write(&a);
        done(userdata, error, text, NULL);
}

static WireError check_room(Queue *q, Guest *g, const Caller *caller, const QueueOptions *o, char **ret_text)
{
        const Config *c = host_config(jobs_host(q->jobs));
        g_autofree char *uid = uid_key(caller->uid);
        WireError error;

        if (!jobs_store(q->jobs)) {
                *ret_text = g_strdup("hostd has no place to keep queued items: its log says why");
                return WIRE_UNSUPPORTED;
        }
        if (o->key && (error = delivery_check_key(o->key, ret_text)) != WIRE_OK)
                return error;
        if (queue_length(q, guest_uuid(g)) >= c->max_queued_per_guest) {
                *ret_text = g_strdup_printf(
                        "%" PRIu32
                        " items wait for guest %s, the most that may (MaxQueuedPerGuest= of hostd.conf)",
                        queue_length(q, guest_uuid(g)), guest_name(g));
                return WIRE_LIMITS_EXCEEDED;
        }
        if (!quota_take(jobs_quota(q->jobs), QUOTA_QUEUED, uid,
                        caller->uid == 0 ? UINT32_MAX : c->max_queued_per_caller)) {
                *ret_text = g_strdup_printf("User %s has %" PRIu32
                                            " items in the queue, the most that one user may have "
                                            "(MaxQueuedPerCaller= of hostd.conf)",
                                            uid, quota_count(jobs_quota(q->jobs), QUOTA_QUEUED, uid));
                return WIRE_LIMITS_EXCEEDED;
        }
        return WIRE_OK;
}

/* Whether a new item may be made; else `done` was told why not, or of the item that has the key. */
static bool may_add(Queue *q, Guest *g, const AuditEntry *asked, const char *what, const QueueOptions *o,
                    QueueDone done, void *userdata)
{
        g_autofree char *text = NULL;
        Job *same = key_find(q, g, asked->caller, what, o->key);
        WireError error;

        if (same) {
                QueueItem *i = queue_find(q, same->id);
                if (i && !i->is_on_disk)
                        wait_for_disk(i, done, userdata);
                else
                        done(userdata, WIRE_OK, NULL, same);
                return false;
        }
        error = check_room(q, g, asked->caller, o, &text);
        if (error != WIRE_OK)
                refuse(asked, error, text, done, userdata);
        return error == WIRE_OK;
}

static void add(Queue *q, QueueItem *i, Job *j, json_object *params, const QueueOptions *o, QueueDone done,
                void *userdata)
{
        uint64_t ttl = o->ttl_usec ? o->ttl_usec : host_config(jobs_host(q->jobs))->queue_ttl_usec;

        i->created_at = fs_realtime_usec();
        /* SQLite's integers are signed. */
        i->expires_at = ttl < (uint64_t)INT64_MAX - i->created_at ? i->created_at + ttl : 0;
        enter(q, i, j);
        key_add(q, i, j, o->key);
        wait_for_disk(i, done, userdata);
        (void)jobs_keep(q->jobs, j, params,
                        &(JobKeep){
                                .is_queued = true,
                                .created_at = i->created_at,
                                .expires_at = i->expires_at,
                                .key = o->key,
                                .payload = i->payload,
                                .n_payload = i->n_payload,
                                .done = on_written,
                                .userdata = GUINT_TO_POINTER(i->id),
                        });
}

void queue_message(Queue *q, Guest *g, const Caller *caller, bool is_call, const char *topic,
                   const void *payload, size_t n, const QueueOptions *options, QueueDone done,
                   void *userdata)
{
        g_autofree char *text = NULL, *what = what_of(JOB_SEND, is_call, topic);
        const AuditEntry asked = { .verb = is_call ? "call" : "send",
                                   .caller = caller,
                                   .guest_uuid = guest_uuid(g),
                                   .guest_name = guest_name(g),
                                   .topic = topic,
                                   .has_bytes = true,
                                   .n_bytes = n };
        WireError error = delivery_check(g, topic, n, &text);
        json_object *params;
        QueueItem *i;

        if (error != WIRE_OK) {
                refuse(&asked, error, text, done, userdata);
                return;
        }
        if (!may_add(q, g, &asked, what, options, done, userdata))
                return;
        i = g_new0(QueueItem, 1);
        i->is_call = is_call;
        i->topic = g_strdup(topic);
        i->payload = n > 0 ? g_memdup2(payload, n) : NULL;
        i->n_payload = n;
        i->is_keyed = options->key != NULL;
        i->message_id = i->is_keyed ? delivery_id_of_key(g, caller->uid, is_call, topic, options->key)
                                    : delivery_next_id();
        params = json_object_new_object();
        json_object_object_add(params, "topic", json_object_new_string(topic));
        json_object_object_add(params, "call", json_object_new_boolean(is_call));
        json_object_object_add(params, "message_id", json_object_new_int64((int64_t)i->message_id));
        add(q, i, jobs_add_queued(q->jobs, JOB_SEND, g, caller, topic, "", &queue_message_ops, q), params,
            options, done, userdata);
}

static json_object *command_format(const char *const *argv, const ExecOptions *o)
{
        json_object *start = json_object_new_object(), *list = json_object_new_array();

        for (; *argv; argv++)
                json_object_array_add(list, json_object_new_string(*argv));
        json_object_object_add(start, "argv", list);
        if (o->env) {
                json_object *env = json_object_new_object();
                for (const char *const *e = o->env; *e; e++) {
                        const char *eq = strchr(*e, '=');
                        g_autofree char *name = g_strndup(*e, eq ? (size_t)(eq - *e) : strlen(*e));
                        json_object_object_add(env, name, json_object_new_string(eq ? eq + 1 : ""));
                }
                json_object_object_add(start, "env", env);
        }
        if (o->cwd)
                json_object_object_add(start, "cwd", json_object_new_string(o->cwd));
        if (o->user)
                json_object_object_add(start, "user", json_object_new_string(o->user));
        if (o->timeout_usec <= INT64_MAX)
                json_object_object_add(start, "timeout", json_object_new_int64((int64_t)o->timeout_usec));
        return start;
}

void queue_command(Queue *q, Guest *g, const Caller *caller, const char *const *argv,
                   const ExecOptions *exec, const QueueOptions *options, QueueDone done, void *userdata)
{
        g_autofree char *line = g_strjoinv(" ", (char **)argv);
        const AuditEntry asked = { .verb = "exec",
                                   .caller = caller,
                                   .guest_uuid = guest_uuid(g),
                                   .guest_name = guest_name(g),
                                   .command = argv,
                                   .user = exec->user };
        json_object *params;
        QueueItem *i;

        if (exec->tty || exec->input) {
                refuse(&asked, WIRE_UNSUPPORTED, "A queued command has no terminal and no standard input",
                       done, userdata);
                return;
        }
        if (!may_add(q, g, &asked, job_kind_to_string(JOB_EXEC), options, done, userdata))
                return;
        i = g_new0(QueueItem, 1);
        i->start = command_format(argv, exec);
        params = json_object_new_object();
        json_object_object_add(params, "start", json_object_get(i->start));
        add(q, i, jobs_add_queued(q->jobs, JOB_EXEC, g, caller, line, "", &queue_command_ops, q), params,
            options, done, userdata);
}

void queue_transfer(Queue *q, JobKind kind, Guest *g, const Caller *caller, const char *host_path,
                    const char *guest_path, const TransferOptions *transfer, const QueueOptions *options,
                    QueueDone done, void *userdata)
{
        g_autofree char *text = NULL;
        const AuditEntry asked = { .verb = job_kind_to_string(kind),
                                   .caller = caller,
                                   .guest_uuid = guest_uuid(g),
                                   .guest_name = guest_name(g),
                                   .path = guest_path,
                                   .host_path = host_path };
        WireError error = transfer_check(g, host_path, guest_path, &text);
        json_object *params;
        Job *j;

        if (error != WIRE_OK) {
                refuse(&asked, error, text, done, userdata);
                return;
        }
        if (!may_add(q, g, &asked, job_kind_to_string(kind), options, done, userdata))
                return;
        error = transfer_queue(q->jobs, kind, g, caller, host_path, guest_path, transfer, &j, &params,
                               &text);
        if (error != WIRE_OK) {
                g_autofree char *uid = uid_key(caller->uid);

                quota_release(jobs_quota(q->jobs), QUOTA_QUEUED, uid);
                refuse(&asked, error, text, done, userdata);
                return;
        }
        add(q, g_new0(QueueItem, 1), j, params, options, done, userdata);
}

int queue_restore(Queue *q, const StoreItem *item)
{
        json_object *o = item->params, *start = message_obj(o, "start");
        const char *topic = message_str(o, "topic", "");
        g_autofree char *uid = uid_key(item->caller->uid), *line = NULL;
        QueueItem *i = g_new0(QueueItem, 1);
        Job *j = NULL;

        if (item->kind == JOB_PUSH || item->kind == JOB_PULL)
                (void)transfer_restore(q->jobs, item, &j);
        else if (item->kind == JOB_SEND && name_is_topic(topic)) {
                j = jobs_restore(q->jobs, item, topic, "", &queue_message_ops, q);
                i->is_call = message_bool(o, "call", false);
                i->topic = g_strdup(topic);
                i->payload = item->n_payload > 0 ? g_memdup2(item->payload, item->n_payload) : NULL;
                i->n_payload = item->n_payload;
                i->message_id = (uint64_t)message_int(o, "message_id", 0);
                i->is_keyed = item->key != NULL;
        } else if (item->kind == JOB_EXEC &&
                   json_object_is_type(message_obj(start, "argv"), json_type_array)) {
                json_object *argv = message_obj(start, "argv");
                GString *s = g_string_new(NULL);

                for (size_t n = 0; n < json_object_array_length(argv); n++)
                        g_string_append_printf(s, "%s%s", n ? " " : "",
                                               json_object_get_string(json_object_array_get_idx(argv, n)));
                line = g_string_free(s, FALSE);
                j = jobs_restore(q->jobs, item, line, "", &queue_command_ops, q);
                i->start = json_object_get(start);
        }
        if (!j) {
                i->queue = q;
                (void)item_free(i);
                return -EINVAL;
        }
        i->created_at = item->created_at;
        i->expires_at = item->expires_at;
        i->is_on_disk = true;
        enter(q, i, j);
        key_add(q, i, j, item->key);
        (void)quota_take(jobs_quota(q->jobs), QUOTA_QUEUED, uid, UINT32_MAX);
        arm_expiry(q);
        return 0;
}

/* Looking */

uint32_t queue_length(const Queue *q, const char *guest_uuid)
{
        GQueue *line = g_hash_table_lookup(q->lines, guest_uuid);

        return line ? line->length : 0;
}

void queue_each(const Queue *q, const char *guest_uuid, QueueEach each, void *userdata)
{
        GQueue *line = g_hash_table_lookup(q->lines, guest_uuid);

        for (GList *l = line ? line->head : NULL; l; l = l->next) {
                const QueueItem *i = l->data;
                const Job *j = item_job(i);
                g_autofree char *description = NULL;

                if (!j || !i->is_on_disk)
                        continue;
                if (j->kind == JOB_SEND)
                        description = g_strdup_printf("%s %s, %zu bytes", i->is_call ? "call" : "send",
                                                      j->source, i->n_payload);
                else if (j->kind == JOB_EXEC)
                        description = g_strdup(j->source);
                else
                        description = g_strdup_printf("%s to %s", j->source, j->destination);
                each(userdata, j, description, i->created_at, i->expires_at);
        }
}
