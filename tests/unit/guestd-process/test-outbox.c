/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/outbox.h"
#include "proto/limits.h"
#include "../suite.h"

static Loop *loop;
static Outbox *box;
static char path[64];
static int send_result;
static struct {
        uint64_t id;
        uint32_t request;
        char topic[TOPIC_MAX + 1];
        size_t n;
} sent[4096];
static size_t n_sent, n_room;
static uint32_t last_request;

static int on_send(void *userdata, const char *topic, uint64_t id, const void *payload, size_t n,
                   uint32_t *ret_request)
{
        if (send_result < 0)
                return send_result;
        ck_assert_uint_lt(n_sent, ELEMENTSOF(sent));
        sent[n_sent].id = id;
        sent[n_sent].request = ++last_request;
        sent[n_sent].n = n;
        (void)snprintf(sent[n_sent++].topic, sizeof(sent[0].topic), "%s", topic);
        *ret_request = last_request;
        return 0;
}

static void on_room(void *userdata)
{
        n_room++;
}

static void up(unsigned n_max)
{
        static const OutboxOps ops = { on_send, on_room };
        ck_assert_int_eq(outbox_new(loop, n_max, path, &ops, NULL, &box), 0);
}

static void setup(void)
{
        log_init("test", true);
        log_set_max_level(LOG_ERR);
        (void)snprintf(path, sizeof(path), "/tmp/vmferry-test-outbox-%d", (int)getpid());
        ck_assert_int_eq(loop_new(&loop), 0);
        send_result = 0, n_sent = n_room = 0;
        up(200);
}

static void teardown(void)
{
        box = outbox_free(box);
        loop = loop_free(loop);
        (void)unlink(path);
}

static void on_pause(void *userdata)
{
        loop_stop(loop, 0);
}

static void run_for(uint64_t usec)
{
        LoopTimer *t;
        ck_assert_int_eq(loop_add_timer(loop, on_pause, NULL, &t), 0);
        loop_timer_set(t, fs_now_usec() + usec);
        (void)loop_run(loop);
        (void)loop_timer_free(t);
}

static uint64_t add(const char *topic, size_t n)
{
        static const uint8_t zeros[PAYLOAD_MAX + 1];
        uint64_t id = 0;
        int r = outbox_add(box, topic, zeros, n, &id);
        ck_assert_msg(r == 0, "%s", strerror(-r));
        return id;
}

START_TEST(in_order_once_and_windowed)
{
        uint64_t first = add("t", 1);
        for (unsigned i = 1; i < 150; i++)
                ck_assert_uint_eq(add("t", 1), first + i);
        ck_assert_uint_eq(n_sent, 0);
        outbox_host_here(box);
        ck_assert_uint_eq(n_sent, OUTBOX_WINDOW_MESSAGES);
        for (size_t i = 0; i < 150; i++) {
                ck_assert_uint_eq(sent[i].id, first + i);
                ck_assert(outbox_on_reply(box, sent[i].request, WIRE_OK, ""));
                ck_assert(!outbox_on_reply(box, sent[i].request, WIRE_OK, ""));
        }
        ck_assert_uint_eq(n_sent, 150);
        ck_assert_uint_eq(outbox_n(box), 0);
}
END_TEST

START_TEST(again_after_a_lost_session)
{
        outbox_host_here(box);
        uint64_t first = add("t", 1), second = add("t", 1);
        ck_assert(outbox_on_reply(box, sent[0].request, WIRE_OK, ""));
        outbox_host_away(box);
        ck_assert(!outbox_on_reply(box, sent[1].request, WIRE_OK, "")); /* of the session before */
        uint64_t third = add("t", 1);
        outbox_host_here(box);
        ck_assert_uint_eq(n_sent, 4);
        ck_assert_uint_eq(sent[0].id, first);
        ck_assert_uint_eq(sent[2].id, second);
        ck_assert_uint_eq(sent[3].id, third);
}
END_TEST

START_TEST(bounded)
{
        uint64_t id;
        for (unsigned i = 0; i < 200; i++)
                (void)add("t", 1);
        ck_assert_int_eq(outbox_add(box, "t", "x", 1, &id), -ENOBUFS);
        outbox_host_here(box);
        ck_assert_int_eq(outbox_add(box, "t", "x", 1, &id), -EAGAIN);
        ck_assert_uint_eq(n_room, 0);
        ck_assert(outbox_on_reply(box, sent[0].request, WIRE_OK, ""));
        ck_assert_uint_eq(n_room, 1);
        (void)add("t", 1);
        ck_assert_int_eq(outbox_add(box, "t", "x", 1, &id), -EAGAIN);
        outbox_host_away(box);
        ck_assert_uint_eq(n_room, 2); /* to hear that there is none */
        ck_assert_int_eq(outbox_add(box, "t", "x", 1, &id), -ENOBUFS);
}
END_TEST

