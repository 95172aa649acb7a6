/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * It leans on SQLite's promise that with synchronous=FULL a WAL commit is on disk when it returns.
 */

#include "hostd/store.h"

#include <fcntl.h>
#include <glib.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/log.h"
#include "proto/limits.h"

#define SCHEMA_VERSION 1
#define BUSY_TIMEOUT_MSEC 5000
#define RESERVE_IDS 100u /* at once, so that few jobs cost a write */

static const char schema[] =
        "CREATE TABLE IF NOT EXISTS item ("
        " id INTEGER PRIMARY KEY, guest_uuid TEXT NOT NULL, guest_name TEXT NOT NULL, kind INTEGER NOT NULL,"
        " queued INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, groups TEXT NOT NULL,"
        " params TEXT NOT NULL, payload BLOB, created INTEGER NOT NULL, expires INTEGER NOT NULL, key TEXT);"
        "CREATE TABLE IF NOT EXISTS done ("
        " action TEXT NOT NULL, guest_uuid TEXT NOT NULL, boot_id TEXT NOT NULL,"
        " PRIMARY KEY (action, guest_uuid)) WITHOUT ROWID;"
        "CREATE TABLE IF NOT EXISTS result ("
        " action TEXT NOT NULL, guest_uuid TEXT NOT NULL, guest_name TEXT NOT NULL, failed INTEGER NOT NULL,"
        " reason TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (action, guest_uuid)) WITHOUT ROWID;"
        "CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;";

typedef enum WriteKind {
        WRITE_PUT,
        WRITE_REMOVE,
        WRITE_DONE,
        WRITE_RESULT,
        WRITE_RESERVE,
        WRITE_STOP
} WriteKind;

typedef struct Write {
        WriteKind kind;
        uint32_t id;
        StoreItem *item; /* WRITE_PUT: a copy; params as text in params_text */
        char *params_text, *groups_text;
        char *action, *guest_uuid, *boot_id; /* WRITE_DONE */
        StoreResult *result;                 /* WRITE_RESULT: a copy */
        StoreDone done;
        void *userdata;
        int r;
} Write;

struct Store {
        sqlite3 *db; /* the main thread's until the first write, then the thread's */
        GThread *thread;
        GAsyncQueue *writes, *written;
        GHashTable *marks;  /* "action\nguest" → boot id */
        GPtrArray *results; /* until they are taken: StoreResult* */
        uint32_t last_id;   /* on disk, or on its way there */
};

StoreItem *store_item_free(StoreItem *item)
{
        if (!item)
                return NULL;
        g_free(item->guest_uuid);
        g_free(item->guest_name);
        (void)caller_free(item->caller);
        if (item->params)
                json_object_put(item->params);
        g_free(item->payload);
        g_free(item->key);
        g_free(item);
        return NULL;
}

static void result_free(void *p)
{
        StoreResult *r = p;

        if (!r)
                return;
        g_free(r->action);
        g_free(r->guest_uuid);
        g_free(r->guest_name);
        g_free(r->reason);
        g_free(r);
}

static void write_free(Write *w)
{
        result_free(w->result);
        (void)store_item_free(w->item);
        g_free(w->params_text);
        g_free(w->groups_text);
        g_free(w->action);
        g_free(w->guest_uuid);
        g_free(w->boot_id);
        g_free(w);
}

static int errno_of(int sqlite)
{
        switch (sqlite & 0xff) {
        case SQLITE_OK:
        case SQLITE_DONE:
        case SQLITE_ROW:
                return 0;
        case SQLITE_NOMEM:
                return -ENOMEM;
        case SQLITE_FULL:
                return -ENOSPC;
        case SQLITE_READONLY:
        case SQLITE_PERM:
        case SQLITE_CANTOPEN:
                return -EACCES;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return -EBUSY;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                return -EBADMSG;
        default:
                return -EIO;
        }
}

static char *groups_format(const Caller *c)
{
        GString *s = g_string_new(NULL);

        for (size_t i = 0; i < c->n_groups; i++)
                g_string_append_printf(s, "%s%u", i ? "," : "", (unsigned)c->groups[i]);
        return g_string_free(s, FALSE);
}

