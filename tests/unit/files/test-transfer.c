/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sender and receiver joined: whole transfers of files, streams and trees, over every split, and what the
 * destination looks like behind them.
 */

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/base.h"
#include "pair.h"
#include "proto/digest.h"
#include "proto/entry.h"
#include "../suite.h"

static void setup(void)
{
        (void)scratch_new();
}

static Pair run(const char *from, const char *to, size_t n_max, unsigned seed)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .n_max = n_max, .seed = seed, .cut_after = UINT64_MAX };

        sc.path = from;
        rc.path = to;
        sc.preserve = rc.preserve = true;
        pair_run(&p, &sc, &rc);
        return p;
}

static void must_be_done(const Pair *p)
{
        ck_assert_msg(p->error == WIRE_OK, "%s", p->text);
        ck_assert_msg(!p->why, "%s", p->why);
        ck_assert(!p->is_stuck);
        ck_assert(p->sent.done);
        ck_assert_msg(p->sent.error == WIRE_OK, "%s: %s", p->sent_path, p->sent_text);
        ck_assert_uint_eq(p->sent.n_failed, 0);
}

START_TEST(test_file_sizes)
{
        static const size_t sizes[] = { 0,     1,     4071,   4072,    4073,    65535,
                                        65536, 65537, 262144, 1000003, 5u << 20 };
        static const size_t pieces[] = { SIZE_MAX, 32768, 4097, 7 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++)
                for (size_t k = 0; k < ELEMENTSOF(pieces) - (sizes[i] > 300000); k++) {
                        Pair p;

                        scratch_fill(scratch_path("a"), sizes[i], (unsigned)i);
                        ck_assert_int_eq(
                                shell("touch -d '2001-02-03 04:05:06.789012345' '%s'", scratch_path("a")),
                                0);
                        p = run(scratch_path("a"), scratch_path("b"), pieces[k], (unsigned)(i * 7 + k));
                        must_be_done(&p);
                        ck_assert_uint_eq(p.sent.n_bytes, sizes[i]);
                        ck_assert_uint_eq(p.sent.n_files, 1);
                        ck_assert_uint_eq(p.sent.digest, p.received.digest);
                        ck_assert_int_eq(trees_differ(scratch_path("a"), scratch_path("b")), 0);
                        pair_done(&p);
                        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
                }
}
END_TEST

START_TEST(test_every_split)
{
        scratch_fill(scratch_path("a"), 3000, 1);
        for (size_t n = 1; n < 64; n++) {
                Pair p = run(scratch_path("a"), scratch_path("b"), n, (unsigned)n);

                must_be_done(&p);
                ck_assert_int_eq(trees_differ(scratch_path("a"), scratch_path("b")), 0);
                pair_done(&p);
        }
}
END_TEST

static void make_tree(const char *at)
{
        ck_assert_int_eq(
                shell("set -e; mkdir -p '%s'; cd '%s'; mkdir -p a/b/c empty 'odd names' deep; "
                      "echo one >a/one; echo two >a/b/two; : >a/b/c/nothing; "
                      "ln -s ../nowhere a/dangling; ln -s /etc a/b/absolute; "
                      "ln a/one a/b/same; ln a/one zlast; "
                      "printf x >\"$(printf 'odd names/new\\nline')\"; printf y >\"$(printf 'odd "
                      "names/\\377\\376')\"; "
                      "printf z >'odd names/ -rf *'; printf q >a.b; printf w >a-b; "
                      "truncate -s 3M sparse; printf data | dd of=sparse bs=1 seek=1500000 conv=notrunc "
                      "2>/dev/null; "
                      "truncate -s 5M hole; "
                      "head -c 300000 /dev/urandom >random; "
                      "d=deep; for i in $(seq 60); do d=$d/d$i; done; mkdir -p $d; echo end >$d/end; "
                      "chmod 0750 a; chmod 0444 a/one; chmod 01777 empty; chmod 0500 a/b/c; "
                      "find . -depth -exec touch -h -d '2010-11-12 13:14:15.161718192' {} +",
                      at, at),
                0);
}