START_TEST(large_ones)
{
        static const uint8_t zeros[PAYLOAD_MAX + 1];
        uint64_t id;
        ck_assert_int_eq(outbox_add(box, "t", zeros, PAYLOAD_MAX + 1, &id), -E2BIG);
        for (unsigned i = 0; i < 100; i++)
                (void)add("t", PAYLOAD_MAX);
        outbox_host_here(box);
        ck_assert_uint_le(n_sent * PAYLOAD_MAX, OUTBOX_WINDOW_BYTES);
        ck_assert_uint_ge(n_sent, 1);
        for (size_t i = 0; i < n_sent; i++)
                ck_assert(outbox_on_reply(box, sent[i].request, WIRE_OK, ""));
        ck_assert_uint_eq(n_sent, 100);
        outbox_host_away(box);
        box = outbox_free(box);
        up(1000);
        unsigned n = 0;
        while (outbox_add(box, "t", zeros, PAYLOAD_MAX, &id) == 0)
                n++;
        ck_assert_uint_le(n * PAYLOAD_MAX, OUTBOX_BYTES_MAX);
        ck_assert_uint_ge((n + 2) * PAYLOAD_MAX, OUTBOX_BYTES_MAX);
}
END_TEST

START_TEST(the_host_says_no)
{
        outbox_host_here(box);
        uint64_t first = add("t", 1);
        (void)add("t", 1);
        ck_assert(outbox_on_reply(box, sent[1].request, WIRE_UNSUPPORTED, "what?"));
        ck_assert_uint_eq(outbox_n(box), 1);
        ck_assert(outbox_on_reply(box, sent[0].request, WIRE_LIMITS_EXCEEDED, "slower"));
        ck_assert_uint_eq(outbox_n(box), 1);
        (void)add("t", 1);
        ck_assert_uint_eq(n_sent, 2);
        run_for(OUTBOX_PAUSE_USEC + 100000);
        ck_assert_uint_eq(n_sent, 4);
        ck_assert_uint_eq(sent[2].id, first);
        /* A session that takes nothing at present. */
        send_result = -ENOBUFS;
        (void)add("t", 1);
        send_result = 0;
        run_for(OUTBOX_PAUSE_USEC + 100000);
        ck_assert_uint_eq(n_sent, 5);
}
END_TEST

START_TEST(over_a_restart)
{
        uint64_t first = add("one", 10), second = add("two", 0);
        ck_assert_int_eq(outbox_save(box), 0);
        box = outbox_free(box);
        up(200);
        uint64_t third = add("three", 1);
        ck_assert_uint_gt(third, second);
        outbox_host_here(box);
        ck_assert_uint_eq(n_sent, 3);
        ck_assert_uint_eq(sent[0].id, first);
        ck_assert_str_eq(sent[0].topic, "one");
        ck_assert_uint_eq(sent[0].n, 10);
        ck_assert_uint_eq(sent[1].id, second);
        ck_assert_uint_eq(sent[2].id, third);
}
END_TEST

static off_t file_bytes(void)
{
        struct stat st;
        ck_assert_int_eq(stat(path, &st), 0);
        return st.st_size;
}

/* Nobody had the time to save anything: what was accepted is there, what the host has is not. */
START_TEST(killed)
{
        static const uint8_t zeros[PAYLOAD_MAX];
        uint64_t first = add("one", 10);
        (void)add("two", 0);
        uint64_t third = add("three", 1);
        outbox_host_here(box);
        ck_assert(outbox_on_reply(box, sent[1].request, WIRE_OK, ""));
        box = outbox_free(box);
        n_sent = 0;
        up(200);
        ck_assert_uint_eq(outbox_n(box), 2);
        box = outbox_free(box); /* at once again */
        up(200);
        uint64_t fourth = add("four", 3);
        ck_assert_uint_gt(fourth, third);
        outbox_host_here(box);
        ck_assert_uint_eq(n_sent, 3);
        ck_assert_uint_eq(sent[0].id, first);
        ck_assert_str_eq(sent[0].topic, "one");
        ck_assert_uint_eq(sent[0].n, 10);
        ck_assert_uint_eq(sent[1].id, third);
        ck_assert_uint_eq(sent[2].id, fourth);
        /* A box of the largest, half of it with the host. */
        unsigned n = 0;
        uint64_t id;
        while (outbox_add(box, "t", zeros, PAYLOAD_MAX, &id) == 0)
                n++;
        for (size_t i = 0; i < n / 2; i++)
                ck_assert(outbox_on_reply(box, sent[i].request, WIRE_OK, ""));
        size_t n_left = outbox_n(box);
        box = outbox_free(box);
        up(200);
        ck_assert_uint_eq(outbox_n(box), n_left);
}
END_TEST