static Caller *caller_parse(uid_t uid, gid_t gid, const char *text)
{
        g_auto(GStrv) words = g_strsplit(text, ",", -1);
        g_autofree gid_t *groups = g_new0(gid_t, g_strv_length(words) + 1);
        size_t n = 0;

        for (char **w = words; *w; w++) {
                guint64 v;

                if (g_ascii_string_to_unsigned(*w, 10, 0, UINT32_MAX, &v, NULL))
                        groups[n++] = (gid_t)v;
        }
        return caller_new(uid, gid, groups, n, NULL);
}

static int open_database(const char *path, sqlite3 **ret)
{
        sqlite3_stmt *check = NULL;
        sqlite3 *db = NULL;
        mode_t mask = umask(0077);
        int r;

        r = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                            NULL);
        (void)umask(mask);
        if (r == SQLITE_OK)
                (void)sqlite3_busy_timeout(db, BUSY_TIMEOUT_MSEC);
        if (r == SQLITE_OK)
                r = sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", NULL, NULL, NULL);
        if (r == SQLITE_OK)
                r = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &check, NULL);
        if (r == SQLITE_OK) {
                r = sqlite3_step(check);
                if (r == SQLITE_ROW)
                        r = str_eq((const char *)sqlite3_column_text(check, 0), "ok") ? SQLITE_OK
                                                                                      : SQLITE_CORRUPT;
        }
        (void)sqlite3_finalize(check);
        if (r == SQLITE_OK)
                r = sqlite3_exec(db, schema, NULL, NULL, NULL);
        if (r != SQLITE_OK) {
                (void)sqlite3_close(db);
                return errno_of(r);
        }
        *ret = db;
        return 0;
}

static void load_marks(Store *s)
{
        sqlite3_stmt *q = NULL;

        if (sqlite3_prepare_v2(s->db, "SELECT action, guest_uuid, boot_id FROM done", -1, &q, NULL) ==
            SQLITE_OK)
                while (sqlite3_step(q) == SQLITE_ROW)
                        g_hash_table_insert(s->marks,
                                            g_strdup_printf("%s\n%s", sqlite3_column_text(q, 0),
                                                            sqlite3_column_text(q, 1)),
                                            g_strdup((const char *)sqlite3_column_text(q, 2)));
        (void)sqlite3_finalize(q);
        q = NULL;
        if (sqlite3_prepare_v2(s->db,
                               "SELECT max(ifnull((SELECT value FROM counter WHERE name='id'), 0),"
                               " ifnull((SELECT max(id) FROM item), 0))",
                               -1, &q, NULL) == SQLITE_OK &&
            sqlite3_step(q) == SQLITE_ROW)
                s->last_id = (uint32_t)sqlite3_column_int64(q, 0);
        (void)sqlite3_finalize(q);
}

static void load_results(Store *s)
{
        sqlite3_stmt *q = NULL;

        if (sqlite3_prepare_v2(s->db,
                               "SELECT action, guest_uuid, guest_name, failed, reason, at FROM result", -1,
                               &q, NULL) == SQLITE_OK)
                while (sqlite3_step(q) == SQLITE_ROW) {
                        StoreResult *r = g_new0(StoreResult, 1);

                        *r = (StoreResult){ .action = g_strdup((const char *)sqlite3_column_text(q, 0)),
                                            .guest_uuid = g_strdup((const char *)sqlite3_column_text(q, 1)),
                                            .guest_name = g_strdup((const char *)sqlite3_column_text(q, 2)),
                                            .has_failed = sqlite3_column_int(q, 3),
                                            .reason = g_strdup((const char *)sqlite3_column_text(q, 4)),
                                            .at = (uint64_t)sqlite3_column_int64(q, 5) };
                        g_ptr_array_add(s->results, r);
                }
        (void)sqlite3_finalize(q);
}

int store_open(const char *directory, Store **ret)
{
        g_autofree char *path = g_build_filename(directory, "queue.db", NULL), *aside = NULL;
        sqlite3 *db = NULL;
        Store *s;
        int r;

        if (g_mkdir_with_parents(directory, 0700) < 0) {
                r = -errno;
                log_error("%s: %s", directory, strerror(-r));
                return r;
        }
        r = open_database(path, &db);
        if (r == -EBADMSG) {
                aside = g_strdup_printf("%s.broken-%" G_GUINT64_FORMAT, path,
                                        (guint64)(fs_realtime_usec() / USEC_PER_SEC));
                log_error("%s is broken: it is set aside as %s, and a new one is begun; what was queued is "
                          "lost",
                          path, aside);
                if (rename(path, aside) < 0)
                        return -errno;
                for (int i = 0; i < 2; i++) {
                        g_autofree char *rest = g_strdup_printf("%s-%s", path, i ? "shm" : "wal");

                        (void)unlink(rest);
                }
                r = open_database(path, &db);
        }
        if (r < 0) {
                log_error("%s: %s; nothing can be queued", path, strerror(-r));
                return r;
        }
        s = g_new0(Store, 1);
        s->db = db;
        s->writes = g_async_queue_new();
        s->written = g_async_queue_new();
        s->marks = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        s->results = g_ptr_array_new_with_free_func(result_free);
        load_marks(s);
        load_results(s);
        *ret = s;
        return 0;
}