START_TEST(test_tree)
{
        static const size_t pieces[] = { SIZE_MAX, 32768, 1000, 13 };

        make_tree(scratch_path("src"));
        for (size_t k = 0; k < ELEMENTSOF(pieces); k++) {
                struct stat st;
                Pair p = run(scratch_path("src"), scratch_path("dst%zu", k), pieces[k], (unsigned)k);

                must_be_done(&p);
                ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("dst%zu", k)), 0);
                ck_assert_int_eq(stat(scratch_path("dst%zu/hole", k), &st), 0);
                ck_assert_int_eq(st.st_size, 5 << 20);
                ck_assert_int_lt(st.st_blocks, 100);
                ck_assert_int_eq(stat(scratch_path("dst%zu/sparse", k), &st), 0);
                ck_assert_int_lt(st.st_blocks, 600);
                ck_assert_uint_eq(p.sent.n_bytes, p.received.total_bytes);
                ck_assert_uint_eq(p.sent.n_files, p.received.total_files);
                pair_done(&p);
                ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
                /* and once more over what is there */
                p = run(scratch_path("src/."), scratch_path("dst%zu", k), pieces[k], (unsigned)k);
                pair_done(&p);
        }
}
END_TEST

START_TEST(test_tree_over_itself)
{
        make_tree(scratch_path("src"));
        ck_assert_int_eq(shell("mkdir '%s'", scratch_path("into")), 0);
        for (int i = 0; i < 2; i++) {
                Pair p = run(scratch_path("src"), scratch_path("into"), SIZE_MAX, 1);

                must_be_done(&p);
                pair_done(&p);
                ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("into/src")), 0);
        }
}
END_TEST

START_TEST(test_many_small)
{
        Pair p;

        ck_assert_int_eq(shell("mkdir -p '%s'; cd '%s'; seq 3000 | split -l 1 -a 4 - f",
                               scratch_path("many"), scratch_path("many")),
                         0);
        p = run(scratch_path("many"), scratch_path("copy"), SIZE_MAX, 1);
        must_be_done(&p);
        ck_assert_uint_eq(p.sent.n_files, 3000);
        ck_assert_int_eq(trees_differ(scratch_path("many"), scratch_path("copy")), 0);
        pair_done(&p);
}
END_TEST

START_TEST(test_attributes)
{
        char value[16] = "";
        struct stat st;
        Pair p;

        ck_assert_int_eq(shell("mkdir '%s'; echo x >'%s'; chmod 4755 '%s'", scratch_path("d"),
                               scratch_path("d/f"), scratch_path("d/f")),
                         0);
        if (setxattr(scratch_path("d/f"), "user.colour", "red", 3, 0) < 0)
                return; /* no xattrs here */
        ck_assert_int_eq(setxattr(scratch_path("d"), "user.shape", "round", 5, 0), 0);
        if (geteuid() == 0)
                ck_assert_int_eq(chown(scratch_path("d"), 12345, 12346), 0);
        p = run(scratch_path("d"), scratch_path("e"), SIZE_MAX, 1);
        must_be_done(&p);
        ck_assert_int_eq(getxattr(scratch_path("e/f"), "user.colour", value, sizeof value), 3);
        ck_assert_int_eq(getxattr(scratch_path("e"), "user.shape", value, sizeof value), 5);
        ck_assert_int_eq(stat(scratch_path("e/f"), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 04755);
        ck_assert_int_eq(stat(scratch_path("e"), &st), 0);
        if (geteuid() == 0) {
                ck_assert_uint_eq(st.st_uid, 12345);
                ck_assert_uint_eq(st.st_gid, 12346);
        }
        pair_done(&p);
}
END_TEST

START_TEST(test_set_id_only_with_preserve)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = UINT64_MAX };
        struct stat st;

        scratch_fill(scratch_path("a"), 10, 1);
        ck_assert_int_eq(chmod(scratch_path("a"), 06755), 0);
        sc.path = scratch_path("a");
        rc.path = scratch_path("b");
        pair_run(&p, &sc, &rc);
        must_be_done(&p);
        ck_assert_int_eq(stat(scratch_path("b"), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0755);
        pair_done(&p);
}
END_TEST

START_TEST(test_stream_from_pipe)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = UINT64_MAX };
        FILE *f = popen("head -c 3000000 /dev/zero; sleep 0.1; echo tail", "r");
        struct stat st;

        ck_assert_ptr_nonnull(f);
        sc.fd = fcntl(fileno(f), F_DUPFD_CLOEXEC, 3);
        rc.path = scratch_path("out");
        pair_run(&p, &sc, &rc);
        must_be_done(&p);
        ck_assert_int_eq(stat(scratch_path("out"), &st), 0);
        ck_assert_int_eq(st.st_size, 3000005);
        pair_done(&p);
        (void)pclose(f);
}
END_TEST

