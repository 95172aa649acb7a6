/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A receiver and a sender against a peer that lies: nothing outside the destination is touched, the right
 * name comes out, memory stays flat, and nothing is left behind.
 */

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/base.h"
#include "pair.h"
#include "proto/digest.h"
#include "proto/entry.h"
#include "../suite.h"

static RecordBuffer b;
static Receiver *receiver;
static const char *why;

static void setup(void)
{
        (void)scratch_new();
        ck_assert_int_eq(shell("mkdir '%s'; echo precious >'%s'", scratch_path("outside"),
                               scratch_path("outside/file")),
                         0);
        b = (RecordBuffer){};
        why = NULL;
}

static void teardown(void)
{
        receiver = receiver_free(receiver);
        record_buffer_done(&b);
        ck_assert_int_eq(shell("grep -qx precious '%s'", scratch_path("outside/file")), 0);
        ck_assert_int_eq(shell("test $(ls '%s' | wc -l) = 1", scratch_path("outside")), 0);
        scratch_done();
}

static void begin(bool is_tree, bool resume)
{
        ReceiverConfig rc = PAIR_RECEIVER;
        char *text = NULL;

        rc.path = scratch_path("dst");
        rc.name = "name";
        rc.is_tree = is_tree;
        rc.resume = resume;
        rc.preserve = true;
        ck_assert_msg(receiver_new(&rc, &receiver, &text) == WIRE_OK, "%s", text);
}

static void put(EntryKind kind, const char *path, const char *target, uint64_t size, bool offer)
{
        Entry e = {
                .kind = kind, .path = path, .target = target, .size = size, .mode = 0755, .offer = offer
        };

        ck_assert_int_eq(record_put_entry(&b, &e), 0);
}

static void put_data(uint64_t entry, uint64_t offset, const char *text)
{
        uint8_t head[24];
        size_t n = strlen(text);

        /* borrow LEAVE's room: the buffer has no public append */
        record_format_data(head, entry, offset, n);
        b.data = realloc(b.data, b.n + 24 + n);
        b.allocated = b.n + 24 + n;
        memcpy(b.data + b.n, head, 24);
        memcpy(b.data + b.n + 24, text, n);
        b.n += 24 + n;
}

static ssize_t feed(void)
{
        ssize_t k = receiver_feed(receiver, b.data, b.n, &why);

        b.n = b.offset = 0;
        return k;
}

static void drain(void)
{
        uint8_t buf[4096];

        for (int i = 0; i < 100000 && receiver_fill(receiver, buf, sizeof buf) > 0; i++)
                ;
}

static WireError error(void)
{
        return receiver_progress(receiver)->error;
}

static void must_break(WireError expected)
{
        ck_assert_int_eq(feed(), -EBADMSG);
        ck_assert_ptr_nonnull(why);
        ck_assert_int_eq(error(), expected);
        /* and it stays so */
        ck_assert_int_eq(receiver_feed(receiver, (const uint8_t *)"x", 1, &why), -EBADMSG);
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
}

START_TEST(test_link_then_file_beneath)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_SYMLINK, "link", scratch_path("outside"), 0, false);
        put(ENTRY_FILE, "link/file", NULL, 4, false);
        put_data(2, 0, "evil");
        must_break(WIRE_INVALID_PATH);
}
END_TEST

START_TEST(test_link_then_directory_of_its_name)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_SYMLINK, "link", scratch_path("outside"), 0, false);
        put(ENTRY_DIRECTORY, "link", NULL, 0, false);
        put(ENTRY_FILE, "link/file", NULL, 4, false);
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_link_that_is_there_already)
{
        ck_assert_int_eq(shell("mkdir -p '%s'; ln -s '%s' '%s'", scratch_path("dst/name"),
                               scratch_path("outside"), scratch_path("dst/name/link")),
                         0);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_DIRECTORY, "link", NULL, 0, false);
        put(ENTRY_FILE, "link/file", NULL, 4, false);
        put_data(2, 0, "evil");
        (void)record_put_file_end(&b, 2, 4, digest_of("evil", 4, 0));
        (void)record_put_leave(&b);
        put(ENTRY_HARDLINK, "z", "link/file", 0, false);
        (void)record_put_leave(&b);
        (void)record_put_end(&b);
        ck_assert_int_gt(feed(), 0);
        ck_assert(receiver_progress(receiver)->done);
        ck_assert_int_eq(error(), WIRE_EXISTS);
        ck_assert_uint_eq(receiver_progress(receiver)->n_failed, 3);
        ck_assert_int_ne(access(scratch_path("dst/name/z"), F_OK), 0);
}
END_TEST

