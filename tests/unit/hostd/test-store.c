/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The store: what was put is there for the next hostd, whatever happened to this one. */

#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "hostd/store.h"
#include "../suite.h"

static char *directory;

static void setup(void)
{
        directory = g_dir_make_tmp("vmferry-store-XXXXXX", NULL);
        ck_assert_ptr_nonnull(directory);
}

static void teardown(void)
{
        GDir *d = g_dir_open(directory, 0, NULL);

        for (const char *name; (name = g_dir_read_name(d));) {
                g_autofree char *path = g_build_filename(directory, name, NULL);
                (void)g_unlink(path);
        }
        g_dir_close(d);
        (void)g_rmdir(directory);
        g_clear_pointer(&directory, g_free);
}

static Store *opened(void)
{
        Store *s = NULL;

        ck_assert_int_eq(store_open(directory, &s), 0);
        return s;
}

static void collect(void *userdata, StoreItem *item)
{
        g_ptr_array_add(userdata, item);
}

static GPtrArray *loaded(Store *s)
{
        GPtrArray *all = g_ptr_array_new();

        ck_assert_int_eq(store_load(s, collect, all), 0);
        return all;
}

static void loaded_free(GPtrArray *all)
{
        for (guint i = 0; i < all->len; i++)
                (void)store_item_free(g_ptr_array_index(all, i));
        g_ptr_array_free(all, TRUE);
}

static void put(Store *s, uint32_t id, StoreDone done, void *userdata)
{
        static const gid_t groups[] = { 4, 27, 4294967294u };
        _cleanup_(caller_freep) Caller *caller = caller_new(1000, 100, groups, ELEMENTSOF(groups), ":1.7");
        StoreItem item = {
                .id = id,
                .guest_uuid = (char *)"11111111-2222-3333-4444-555555555555",
                .guest_name = (char *)"web \"01\"",
                .kind = JOB_SEND,
                .is_queued = true,
                .caller = caller,
                .params = json_object_new_object(),
                .payload = (uint8_t *)"a\0b",
                .n_payload = 3,
                .created_at = 1700000000000000,
                .expires_at = UINT64_C(1) << 62,
                .key = (char *)"k",
        };

        json_object_object_add(item.params, "topic", json_object_new_string("t\xc3\xa4"));
        store_put(s, &item, done, userdata);
        json_object_put(item.params);
}

START_TEST(test_comes_back)
{
        Store *s = opened();
        GPtrArray *all;

        ck_assert_uint_eq(store_last_id(s), 0);
        put(s, 7, NULL, NULL);
        put(s, 3, NULL, NULL);
        (void)store_free(s);

        s = opened();
        ck_assert_uint_eq(store_last_id(s), 7);
        all = loaded(s);
        ck_assert_uint_eq(all->len, 2);
        const StoreItem *item = g_ptr_array_index(all, 1);
        ck_assert_uint_eq(((StoreItem *)g_ptr_array_index(all, 0))->id, 3);
        ck_assert_uint_eq(item->id, 7);
        ck_assert_str_eq(item->guest_uuid, "11111111-2222-3333-4444-555555555555");
        ck_assert_str_eq(item->guest_name, "web \"01\"");
        ck_assert_int_eq(item->kind, JOB_SEND);
        ck_assert(item->is_queued);
        ck_assert_uint_eq(item->caller->uid, 1000);
        ck_assert_uint_eq(item->caller->gid, 100);
        ck_assert_uint_eq(item->caller->n_groups, 3);
        ck_assert_uint_eq(item->caller->groups[2], 4294967294u);
        ck_assert_ptr_null(item->caller->sender);
        ck_assert_str_eq(json_object_get_string(json_object_object_get(item->params, "topic")), "t\xc3\xa4");
        ck_assert_uint_eq(item->n_payload, 3);
        ck_assert_mem_eq(item->payload, "a\0b", 3);
        ck_assert_uint_eq(item->created_at, 1700000000000000);
        ck_assert_uint_eq(item->expires_at, UINT64_C(1) << 62);
        ck_assert_str_eq(item->key, "k");
        loaded_free(all);
        (void)store_free(s);
}
END_TEST

static void on_result(void *userdata, const StoreResult *r)
{
        unsigned *n = userdata;

        (*n)++;
        ck_assert_str_eq(r->guest_uuid, "u");
        ck_assert_str_eq(r->guest_name, "web01");
        ck_assert_int_eq(r->has_failed, str_eq(r->action, "a"));
        ck_assert_str_eq(r->reason, r->has_failed ? "why" : "");
        ck_assert_uint_eq(r->at, r->has_failed ? 7 : 8);
}

START_TEST(test_results_come_back)
{
        StoreResult result = { (char *)"a", (char *)"u", (char *)"web01", (char *)"", false, 6 };
        unsigned n = 0;
        Store *s = opened();

        store_take_results(s, on_result, &n);
        store_put_result(s, &result);
        result.has_failed = true, result.reason = (char *)"why", result.at = 7;
        store_put_result(s, &result); /* replaced */
        result = (StoreResult){ (char *)"b", (char *)"u", (char *)"web01", (char *)"", false, 8 };
        store_put_result(s, &result);
        (void)store_free(s);
        s = opened();
        store_take_results(s, on_result, &n);
        ck_assert_uint_eq(n, 2);
        store_take_results(s, on_result, &n);
        ck_assert_uint_eq(n, 2);
        (void)store_free(s);
}
END_TEST