uint32_t store_last_id(const Store *s)
{
        return s->last_id;
}

static StoreItem *read_item(sqlite3_stmt *q)
{
        StoreItem *item = g_new0(StoreItem, 1);
        const void *payload = sqlite3_column_blob(q, 9);
        int kind = sqlite3_column_int(q, 3);

        item->id = (uint32_t)sqlite3_column_int64(q, 0);
        item->guest_uuid = g_strdup((const char *)sqlite3_column_text(q, 1));
        item->guest_name = g_strdup((const char *)sqlite3_column_text(q, 2));
        item->kind = kind >= JOB_PUSH && kind <= JOB_SEND ? (JobKind)kind : JOB_SEND;
        item->is_queued = sqlite3_column_int(q, 4);
        item->caller = caller_parse((uid_t)sqlite3_column_int64(q, 5), (gid_t)sqlite3_column_int64(q, 6),
                                    (const char *)sqlite3_column_text(q, 7));
        item->params = json_tokener_parse((const char *)sqlite3_column_text(q, 8));
        if (payload) {
                item->n_payload = (size_t)sqlite3_column_bytes(q, 9);
                item->payload = g_memdup2(payload, item->n_payload);
        }
        item->created_at = (uint64_t)sqlite3_column_int64(q, 10);
        item->expires_at = (uint64_t)sqlite3_column_int64(q, 11);
        item->key = g_strdup((const char *)sqlite3_column_text(q, 12));
        return item;
}

int store_load(Store *s, void (*each)(void *userdata, StoreItem *item), void *userdata)
{
        sqlite3_stmt *q = NULL;
        int r;

        r = sqlite3_prepare_v2(s->db,
                               "SELECT id, guest_uuid, guest_name, kind, queued, uid, gid, groups, params, "
                               "payload, created,"
                               " expires, key FROM item ORDER BY id",
                               -1, &q, NULL);
        while (r == SQLITE_OK || r == SQLITE_ROW) {
                StoreItem *item;

                r = sqlite3_step(q);
                if (r != SQLITE_ROW)
                        break;
                item = read_item(q);
                if (!json_object_is_type(item->params, json_type_object)) {
                        log_warning("queue.db: job %u has no readable parameters and is passed over",
                                    item->id);
                        (void)store_item_free(item);
                } else
                        each(userdata, item);
        }
        (void)sqlite3_finalize(q);
        return errno_of(r);
}

static int execute_reserve(sqlite3 *db, const Write *w)
{
        sqlite3_stmt *q = NULL;
        int r;

        r = sqlite3_prepare_v2(db,
                               "INSERT INTO counter VALUES ('id', ?1) ON CONFLICT (name) DO UPDATE SET "
                               "value = max(value, ?1)",
                               -1, &q, NULL);
        if (r != SQLITE_OK)
                return r;
        (void)sqlite3_bind_int64(q, 1, w->id);
        r = sqlite3_step(q);
        (void)sqlite3_finalize(q);
        return r;
}