START_TEST(test_paths_out_of_place)
{
        static const char *const bad[] = { "a/b", "b/c/d", "a", "..", "/etc/x" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                begin(true, false);
                put(ENTRY_DIRECTORY, "", NULL, 0, false);
                put(ENTRY_DIRECTORY, "b", NULL, 0, false);
                put(ENTRY_FILE, bad[i], NULL, 0, false);
                must_break(WIRE_INVALID_PATH);
                receiver = receiver_free(receiver);
                ck_assert_int_eq(shell("rm -rf '%s'", scratch_path("dst")), 0);
        }
}
END_TEST

START_TEST(test_same_entry_twice)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_SYMLINK, "a", "x", 0, false);
        put(ENTRY_SYMLINK, "a", "y", 0, false);
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_out_of_order)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_SYMLINK, "b", "x", 0, false);
        put(ENTRY_SYMLINK, "a", "y", 0, false);
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_name_of_a_temporary)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_FILE, ".vmferry-c0ffee-7.part", NULL, 0, false);
        must_break(WIRE_INVALID_PATH);
}
END_TEST

START_TEST(test_wrong_kind)
{
        begin(true, false);
        put(ENTRY_FILE, "", NULL, 1, false);
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        begin(false, false);
        put(ENTRY_DIRECTORY, "", NULL, 1, false);
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        begin(false, false);
        put(ENTRY_FILE, "x", NULL, 1, false);
        must_break(WIRE_INVALID_PATH);
}
END_TEST

START_TEST(test_more_bytes_than_announced)
{
        static const uint64_t sizes[] = { 3, 100000 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                begin(false, false);
                put(ENTRY_FILE, "", NULL, sizes[i], false);
                put_data(0, sizes[i] - 3, "more");
                must_break(WIRE_PROTOCOL);
                receiver = receiver_free(receiver);
                ck_assert_int_ne(access(scratch_path("dst"), F_OK), 0);
        }
}
END_TEST

static void must_fail(WireError expected)
{
        (void)record_put_end(&b);
        ck_assert_int_ge(feed(), 0);
        drain();
        ck_assert(receiver_progress(receiver)->done);
        ck_assert_int_eq(error(), expected);
        ck_assert_uint_eq(receiver_progress(receiver)->n_failed, 1);
        ck_assert_int_ne(access(scratch_path("dst"), F_OK), 0);
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
        receiver = receiver_free(receiver);
}

START_TEST(test_fewer_bytes)
{
        begin(false, false);
        put(ENTRY_FILE, "", NULL, 5, false);
        put_data(0, 0, "four");
        (void)record_put_file_end(&b, 0, 4, digest_of("four", 4, 0));
        must_fail(WIRE_INTEGRITY);
}
END_TEST

START_TEST(test_wrong_digest)
{
        static const uint64_t sizes[] = { 4, 70000 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                begin(false, false);
                put(ENTRY_FILE, "", NULL, sizes[i], false);
                put_data(0, 0, "four");
                (void)record_put_file_end(&b, 0, sizes[i], digest_of("fou?", 4, 0));
                must_fail(WIRE_INTEGRITY);
        }
}
END_TEST

START_TEST(test_descending_offsets)
{
        begin(false, false);
        put(ENTRY_FILE, "", NULL, 1000000, false);
        put_data(0, 500, "abc");
        put_data(0, 502, "def");
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_content_of_nothing)
{
        begin(false, false);
        put_data(0, 0, "abc");
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put_data(0, 0, "abc");
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        ck_assert_int_eq(shell("rm -rf '%s'", scratch_path("dst")), 0);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        (void)record_put_file_end(&b, 77, 0, 0);
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_unbalanced)
{
        begin(true, false);
        (void)record_put_leave(&b);
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        (void)record_put_end(&b);
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        ck_assert_int_eq(shell("rm -rf '%s'", scratch_path("dst")), 0);
        begin(true, false);
        (void)record_put_end(&b);
        must_break(WIRE_PROTOCOL);
        receiver = receiver_free(receiver);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        (void)record_put_leave(&b);
        put(ENTRY_SYMLINK, "late", "x", 0, false);
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_receivers_records)
{
        begin(false, false);
        (void)record_put_ack(&b, 1, 2, 3);
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_after_the_end)
{
        begin(false, false);
        put(ENTRY_FILE, "", NULL, 0, false);
        (void)record_put_file_end(&b, 0, 0, digest_of("", 0, 0));
        (void)record_put_end(&b);
        ck_assert_int_gt(feed(), 0);
        ck_assert(receiver_progress(receiver)->done);
        /* what comes behind is dropped, whatever it is */
        ck_assert_int_eq(receiver_feed(receiver, (const uint8_t *)"garbage", 7, &why), 7);
        ck_assert_int_eq(access(scratch_path("dst"), F_OK), 0);
}
END_TEST