START_TEST(test_removed_is_gone_and_its_id_not_given_again)
{
        Store *s = opened();
        GPtrArray *all;

        put(s, 9, NULL, NULL);
        put(s, 9, NULL, NULL); /* replaced */
        store_remove(s, 9, NULL, NULL);
        store_remove(s, 12345, NULL, NULL); /* never there */
        (void)store_free(s);
        s = opened();
        all = loaded(s);
        ck_assert_uint_eq(all->len, 0);
        ck_assert_uint_eq(store_last_id(s), 9);
        loaded_free(all);
        (void)store_free(s);
}
END_TEST

START_TEST(test_ids_that_were_only_used_are_not_given_again)
{
        Store *s = opened();

        for (uint32_t id = 1; id <= 250; id++)
                store_reserve_id(s, id);
        ck_assert_uint_ge(store_last_id(s), 250);
        (void)store_free(s);
        s = opened();
        ck_assert_uint_ge(store_last_id(s), 250);
        ck_assert_uint_lt(store_last_id(s), 500);
        store_reserve_id(s, UINT32_MAX); /* they begin anew */
        (void)store_free(s);
}
END_TEST

static void on_done(void *userdata, int r)
{
        int *n = userdata;

        ck_assert_int_eq(r, 0);
        ++*n;
}

START_TEST(test_told_when_on_disk)
{
        Store *s = opened();
        int n = 0;

        for (uint32_t i = 1; i <= 200; i++)
                put(s, i, on_done, &n);
        ck_assert_int_eq(n, 0); /* never from within */
        while (n < 200)
                (void)g_main_context_iteration(NULL, TRUE);
        (void)store_free(s);
}
END_TEST

START_TEST(test_survives_kill)
{
        int fds[2];
        char byte;
        pid_t pid;
        Store *s;

        ck_assert_int_eq(pipe(fds), 0);
        pid = fork();
        if (pid == 0) {
                int n = 0;

                s = opened();
                for (uint32_t i = 1; i <= 50; i++)
                        put(s, i, on_done, &n);
                while (n < 50)
                        (void)g_main_context_iteration(NULL, TRUE);
                store_mark_done(s, "a", "g", "boot-1");
                put(s, 51, on_done, &n);
                while (n < 51)
                        (void)g_main_context_iteration(NULL, TRUE);
                ck_assert_int_eq(write(fds[1], "x", 1), 1);
                pause();
                _exit(1);
        }
        ck_assert_int_eq(read(fds[0], &byte, 1), 1);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        (void)close(fds[0]);
        (void)close(fds[1]);

        s = opened();
        GPtrArray *all = loaded(s);
        ck_assert_uint_eq(all->len, 51);
        ck_assert(store_was_done(s, "a", "g", "boot-1"));
        ck_assert(store_was_done(s, "a", "g", NULL));
        ck_assert(!store_was_done(s, "a", "g", "boot-2"));
        ck_assert(!store_was_done(s, "b", "g", NULL));
        loaded_free(all);
        (void)store_free(s);
}
END_TEST

START_TEST(test_marks_are_answered_at_once)
{
        Store *s = opened();

        store_mark_done(s, "a", "g", "boot-1");
        ck_assert(store_was_done(s, "a", "g", "boot-1"));
        store_mark_done(s, "a", "g", "boot-2");
        ck_assert(!store_was_done(s, "a", "g", "boot-1"));
        (void)store_free(s);
        s = opened();
        ck_assert(store_was_done(s, "a", "g", "boot-2"));
        (void)store_free(s);
}
END_TEST

START_TEST(test_broken_is_set_aside)
{
        g_autofree char *path = g_build_filename(directory, "queue.db", NULL);
        GPtrArray *all;
        bool aside = false;
        Store *s;

        ck_assert(
                g_file_set_contents(path,
                                    "this is no database, and it is longer than the header of one would be; "
                                    "this is no database, and it is longer than the header of one would be",
                                    -1, NULL));
        s = opened();
        all = loaded(s);
        ck_assert_uint_eq(all->len, 0);
        loaded_free(all);
        put(s, 1, NULL, NULL);
        (void)store_free(s);

        GDir *d = g_dir_open(directory, 0, NULL);
        for (const char *name; (name = g_dir_read_name(d));)
                aside |= g_str_has_prefix(name, "queue.db.broken-");
        g_dir_close(d);
        ck_assert(aside);
}
END_TEST

START_TEST(test_is_private)
{
        g_autofree char *path = g_build_filename(directory, "queue.db", NULL);
        Store *s = opened();
        GStatBuf st;

        put(s, 1, NULL, NULL);
        (void)store_free(s);
        ck_assert_int_eq(g_stat(path, &st), 0);
        ck_assert_int_eq(st.st_mode & 07777, 0600);
}
END_TEST

START_TEST(test_no_directory)
{
        Store *s = NULL;

        ck_assert_int_lt(store_open("/dev/null/state", &s), 0);
        ck_assert_ptr_null(s);
}
END_TEST

SUITE_AROUND("store", setup, teardown,
             { test_comes_back },
      { test_results_come_back },
             { test_removed_is_gone_and_its_id_not_given_again },
             { test_ids_that_were_only_used_are_not_given_again },
             { test_told_when_on_disk },
             { test_survives_kill },
             { test_marks_are_answered_at_once },
             { test_broken_is_set_aside },
             { test_is_private },
             { test_no_directory })
