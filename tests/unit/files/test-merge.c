/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trees into directories that are there already: whose attributes those have in the end, also behind an
 * interruption.
 */

#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "pair.h"
#include "proto/entry.h"
#include "../suite.h"

/* Directories: kept is there already, in it new is not. */
static void setup(void)
{
        (void)scratch_new();
        ck_assert_int_eq(
                shell("set -e; cd '%s'; mkdir -p src/kept/new/deep src/also/deep into/src/kept "
                      "contents/kept;"
                      "for d in src src/kept src/kept/new src/kept/new/deep src/also src/also/deep; do"
                      " head -c 40000 /dev/urandom >$d/file; ln -s file $d/link; done;"
                      "find src -type d -exec chmod 0750 {} +;"
                      "find into contents -type d -exec chmod 0711 {} +;"
                      "find src -depth -exec touch -h -d '2010-11-12 13:14:15' {} +",
                      scratch_path(".")),
                0);
}

static struct stat look(const char *path)
{
        struct stat st;

        ck_assert_msg(stat(scratch_path("%s", path), &st) == 0, "%s", path);
        return st;
}

static void must_be_ours(const char *path)
{
        ck_assert_msg((look(path).st_mode & 07777) == 0750, "%s", path);
        ck_assert_msg(look(path).st_mtim.tv_sec == look("src").st_mtim.tv_sec, "%s", path);
}

static void must_be_theirs(const char *path)
{
        ck_assert_msg((look(path).st_mode & 07777) == 0711, "%s", path);
        ck_assert_msg(look(path).st_mtim.tv_sec != look("src").st_mtim.tv_sec, "%s", path);
}

static void must_be_done(const Pair *p)
{
        ck_assert_msg(p->error == WIRE_OK, "%s", p->text);
        ck_assert_msg(!p->why, "%s", p->why);
        ck_assert(!p->is_stuck);
        ck_assert(p->sent.done);
        ck_assert_msg(p->sent.error == WIRE_OK, "%s: %s", p->sent_path, p->sent_text);
}

/* name NULL: the source's own. Interrupted each time that `step` bytes have passed, at most n_cuts times. */
static void copy(const char *to, const char *name, bool preserve, uint64_t step, unsigned n_cuts)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;

        sc.path = scratch_path("src");
        rc.path = to;
        rc.name = name;
        sc.preserve = rc.preserve = preserve;
        rc.keep_partial = true;
        for (unsigned i = 0;; i++) {
                Pair p = { .n_max = 4096,
                           .seed = i + 1,
                           .cut_after = i < n_cuts ? step * (i + 1) : UINT64_MAX };

                rc.resume = sc.negotiate = i > 0;
                pair_run(&p, &sc, &rc);
                ck_assert_msg(p.error == WIRE_OK, "%s", p.text);
                if (p.sent.done) {
                        must_be_done(&p);
                        pair_done(&p);
                        break;
                }
                ck_assert(i < n_cuts);
                pair_done(&p);
        }
        ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
}

START_TEST(test_directories_that_are_there)
{
        copy(scratch_path("into"), NULL, false, 0, 0);
        must_be_theirs("into");
        must_be_theirs("into/src");
        must_be_theirs("into/src/kept");
        must_be_ours("into/src/kept/new");
        must_be_ours("into/src/kept/new/deep");
        must_be_ours("into/src/also");
        copy(scratch_path("into"), NULL, true, 0, 0);
        must_be_theirs("into");
        ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("into/src")), 0);
}
END_TEST

START_TEST(test_contents)
{
        for (int preserve = 0; preserve < 2; preserve++) {
                copy(scratch_path("contents"), "", preserve, 0, 0);
                must_be_theirs("contents");
                must_be_ours("contents/kept/new");
                must_be_ours("contents/also");
                if (!preserve)
                        must_be_theirs("contents/kept");
                else
                        must_be_ours("contents/kept");
                ck_assert_int_eq(shell("diff -r '%s' '%s'", scratch_path("src"), scratch_path("contents")),
                                 0);
        }
        copy(scratch_path("new"), "", false, 0, 0);
        ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("new")), 0);
}
END_TEST