START_TEST(test_too_deep)
{
        char path[2 * (TREE_DEPTH_MAX + 2)];
        size_t n = 0;

        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        for (unsigned i = 1; i <= TREE_DEPTH_MAX; i++) {
                if (n > 0)
                        path[n++] = '/';
                path[n++] = 'd';
                path[n] = 0;
                put(ENTRY_DIRECTORY, path, NULL, 0, false);
                if (i == TREE_DEPTH_MAX)
                        must_break(WIRE_PROTOCOL);
                else
                        ck_assert_int_gt(feed(), 0);
        }
}
END_TEST

START_TEST(test_too_many_offers)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        for (unsigned i = 0; i <= OFFERS_MAX; i++) {
                char name[16];

                (void)snprintf(name, sizeof name, "f%06u", i);
                put(ENTRY_FILE, name, NULL, 5, true);
        }
        must_break(WIRE_PROTOCOL);
}
END_TEST

START_TEST(test_offers_out_of_order)
{
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_FILE, "a", NULL, 5, true);
        put(ENTRY_FILE, "b", NULL, 5, true);
        put_data(2, 0, "later");
        must_break(WIRE_PROTOCOL);
}
END_TEST

static size_t rss_kib(void)
{
        FILE *f = fopen("/proc/self/statm", "re");
        unsigned long size, rss = 0;

        if (!f || fscanf(f, "%lu %lu", &size, &rss) != 2)
                ck_abort();
        (void)fclose(f);
        return rss * 4;
}

/* A million entries that all fail, and a sender that reads our complaints: memory stays where it is. */
START_TEST(test_a_million_entries)
{
        _unused_ size_t before = 0;

        ck_assert_int_eq(shell("mkdir '%s'; echo file >'%s'", scratch_path("dst"), scratch_path("dst/name")),
                         0);
        ck_assert_int_eq(shell("rm '%s'; mkdir -p '%s'; echo >'%s'", scratch_path("dst/name"),
                               scratch_path("dst/name"), scratch_path("dst/name/d")),
                         0);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_DIRECTORY, "d", NULL, 0, false); /* is a file: all beneath fails */
        for (unsigned i = 0; i < 1000000; i++) {
                char name[24];

                (void)snprintf(name, sizeof name, "d/f%07u", i);
                put(ENTRY_FILE, name, NULL, 5, i % 2);
                if (b.n > 30000) {
                        uint8_t *p = b.data;
                        size_t n = b.n;

                        while (n > 0) {
                                ssize_t k = receiver_feed(receiver, p, n, &why);

                                ck_assert_msg(k >= 0, "%s", why);
                                p += k;
                                n -= (size_t)k;
                                if (n > 0)
                                        drain();
                        }
                        b.n = b.offset = 0;
                }
                if (i == 50000)
                        before = rss_kib();
        }
#ifndef __SANITIZE_ADDRESS__ /* which keeps what was freed */
        ck_assert_uint_lt(rss_kib(), before + 2048);
#endif
        ck_assert_uint_ge(receiver_progress(receiver)->n_failed, 990000);
}
END_TEST

/* A sender that never reads what we say cannot make us hold it. */
START_TEST(test_a_sender_that_does_not_read)
{
        size_t used = 0;

        ck_assert_int_eq(
                shell("mkdir -p '%s'; echo >'%s'", scratch_path("dst/name"), scratch_path("dst/name/d")), 0);
        begin(true, false);
        put(ENTRY_DIRECTORY, "", NULL, 0, false);
        put(ENTRY_DIRECTORY, "d", NULL, 0, false);
        for (unsigned i = 0; i < 20000; i++) {
                char name[24];

                (void)snprintf(name, sizeof name, "d/f%07u", i);
                put(ENTRY_FILE, name, NULL, 5, false);
        }
        for (int i = 0; i < 10; i++) {
                ssize_t k = receiver_feed(receiver, b.data + used, b.n - used, &why);

                ck_assert_int_ge(k, 0);
                used += (size_t)k;
        }
        ck_assert_uint_lt(used, b.n);
        drain();
        ck_assert_int_gt(receiver_feed(receiver, b.data + used, b.n - used, &why), 0);
}
END_TEST