START_TEST(test_into_pipe)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = UINT64_MAX };
        char command[1100];
        FILE *f;

        scratch_fill(scratch_path("a"), 700001, 3);
        ck_assert_int_eq(shell("truncate -s 2000000 '%s'", scratch_path("a")), 0);
        (void)snprintf(command, sizeof command, "sleep 0.1; cat >'%s'", scratch_path("b"));
        f = popen(command, "w");
        ck_assert_ptr_nonnull(f);
        sc.path = scratch_path("a");
        rc.fd = fcntl(fileno(f), F_DUPFD_CLOEXEC, 3);
        pair_run(&p, &sc, &rc);
        must_be_done(&p);
        pair_done(&p);
        (void)pclose(f);
        ck_assert_int_eq(shell("cmp '%s' '%s'", scratch_path("a"), scratch_path("b")), 0);
}
END_TEST

START_TEST(test_resume)
{
        for (unsigned round = 0; round < 30; round++) {
                SenderConfig sc = PAIR_SENDER;
                ReceiverConfig rc = PAIR_RECEIVER;
                const uint64_t size = 6u << 20;
                uint64_t n_sent = 0;
                unsigned seed = round;
                int n_cuts = 0;

                scratch_fill(scratch_path("a"), size, round);
                if (round % 3 == 1)
                        ck_assert_int_eq(shell("fallocate -p -o %u -l 1000000 '%s'", round * 100000,
                                               scratch_path("a")),
                                         0);
                (void)unlink(scratch_path("b"));
                sc.path = scratch_path("a");
                rc.path = scratch_path("b");
                rc.keep_partial = rc.resume = true;
                for (;;) {
                        Pair p = { .n_max = 32768, .seed = seed };

                        p.cut_after = n_cuts < 4 ? (uint64_t)rand_r(&seed) % (4u << 20) : UINT64_MAX;
                        sc.negotiate = n_cuts++ > 0;
                        pair_run(&p, &sc, &rc);
                        ck_assert(p.error == WIRE_OK);
                        ck_assert_msg(!p.why, "%s", p.why);
                        ck_assert(!p.is_stuck);
                        n_sent += p.n_forth;
                        if (p.sent.done) {
                                must_be_done(&p);
                                ck_assert_uint_eq(p.sent.n_bytes, size);
                                ck_assert_uint_ne(p.sent.digest, 0);
                                ck_assert_uint_eq(p.sent.digest, p.received.digest);
                                pair_done(&p);
                                break;
                        }
                        pair_done(&p);
                        ck_assert_int_ne(access(scratch_path("b"), F_OK), 0);
                }
                ck_assert_int_eq(trees_differ(scratch_path("a"), scratch_path("b")), 0);
                ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
                ck_assert_uint_lt(n_sent, size + 5 * (RESUME_BLOCK + 200000));
        }
}
END_TEST

START_TEST(test_resume_tree)
{
        make_tree(scratch_path("src"));
        scratch_fill(scratch_path("src/large"), 3u << 20, 9);
        for (unsigned round = 0; round < 12; round++) {
                SenderConfig sc = PAIR_SENDER;
                ReceiverConfig rc = PAIR_RECEIVER;
                unsigned seed = round * 77 + 1;
                int n_cuts = 0;

                sc.path = scratch_path("src");
                rc.path = scratch_path("dst");
                rc.keep_partial = rc.resume = sc.preserve = rc.preserve = true;
                rc.overwrite = round % 2 ? OVERWRITE_REPLACE : OVERWRITE_FAIL;
                for (;;) {
                        Pair p = { .n_max = 32768, .seed = seed };

                        p.cut_after = n_cuts < 4 ? (uint64_t)rand_r(&seed) % (3u << 20) : UINT64_MAX;
                        sc.negotiate = n_cuts++ > 0;
                        pair_run(&p, &sc, &rc);
                        ck_assert(p.error == WIRE_OK);
                        ck_assert_msg(!p.why, "%s", p.why);
                        ck_assert_msg(!p.is_stuck, "stuck in round %u", round);
                        if (p.sent.done) {
                                must_be_done(&p);
                                pair_done(&p);
                                break;
                        }
                        pair_done(&p);
                }
                ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("dst")), 0);
                ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
                ck_assert_int_eq(shell("chmod -R u+rwX '%s' && rm -rf '%s'", scratch_path("dst"),
                                       scratch_path("dst")),
                                 0);
        }
}
END_TEST

START_TEST(test_resume_after_lost_done)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = UINT64_MAX };
        uint64_t digest;

        scratch_fill(scratch_path("a"), 3u << 20, 5);
        sc.path = scratch_path("a");
        rc.path = scratch_path("b");
        rc.keep_partial = rc.resume = true;
        pair_run(&p, &sc, &rc);
        must_be_done(&p);
        digest = p.sent.digest;
        pair_done(&p);
        p = (Pair){ .cut_after = UINT64_MAX };
        sc.negotiate = true;
        pair_run(&p, &sc, &rc);
        must_be_done(&p);
        ck_assert_uint_eq(p.sent.digest, digest);
        ck_assert_uint_lt(p.n_forth, 1000);
        pair_done(&p);
}
END_TEST