/* Its time and its space do not grow with what has gone. */
START_TEST(a_flood)
{
        box = outbox_free(box);
        up(4096);
        outbox_host_here(box);
        uint64_t kept = add("kept", 100), begin = fs_now_usec();
        uint32_t request = sent[0].request;
        for (unsigned i = 0; i < 100000; i++) {
                n_sent = 0;
                (void)add("flood", 100);
                ck_assert(outbox_on_reply(box, sent[0].request, WIRE_OK, ""));
                if (i % 1000 == 0)
                        ck_assert_int_lt(file_bytes(), 4 * 1024 * 1024);
        }
        ck_assert_uint_lt(fs_now_usec() - begin, 60 * USEC_PER_SEC);
        box = outbox_free(box);
        up(4096);
        ck_assert_uint_eq(outbox_n(box), 1);
        n_sent = 0;
        outbox_host_here(box);
        ck_assert_uint_eq(sent[0].id, kept);
        ck_assert_uint_ne(sent[0].request, request);
        ck_assert(outbox_on_reply(box, sent[0].request, WIRE_OK, ""));
        ck_assert_int_eq(outbox_save(box), 0);
        ck_assert_int_ne(access(path, F_OK), 0);
}
END_TEST

/* There is no room, for a while: what came meanwhile is in memory, and written when something is. */
START_TEST(a_full_disk)
{
        struct rlimit all, some;
        static const uint8_t zeros[PAYLOAD_MAX];
        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &all), 0);
        (void)signal(SIGXFSZ, SIG_IGN);
        some = all;
        some.rlim_cur = 3 * PAYLOAD_MAX;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &some), 0);
        uint64_t id, first = 0;
        log_set_max_level(-1);
        for (unsigned i = 0; i < 6; i++) {
                ck_assert_int_eq(outbox_add(box, "t", zeros, PAYLOAD_MAX, &id), 0);
                first = first ?: id;
        }
        ck_assert_int_lt(outbox_save(box), 0);
        ck_assert_int_eq(outbox_add(box, "small", zeros, 1, &id), 0);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
        ck_assert_int_le(file_bytes(), 3 * PAYLOAD_MAX);
        uint64_t last = add("small", 1);
        outbox_host_here(box);
        ck_assert_uint_eq(sent[0].id, first);
        ck_assert_int_eq(outbox_save(box), 0);
        box = outbox_free(box);
        up(200);
        ck_assert_uint_eq(outbox_n(box), 8);
        ck_assert_uint_gt(add("t", 1), last);
}
END_TEST

START_TEST(a_broken_file)
{
        (void)add("one", 100);
        (void)add("two", 100);
        ck_assert_int_eq(outbox_save(box), 0);
        _cleanup_free_ char *text = NULL;
        size_t n;
        ck_assert_int_eq(fs_read_file(path, 1u << 20, &text, &n), 0);
        for (size_t cut = 0; cut <= n; cut++) {
                box = outbox_free(box);
                ck_assert_int_eq(fs_write_file_atomic(path, text, cut, 0600), 0);
                up(200);
                ck_assert_uint_le(outbox_n(box), 2);
                ck_assert(outbox_n(box) == 2 || cut < n);
        }
        for (size_t at = 0; at < n; at++) {
                box = outbox_free(box);
                text[at] ^= (char)0xff;
                ck_assert_int_eq(fs_write_file_atomic(path, text, n, 0600), 0);
                text[at] ^= (char)0xff;
                up(200);
                ck_assert_uint_le(outbox_n(box), 2);
        }
}
END_TEST

SUITE_AROUND("outbox", setup, teardown, { in_order_once_and_windowed }, { again_after_a_lost_session },
             { bounded }, { large_ones }, { the_host_says_no }, { over_a_restart }, { killed }, { a_flood },
             { a_full_disk }, { a_broken_file })