/* A file of exabytes made of one hole: refused, or taken in slices that let others in between. */
/* One failure, and more of them than anybody keeps in mind: no link is made to what may be another file. */
START_TEST(test_link_to_what_failed)
{
        struct stat st;

        for (int n_failures = 1; n_failures < 20000; n_failures += 19998) {
                ck_assert_int_eq(shell("mkdir -p '%s'; echo old >'%s'; echo >'%s'", scratch_path("dst/name"),
                                       scratch_path("dst/name/a"), scratch_path("dst/name/d")),
                                 0);
                begin(true, false);
                put(ENTRY_DIRECTORY, "", NULL, 0, false);
                put(ENTRY_FILE, "a", NULL, 4, false);
                put_data(1, 0, "anew");
                (void)record_put_file_end(&b, 1, 4, n_failures == 1 ? 0 : digest_of("anew", 4, 0));
                put(ENTRY_HARDLINK, "b", "a", 0, false);
                put(ENTRY_DIRECTORY, "d", NULL, 0, false); /* is a file: all beneath fails */
                for (int i = 1; i < n_failures; i++) {
                        char name[24];

                        (void)snprintf(name, sizeof name, "d/f%07d", i);
                        put(ENTRY_FILE, name, NULL, 5, true);
                        if (i % 500 == 0) {
                                ck_assert_int_gt(feed(), 0);
                                drain();
                        }
                }
                (void)record_put_leave(&b);
                put(ENTRY_HARDLINK, "z", "a", 0, false);
                (void)record_put_leave(&b);
                (void)record_put_end(&b);
                ck_assert_int_ge(feed(), 0);
                drain();
                ck_assert(receiver_progress(receiver)->done);
                ck_assert_int_ne(access(scratch_path("dst/name/z"), F_OK), 0);
                ck_assert_int_eq(stat(scratch_path("dst/name/a"), &st), 0);
                ck_assert_uint_eq(st.st_nlink, 1);
                receiver = receiver_free(receiver);
        }
}
END_TEST

START_TEST(test_huge_hole)
{
        uint8_t buf[64];

        begin(false, false);
        put(ENTRY_FILE, "", NULL, INT64_MAX - 100, false);
        put_data(0, INT64_MAX - 200, "end");
        ck_assert_int_ge(feed(), 0);
        for (int i = 0; i < 5; i++)
                (void)receiver_fill(receiver, buf, sizeof buf);
        receiver = receiver_free(receiver);
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
}
END_TEST

START_TEST(test_no_space)
{
        begin(false, false);
        (void)record_put_totals(&b, 1ull << 60, 1, 1ull << 60);
        ck_assert_int_ge(feed(), 0);
        ck_assert(receiver_progress(receiver)->done);
        ck_assert_int_eq(error(), WIRE_NO_SPACE);
        receiver = receiver_free(receiver);
        /* a sparse one may be as large as it likes */
        begin(false, false);
        (void)record_put_totals(&b, 1ull << 60, 1, 4096);
        ck_assert_int_ge(feed(), 0);
        ck_assert(!receiver_progress(receiver)->done);
}
END_TEST