START_TEST(test_source_changed)
{
        SenderConfig sc = PAIR_SENDER;
        Sender *s = NULL;
        char *text = NULL;

        scratch_fill(scratch_path("a"), 100, 5);
        sc.path = scratch_path("a");
        sc.expect_size = 101;
        ck_assert_int_eq(sender_new(&sc, &s, &text), WIRE_SOURCE_CHANGED);
        ck_assert_ptr_nonnull(text);
        free(text);
}
END_TEST

START_TEST(test_changed_while_read)
{
        SenderConfig sc = PAIR_SENDER;
        Sender *s;
        uint8_t buf[65536];
        char *text;
        bool failed = false;
        RecordParser *parser = record_parser_new();

        scratch_fill(scratch_path("a"), 1u << 20, 5);
        sc.path = scratch_path("a");
        ck_assert_int_eq(sender_new(&sc, &s, &text), WIRE_OK);
        for (int i = 0;; i++) {
                ssize_t k = sender_fill(s, buf, sizeof buf);
                size_t o = 0;

                if (i == 3)
                        ck_assert_int_eq(shell("echo more >>'%s'", scratch_path("a")), 0);
                if (k == -ENODATA)
                        break;
                ck_assert_int_gt(k, 0);
                while (o < (size_t)k) {
                        const char *why;
                        size_t taken;
                        Record r;

                        if (record_parser_next(parser, buf + o, (size_t)k - o, &taken, &r, &why) > 0) {
                                ck_assert_int_ne(r.type, RECORD_FILE_END);
                                failed |= r.type == RECORD_FAILED && r.error == WIRE_SOURCE_CHANGED;
                        }
                        o += taken;
                }
        }
        ck_assert(failed);
        (void)record_parser_free(parser);
        (void)sender_free(s);
}
END_TEST

START_TEST(test_overwrite)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = UINT64_MAX };

        scratch_write(scratch_path("a"), "new", 3);
        scratch_write(scratch_path("b"), "old!", 4);
        sc.path = scratch_path("a");
        rc.path = scratch_path("b");
        rc.overwrite = OVERWRITE_FAIL;
        pair_run(&p, &sc, &rc);
        ck_assert_int_eq(p.error, WIRE_EXISTS);
        pair_done(&p);

        rc.overwrite = OVERWRITE_UPDATE;
        ck_assert_int_eq(shell("touch -d 2000-01-01 '%s'", scratch_path("a")), 0);
        for (int negotiate = 0; negotiate < 2; negotiate++) {
                p = (Pair){ .cut_after = UINT64_MAX };
                sc.negotiate = negotiate;
                pair_run(&p, &sc, &rc);
                must_be_done(&p);
                pair_done(&p);
                ck_assert_int_eq(shell("grep -q old! '%s'", scratch_path("b")), 0);
        }
        ck_assert_int_eq(shell("touch -d 2000-01-01 '%s'; touch '%s'", scratch_path("b"), scratch_path("a")),
                         0);
        p = (Pair){ .cut_after = UINT64_MAX };
        pair_run(&p, &sc, &rc);
        must_be_done(&p);
        pair_done(&p);
        ck_assert_int_eq(shell("grep -q new '%s'", scratch_path("b")), 0);
}
END_TEST