static int execute_put(sqlite3 *db, const Write *w)
{
        const StoreItem *item = w->item;
        sqlite3_stmt *q = NULL;
        int r;

        r = sqlite3_prepare_v2(db, "INSERT OR REPLACE INTO item VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", -1, &q,
                               NULL);
        if (r != SQLITE_OK)
                return r;
        (void)sqlite3_bind_int64(q, 1, item->id);
        (void)sqlite3_bind_text(q, 2, item->guest_uuid, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(q, 3, item->guest_name, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(q, 4, item->kind);
        (void)sqlite3_bind_int(q, 5, item->is_queued);
        (void)sqlite3_bind_int64(q, 6, item->caller->uid);
        (void)sqlite3_bind_int64(q, 7, item->caller->gid);
        (void)sqlite3_bind_text(q, 8, w->groups_text, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(q, 9, w->params_text, -1, SQLITE_STATIC);
        if (item->payload)
                (void)sqlite3_bind_blob64(q, 10, item->payload, item->n_payload, SQLITE_STATIC);
        (void)sqlite3_bind_int64(q, 11, (sqlite3_int64)item->created_at);
        (void)sqlite3_bind_int64(q, 12, (sqlite3_int64)item->expires_at);
        if (item->key)
                (void)sqlite3_bind_text(q, 13, item->key, -1, SQLITE_STATIC);
        r = sqlite3_step(q);
        (void)sqlite3_finalize(q);
        return r != SQLITE_DONE ? r : execute_reserve(db, w);
}

static int execute_result(sqlite3 *db, const StoreResult *result)
{
        sqlite3_stmt *q = NULL;
        int r;

        r = sqlite3_prepare_v2(db, "INSERT OR REPLACE INTO result VALUES (?,?,?,?,?,?)", -1, &q, NULL);
        if (r != SQLITE_OK)
                return r;
        (void)sqlite3_bind_text(q, 1, result->action, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(q, 2, result->guest_uuid, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(q, 3, result->guest_name, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(q, 4, result->has_failed);
        (void)sqlite3_bind_text(q, 5, result->reason, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(q, 6, (sqlite3_int64)result->at);
        r = sqlite3_step(q);
        (void)sqlite3_finalize(q);
        return r;
}

static int execute(sqlite3 *db, const Write *w)
{
        sqlite3_stmt *q = NULL;
        int r;

        if (w->kind == WRITE_PUT)
                return execute_put(db, w);
        if (w->kind == WRITE_RESERVE)
                return execute_reserve(db, w);
        if (w->kind == WRITE_RESULT)
                return execute_result(db, w->result);
        r = sqlite3_prepare_v2(db,
                               w->kind == WRITE_REMOVE ? "DELETE FROM item WHERE id = ?"
                                                       : "INSERT OR REPLACE INTO done VALUES (?, ?, ?)",
                               -1, &q, NULL);
        if (r != SQLITE_OK)
                return r;
        if (w->kind == WRITE_REMOVE)
                (void)sqlite3_bind_int64(q, 1, w->id);
        else {
                (void)sqlite3_bind_text(q, 1, w->action, -1, SQLITE_STATIC);
                (void)sqlite3_bind_text(q, 2, w->guest_uuid, -1, SQLITE_STATIC);
                (void)sqlite3_bind_text(q, 3, w->boot_id, -1, SQLITE_STATIC);
        }
        r = sqlite3_step(q);
        (void)sqlite3_finalize(q);
        return r;
}

static gboolean on_written(gpointer userdata)
{
        Store *s = userdata;
        Write *w;

        while ((w = g_async_queue_try_pop(s->written))) {
                if (w->r < 0)
                        log_error("queue.db: %s; job %u is not kept", strerror(-w->r), w->id);
                if (w->done)
                        w->done(w->userdata, w->r);
                write_free(w);
        }
        return G_SOURCE_REMOVE;
}

/* All writes that stand in the queue are one commit: a thousand queued items cost a few, not a thousand. */
static gpointer writer(gpointer userdata)
{
        Store *s = userdata;
        bool stopped = false;

        while (!stopped) {
                GPtrArray *batch = g_ptr_array_new();
                Write *w = g_async_queue_pop(s->writes);
                int r;

                r = sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
                for (; w; w = g_async_queue_try_pop(s->writes)) {
                        if (w->kind == WRITE_STOP) {
                                stopped = true;
                                write_free(w);
                                break;
                        }
                        w->r = r == SQLITE_OK ? errno_of(execute(s->db, w)) : errno_of(r);
                        g_ptr_array_add(batch, w);
                }
                if (r == SQLITE_OK) {
                        r = sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
                        if (r != SQLITE_OK)
                                (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
                }
                for (guint i = 0; i < batch->len; i++) {
                        w = batch->pdata[i];
                        if (r != SQLITE_OK)
                                w->r = errno_of(r);
                        g_async_queue_push(s->written, w);
                }
                g_idle_add_full(G_PRIORITY_DEFAULT, on_written, s, NULL);
                g_ptr_array_free(batch, TRUE);
        }
        return NULL;
}

static void enqueue(Store *s, Write *w)
{
        if (!s->thread)
                s->thread = g_thread_new("store", writer, s);
        g_async_queue_push(s->writes, w);
}

Store *store_free(Store *s)
{
        Write *w;

        if (!s)
                return NULL;
        if (s->thread) {
                w = g_new0(Write, 1);
                w->kind = WRITE_STOP;
                g_async_queue_push(s->writes, w);
                g_thread_join(s->thread);
        }
        while (g_idle_remove_by_data(s)) /* who waited for these is gone already */
                ;
        while ((w = g_async_queue_try_pop(s->written)))
                write_free(w);
        g_async_queue_unref(s->written);
        (void)sqlite3_close(s->db);
        g_async_queue_unref(s->writes);
        g_hash_table_destroy(s->marks);
        g_ptr_array_unref(s->results);
        g_free(s);
        return NULL;
}

void store_put(Store *s, const StoreItem *item, StoreDone done, void *userdata)
{
        Write *w = g_new0(Write, 1);
        StoreItem *copy = g_new0(StoreItem, 1);

        *copy = *item;
        copy->guest_uuid = g_strdup(item->guest_uuid);
        copy->guest_name = g_strdup(item->guest_name);
        copy->caller = caller_copy(item->caller);
        copy->params = NULL; /* json-c's counts are not for two threads: it goes as text */
        copy->payload = item->payload ? g_memdup2(item->payload, item->n_payload) : NULL;
        copy->key = g_strdup(item->key);
        *w = (Write){ .kind = WRITE_PUT, .id = item->id, .item = copy, .done = done, .userdata = userdata };
        w->params_text = g_strdup(json_object_to_json_string_ext(item->params, JSON_C_TO_STRING_PLAIN));
        w->groups_text = groups_format(item->caller);
        s->last_id = MAX(s->last_id, item->id);
        enqueue(s, w);
}

void store_reserve_id(Store *s, uint32_t id)
{
        Write *w;

        /* Early: what is only on its way to the disk is not used up yet. */
        if (id + RESERVE_IDS / 2 <= s->last_id || id > UINT32_MAX - RESERVE_IDS)
                return;
        s->last_id = id + RESERVE_IDS;
        w = g_new0(Write, 1);
        *w = (Write){ .kind = WRITE_RESERVE, .id = s->last_id };
        enqueue(s, w);
}

void store_remove(Store *s, uint32_t id, StoreDone done, void *userdata)
{
        Write *w = g_new0(Write, 1);

        *w = (Write){ .kind = WRITE_REMOVE, .id = id, .done = done, .userdata = userdata };
        enqueue(s, w);
}

bool store_was_done(const Store *s, const char *action, const char *guest_uuid, const char *boot_id)
{
        g_autofree char *key = g_strdup_printf("%s\n%s", action, guest_uuid);
        const char *mark = g_hash_table_lookup(s->marks, key);

        return mark && (!boot_id || str_eq(mark, boot_id));
}

void store_mark_done(Store *s, const char *action, const char *guest_uuid, const char *boot_id)
{
        Write *w = g_new0(Write, 1);

        g_hash_table_replace(s->marks, g_strdup_printf("%s\n%s", action, guest_uuid), g_strdup(boot_id));
        *w = (Write){ .kind = WRITE_DONE,
                      .action = g_strdup(action),
                      .guest_uuid = g_strdup(guest_uuid),
                      .boot_id = g_strdup(boot_id) };
        enqueue(s, w);
}

void store_take_results(Store *s, void (*each)(void *userdata, const StoreResult *r), void *userdata)
{
        for (guint i = 0; i < s->results->len; i++)
                each(userdata, g_ptr_array_index(s->results, i));
        g_ptr_array_set_size(s->results, 0);
}

void store_put_result(Store *s, const StoreResult *r)
{
        Write *w = g_new0(Write, 1);

        w->kind = WRITE_RESULT;
        w->result = g_new0(StoreResult, 1);
        *w->result = (StoreResult){ .action = g_strdup(r->action),
                                    .guest_uuid = g_strdup(r->guest_uuid),
                                    .guest_name = g_strdup(r->guest_name),
                                    .reason = g_strdup(r->reason),
                                    .has_failed = r->has_failed,
                                    .at = r->at };
        enqueue(s, w);
}