/* What the attempts before had made is this transfer's, and nothing else is. */
START_TEST(test_interrupted)
{
        static const char mode[] = "find '%s' -type d -exec chmod 0711 {} +";

        for (unsigned n_cuts = 1; n_cuts <= 12; n_cuts++) {
                copy(scratch_path("into"), NULL, false, 19000, n_cuts);
                must_be_theirs("into/src");
                must_be_theirs("into/src/kept");
                must_be_ours("into/src/kept/new");
                must_be_ours("into/src/kept/new/deep");
                must_be_ours("into/src/also");
                must_be_ours("into/src/also/deep");
                copy(scratch_path("contents"), "", false, 19000, n_cuts);
                must_be_theirs("contents");
                must_be_theirs("contents/kept");
                must_be_ours("contents/kept/new/deep");
                must_be_ours("contents/also");
                copy(scratch_path("into/new"), NULL, false, 19000, n_cuts);
                ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("into/new")), 0);
                copy(scratch_path("empty/"), "", false, 19000, n_cuts);
                ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("empty")), 0);
                ck_assert_int_eq(shell("cd '%s' && rm -rf into contents empty && mkdir -p into/src/kept "
                                       "contents/kept &&"
                                       " find into contents -type d -exec chmod 0711 {} +",
                                       scratch_path(".")),
                                 0);
        }
        /* into a directory that has none of its name */
        ck_assert_int_eq(shell("rm -rf '%s'", scratch_path("into/src")), 0);
        ck_assert_int_eq(shell(mode, scratch_path("into")), 0);
        copy(scratch_path("into"), NULL, false, 19000, 9);
        ck_assert_int_eq(trees_differ(scratch_path("src"), scratch_path("into/src")), 0);
        must_be_theirs("into");
}
END_TEST

/* A cancelled one leaves no mark behind. */
START_TEST(test_cancelled)
{
        for (uint64_t cut = 2000; cut < 260000; cut += 9000) {
                SenderConfig sc = PAIR_SENDER;
                ReceiverConfig rc = PAIR_RECEIVER;
                Pair p = { .n_max = 4096, .cut_after = cut };

                sc.path = scratch_path("src");
                rc.path = scratch_path("contents");
                rc.name = "";
                rc.keep_partial = true;
                pair_run(&p, &sc, &rc);
                if (p.receiver)
                        receiver_give_up(p.receiver);
                pair_done(&p);
                ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
                must_be_theirs("contents/kept");
        }
}
END_TEST

/* Two names of one file are not two names of another one that happened to be there. */
START_TEST(test_links)
{
        static const struct {
                ReceiverOverwrite overwrite;
                bool is_linked;
                unsigned n_failed;
        } cases[] = { { OVERWRITE_FAIL, false, 3 },
                      { OVERWRITE_REPLACE, true, 0 },
                      { OVERWRITE_UPDATE, true, 0 } };

        ck_assert_int_eq(
                shell("cd '%s/src' && rm -rf * && mkdir sub && echo new >a && touch -d 2001-01-01 a &&"
                      " ln a b && ln a sub/c",
                      scratch_path(".")),
                0);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                SenderConfig sc = PAIR_SENDER;
                ReceiverConfig rc = PAIR_RECEIVER;
                Pair p = { .n_max = 1000, .cut_after = UINT64_MAX };

                ck_assert_int_eq(
                        shell("cd '%s' && rm -rf dst && mkdir -p dst && echo old >dst/a", scratch_path(".")),
                        0);
                sc.path = scratch_path("src");
                sc.negotiate = cases[i].overwrite == OVERWRITE_UPDATE;
                rc.path = scratch_path("dst");
                rc.name = "";
                rc.overwrite = cases[i].overwrite;
                pair_run(&p, &sc, &rc);
                ck_assert(p.sent.done);
                ck_assert_uint_eq(p.sent.n_failed, cases[i].n_failed);
                pair_done(&p);
                ck_assert_uint_eq(look("dst/a").st_nlink, cases[i].is_linked ? 3 : 1);
                ck_assert_int_eq(access(scratch_path("dst/b"), F_OK), cases[i].is_linked ? 0 : -1);
                ck_assert_int_eq(access(scratch_path("dst/sub/c"), F_OK), cases[i].is_linked ? 0 : -1);
        }
}
END_TEST

SUITE_AROUND("merge", setup, scratch_done,
             { test_directories_that_are_there },
             { test_contents },
             { test_interrupted },
             { test_cancelled },
             { test_links })
