/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A receiver killed at any instant: each name of the destination shows the old content or the whole new one,
 * and the next attempt finishes what was begun and leaves nothing behind.
 */

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/base.h"
#include "pair.h"
#include "../suite.h"

static unsigned seed;

static void setup(void)
{
        const char *text = getenv("TEST_SEED");

        seed = text ? (unsigned)strtoul(text, NULL, 10) : (unsigned)getpid();
        (void)fprintf(stderr, "TEST_SEED=%u\n", seed);
        (void)scratch_new();
}

/* dies: as if DONE had never come to the other side, nobody tells the receiver that it was heard. */
static void transfer(const char *from, const char *to, bool again, bool dies)
{
        SenderConfig sc = PAIR_SENDER;
        ReceiverConfig rc = PAIR_RECEIVER;
        Pair p = { .cut_after = UINT64_MAX };

        sc.path = from;
        rc.path = to;
        sc.negotiate = again;
        rc.resume = rc.keep_partial = true;
        pair_run(&p, &sc, &rc);
        if (p.error != WIRE_OK || !p.sent.done || p.sent.error != WIRE_OK) {
                (void)fprintf(stderr, "%s %s %s\n", p.text ? p.text : "", p.why ? p.why : "", p.sent_text);
                _exit(1);
        }
        if (dies)
                _exit(0);
        pair_done(&p);
}

/* Runs a transfer in a child that is killed somewhere within usec. */
static void killed_transfer(const char *from, const char *to, bool again, unsigned usec)
{
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                transfer(from, to, again, true);
                _exit(1);
        }
        (void)usleep((unsigned)rand_r(&seed) % usec);
        (void)kill(pid, SIGKILL);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(test_file)
{
        for (int i = 0; i < 30; i++) {
                const char *dst = scratch_path("dst"), *old = scratch_path("old"),
                           *new = scratch_path("new");

                scratch_fill(scratch_path("old"), 700000, (unsigned)i * 2);
                scratch_fill(scratch_path("new"), 2000000, (unsigned)i * 2 + 1);
                ck_assert_int_eq(shell("cp -p '%s' '%s'", old, dst), 0);
                killed_transfer(new, dst, false, 12000);
                ck_assert_int_eq(shell("cmp -s '%s' '%s' || cmp -s '%s' '%s'", old, dst, new, dst), 0);
                transfer(new, dst, true, false);
                ck_assert_int_eq(shell("cmp '%s' '%s'", new, dst), 0);
                ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
        }
}
END_TEST

START_TEST(test_tree)
{
        _cleanup_free_ char *src = strdup(scratch_path("src")), *dst = strdup(scratch_path("dst"));

        ck_assert_int_eq(
                shell("mkdir '%s'; cd '%s'; for d in a b c d; do mkdir $d; for f in $(seq 300); do "
                      "echo $d $f >$d/$f; done; head -c 400000 /dev/urandom >$d/large; ln $d/1 $d/zz; done",
                      src, src),
                0);
        for (int i = 0; i < 8; i++) {
                ck_assert_int_eq(shell("rm -rf '%s'", dst), 0);
                for (int k = 0; k < 3; k++) {
                        killed_transfer(src, dst, k > 0, 40000);
                        /* what has a name is whole */
                        ck_assert_int_eq(
                                shell("cd '%s' 2>/dev/null || exit 0; find . -type f ! -name '.vmferry-*' | "
                                      "while read f; do cmp \"$f\" \"%s/$f\" || exit 1; done",
                                      dst, src),
                                0);
                }
                transfer(src, dst, true, false);
                ck_assert_int_eq(trees_differ(src, dst), 0);
                ck_assert_int_eq(n_temporaries(scratch_path(".")), 0);
        }
}
END_TEST

SUITE_AROUND("crash", setup, scratch_done,
             { test_file },
             { test_tree })