/* Where some of it may be there already, nobody knows what is needed. */
START_TEST(test_no_space_known)
{
        static const struct {
                bool is_tree, resume, is_there, is_update, is_refused;
                const char *name;
        } cases[] = {
                { .is_tree = true, .name = "name", .is_refused = true },
                { .is_tree = true, .name = "name", .is_there = true },
                { .is_tree = true, .name = "name", .is_update = true },
                { .is_tree = true, .name = "name", .resume = true },
                { .is_tree = true, .name = "" },
                { .name = "name", .is_there = true, .is_refused = true }, /* the old one stays to the end */
                { .name = "name", .is_update = true },
                { .name = "name", .resume = true },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                ReceiverConfig rc = PAIR_RECEIVER;
                char *text = NULL;

                ck_assert_int_eq(
                        shell("rm -rf '%s' && mkdir '%s'", scratch_path("dst"), scratch_path("dst")), 0);
                if (cases[i].is_there)
                        ck_assert_int_eq(shell("%s '%s'", cases[i].is_tree ? "mkdir" : "touch",
                                               scratch_path("dst/name")),
                                         0);
                rc.path = scratch_path("dst");
                rc.name = cases[i].name;
                rc.is_tree = cases[i].is_tree;
                rc.resume = cases[i].resume;
                rc.overwrite = cases[i].is_update ? OVERWRITE_UPDATE : OVERWRITE_REPLACE;
                ck_assert_msg(receiver_new(&rc, &receiver, &text) == WIRE_OK, "%s", text);
                (void)record_put_totals(&b, 1ull << 60, 1, 1ull << 60);
                ck_assert_int_ge(feed(), 0);
                ck_assert_msg(receiver_progress(receiver)->done == cases[i].is_refused, "case %zu", i);
                receiver = receiver_free(receiver);
        }
}
END_TEST

START_TEST(test_sender_against_lies)
{
        static const struct {
                const char *bytes;
                size_t n;
        } lies[] = {
                { "\x11\0\0\0\0\0\0\0", 8 },                      /* ACK cut short */
                { "\x07\0\0\0\0\0\0\0", 8 },                      /* END */
                { "\x10\0\0\0\x09\0\0\0\5\0\0\0\0\0\0\0\0", 17 }, /* WANT of nothing */
                { "\x02\0\0\0\xff\xff\xff\xff", 8 },
                { "\0\0\0\0\0\0\0\0", 8 },
                { "\x12\0\0\0\x23\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                  43 }, /* DONE, all is well, before the end */
        };

        scratch_fill(scratch_path("a"), 100000, 1);
        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                SenderConfig sc = PAIR_SENDER;
                Sender *s;
                char *text;
                uint8_t buf[4096];

                sc.path = scratch_path("a");
                sc.negotiate = i % 2;
                ck_assert_int_eq(sender_new(&sc, &s, &text), WIRE_OK);
                (void)sender_fill(s, buf, sizeof buf);
                ck_assert_int_eq(sender_feed(s, (const uint8_t *)lies[i].bytes, lies[i].n, &why), -EBADMSG);
                (void)sender_free(s);
        }
}
END_TEST

/* A receiver whose digests agree with nothing, or that has more than the file: the file comes whole. */
START_TEST(test_sender_against_wrong_blocks)
{
        SenderConfig sc = PAIR_SENDER;
        static const uint64_t blocks[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
        uint8_t buf[32768];
        uint64_t n = 0;
        Sender *s;
        char *text;

        scratch_fill(scratch_path("a"), 1000000, 1);
        sc.path = scratch_path("a");
        sc.negotiate = true;
        ck_assert_int_eq(sender_new(&sc, &s, &text), WIRE_OK);
        while (sender_fill(s, buf, sizeof buf) > 0)
                ;
        ck_assert_int_eq(record_put_want(&b, 0, WANT_REST, 8 * RESUME_BLOCK, blocks, 8), 0);
        ck_assert_int_eq(sender_feed(s, b.data, b.n, &why), 0);
        for (;;) {
                ssize_t k = sender_fill(s, buf, sizeof buf);

                if (k <= 0)
                        break;
                n += (uint64_t)k;
        }
        ck_assert_uint_ge(n, 1000000);
        (void)sender_free(s);
}
END_TEST

SUITE_AROUND("hostile", setup, teardown,
             { test_link_then_file_beneath },
             { test_link_then_directory_of_its_name },
             { test_link_that_is_there_already },
             { test_paths_out_of_place },
             { test_same_entry_twice },
             { test_out_of_order },
             { test_name_of_a_temporary },
             { test_wrong_kind },
             { test_more_bytes_than_announced },
             { test_fewer_bytes },
             { test_wrong_digest },
             { test_descending_offsets },
             { test_content_of_nothing },
             { test_unbalanced },
             { test_receivers_records },
             { test_after_the_end },
             { test_too_deep },
             { test_too_many_offers },
             { test_offers_out_of_order },
             { test_a_million_entries },
             { test_a_sender_that_does_not_read },
             { test_link_to_what_failed },
             { test_huge_hole },
             { test_no_space },
             { test_no_space_known },
             { test_sender_against_lies },
             { test_sender_against_wrong_blocks })