START_TEST(test_destination_kinds)
{
        Pair p;

        scratch_write(scratch_path("a"), "x", 1);
        ck_assert_int_eq(shell("cd '%s'; mkdir dir tree; ln -s dir link; echo f >tree/f; mkdir -p in/a in2; "
                               "echo >in2/tree; "
                               "echo target >target; ln -s target flink",
                               scratch_path(".")),
                         0);
        p = run(scratch_path("a"), scratch_path("nowhere/b"), SIZE_MAX, 1);
        ck_assert_int_eq(p.error, WIRE_NOT_FOUND);
        pair_done(&p);
        p = run(scratch_path("a"), scratch_path("nowhere/"), SIZE_MAX, 1);
        ck_assert_int_eq(p.error, WIRE_NOT_FOUND);
        pair_done(&p);
        p = run(scratch_path("a"), scratch_path("a/b"), SIZE_MAX, 1);
        ck_assert_int_eq(p.error, WIRE_EXISTS);
        pair_done(&p);
        p = run(scratch_path("a"), scratch_path("in"), SIZE_MAX, 1); /* in/a is a directory */
        ck_assert_int_eq(p.error, WIRE_EXISTS);
        pair_done(&p);
        p = run(scratch_path("tree"), scratch_path("in2"), SIZE_MAX, 1); /* in2/tree is a file */
        ck_assert_int_eq(p.error, WIRE_EXISTS);
        pair_done(&p);
        p = run(scratch_path("a"), scratch_path("link"), SIZE_MAX, 1); /* a link to a directory is one */
        must_be_done(&p);
        pair_done(&p);
        ck_assert_int_eq(access(scratch_path("dir/a"), F_OK), 0);
        p = run(scratch_path("a"), scratch_path("flink"), SIZE_MAX, 1); /* a link to a file is replaced */
        must_be_done(&p);
        pair_done(&p);
        ck_assert_int_eq(shell("cd '%s'; grep -q target target && test ! -L flink", scratch_path(".")), 0);
        p = run("/dev/../etc", scratch_path("x"), SIZE_MAX, 1);
        pair_done(&p);
}
END_TEST

START_TEST(test_entries_that_fail)
{
        Pair p;

        ck_assert_int_eq(shell("cd '%s'; mkdir -p s/d s/e; echo 1 >s/clash; echo 2 >s/d/f; echo 3 >s/z; "
                               "mkfifo s/fifo; "
                               "mkdir -p out/s/clash out/s/e; echo file >out/s/d",
                               scratch_path(".")),
                         0);
        p = run(scratch_path("s"), scratch_path("out"), SIZE_MAX, 1);
        ck_assert(p.sent.done);
        ck_assert_int_eq(p.sent.error, WIRE_EXISTS);
        ck_assert_uint_eq(p.sent.n_failed, 3); /* clash, d, d/f */
        ck_assert_uint_eq(p.sent.n_files, 1);
        pair_done(&p);
        ck_assert_int_eq(shell("cd '%s'; grep -q 3 out/s/z && grep -q file out/s/d && test -d out/s/clash",
                               scratch_path(".")),
                         0);
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
}
END_TEST

/* The limit is said in words of its own, and what is above it comes. */
START_TEST(test_too_deep)
{
        struct rlimit limit;
        Pair p;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)4096); /* one or two a level */
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        /* s is the first, and has 511 in it */
        ck_assert_int_eq(
                shell("cd '%s'; d=s; for i in $(seq 511); do d=$d/d; done; mkdir -p $d; echo 1 >$d/f",
                      scratch_path(".")),
                0);
        p = run(scratch_path("s"), scratch_path("t"), SIZE_MAX, 1);
        must_be_done(&p);
        pair_done(&p);
        ck_assert_int_eq(trees_differ(scratch_path("s"), scratch_path("t")), 0);

        ck_assert_int_eq(
                shell("cd '%s'; d=s; for i in $(seq 512); do d=$d/d; done; mkdir $d", scratch_path(".")), 0);
        p = run(scratch_path("s"), scratch_path("u"), SIZE_MAX, 1);
        ck_assert(p.sent.done);
        ck_assert_int_eq(p.sent.error, WIRE_TOO_LARGE);
        ck_assert_uint_eq(p.sent.n_failed, 1);
        ck_assert_uint_eq(p.sent.n_files, 1);
        ck_assert_str_eq(p.sent_text, "It is nested too deeply in other directories to be sent");
        pair_done(&p);
}
END_TEST

START_TEST(test_cancel_removes)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = 2u << 20 };

        scratch_fill(scratch_path("a"), 4u << 20, 5);
        sc.path = scratch_path("a");
        rc.path = scratch_path("b");
        rc.keep_partial = true;
        pair_run(&p, &sc, &rc);
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 1);
        receiver_give_up(p.receiver);
        pair_done(&p);
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
        ck_assert_int_ne(access(scratch_path("b"), F_OK), 0);
}
END_TEST

SUITE_AROUND("transfer", setup, scratch_done,
             { test_file_sizes },
             { test_every_split },
             { test_tree },
             { test_tree_over_itself },
             { test_many_small },
             { test_attributes },
             { test_set_id_only_with_preserve },
             { test_stream_from_pipe },
             { test_into_pipe },
             { test_resume },
             { test_resume_tree },
             { test_resume_after_lost_done },
             { test_source_changed },
             { test_changed_while_read },
             { test_overwrite },
             { test_destination_kinds },
             { test_entries_that_fail },
             { test_too_deep },
             { test_cancel_removes })
