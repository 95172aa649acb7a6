/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Two carriers, host and guest, each on a thread of its own, over a socket pair; the endpoints are pipes
 * that the test holds. The host's side is told what to open through a pipe, as a daemon would.
 */

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/fs.h"
#include "carrier/carrier.h"
#include "../suite.h"

#define LINES_MAX 300u

/* One stream: what the test writes into `to` arrives at the peer's end, what it reads from `from` came from
 * there. */
typedef struct Wire {
        int host_to, host_from;                     /* the test's ends on the host's side */
        int guest_to, guest_from;                   /* and on the guest's */
        int host_in, host_out, guest_in, guest_out; /* the carriers' */
        uint32_t id;
        atomic_int host_closed, guest_closed, opened;
        atomic_int host_error, guest_error;
        uint64_t host_n_in, host_n_out;
        WireError refuse;
} Wire;

typedef struct Pair {
        Carrier *host, *guest;
        int host_port, guest_port; /* kept to be shut down by the test */
        int wake[2];
        pthread_t host_thread, guest_thread;
        int host_result, guest_result;
        Wire lines[LINES_MAX];
        atomic_uint n_opened_by_host;
        unsigned n_lines;
        atomic_int up, lost;
} Pair;

static void random_bytes(void *userdata, void *buf, size_t n)
{
        ck_assert_int_eq((int)getrandom(buf, n, 0), (int)n);
}

static void on_host_opened(void *userdata, json_object *reply)
{
        Wire *l = userdata;

        atomic_fetch_add(&l->opened, 1);
}

static void on_host_closed(void *userdata, WireError error, const char *text, bool local, uint64_t n_in,
                           uint64_t n_out)
{
        Wire *l = userdata;

        ck_assert_ptr_nonnull(text);
        l->host_n_in = n_in;
        l->host_n_out = n_out;
        atomic_store(&l->host_error, (int)error);
        atomic_fetch_add(&l->host_closed, 1);
}

static void on_guest_closed(void *userdata, WireError error, const char *text, bool local, uint64_t n_in,
                            uint64_t n_out)
{
        Wire *l = userdata;

        atomic_store(&l->guest_error, (int)error);
        atomic_fetch_add(&l->guest_closed, 1);
}

static WireError on_open(void *userdata, json_object *params, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text)
{
        Pair *p = userdata;
        Wire *l = &p->lines[json_object_get_int(json_object_object_get(params, "line"))];

        if (l->refuse != WIRE_OK) {
                *ret_text = strdup("refused by the test");
                return l->refuse;
        }
        ck_assert_int_eq(
                endpoint_fd_new(l->guest_in, l->guest_out, NULL, on_guest_closed, l, ret_ops, ret_stream),
                0);
        return WIRE_OK;
}

static void on_up(void *userdata)
{
        Pair *p = userdata;

        atomic_fetch_add(&p->up, 1);
}

static void on_lost(void *userdata, const char *text)
{
        Pair *p = userdata;

        atomic_fetch_add(&p->lost, 1);
}

/* A command is a number: >= 0 opens that line, < 0 resets line -n-1, LINES_MAX stops. */
static void on_turn(void *userdata, bool woken)
{
        Pair *p = userdata;
        int command;

        while (woken && read(p->wake[0], &command, sizeof(command)) == sizeof(command)) {
                const EndpointOps *ops;
                json_object *params;
                void *stream;

                if (command == (int)LINES_MAX) {
                        carrier_stop(p->host);
                } else if (command < 0) {
                        (void)carrier_reset_stream(p->host, p->lines[-command - 1].id, WIRE_CANCELLED,
                                                   "cancelled");
                } else {
                        Wire *l = &p->lines[command];

                        ck_assert_int_eq(endpoint_fd_new(l->host_in, l->host_out, on_host_opened,
                                                         on_host_closed, l, &ops, &stream),
                                         0);
                        params = json_object_new_object();
                        json_object_object_add(params, "line", json_object_new_int(command));
                        if (carrier_open_stream(p->host, params, ops, stream, &l->id) < 0)
                                ops->closed(stream, WIRE_LIMITS_EXCEEDED, "", true);
                        json_object_put(params);
                        atomic_fetch_add(&p->n_opened_by_host, 1);
                }
        }
}

static const CarrierOps host_ops = { .up = on_up, .lost = on_lost, .turn = on_turn };
static const CarrierOps guest_ops = { .open = on_open };

static void *run_host(void *userdata)
{
        Pair *p = userdata;

        p->host_result = carrier_run(p->host);
        p->host = carrier_free(p->host);
        return NULL;
}

static void *run_guest(void *userdata)
{
        Pair *p = userdata;

        p->guest_result = carrier_run(p->guest);
        p->guest = carrier_free(p->guest);
        return NULL;
}

static Carrier *make(Pair *p, bool is_host, int fd, uint64_t linger_usec)
{
        SessionConfig sc = {
                .role = is_host ? SESSION_HOST : SESSION_GUEST,
                .port = SESSION_DATA,
                .random = random_bytes,
        };
        CarrierConfig config = {
                .is_host = is_host,
                .port_fd = fd,
                .wake_fd = is_host ? p->wake[0] : -1,
                .linger_usec = linger_usec,
                .ops = is_host ? &host_ops : &guest_ops,
                .userdata = p,
        };
        Carrier *c;

        ck_assert_int_eq(session_new(&sc, &config.session), 0);
        ck_assert_int_eq(carrier_new(&config, &c), 0);
        return c;
}

static Pair *pair_new(uint64_t linger_usec)
{
        Pair *p = calloc(1, sizeof(*p));
        int port[2];

        ck_assert_ptr_nonnull(p);
        (void)signal(SIGPIPE, SIG_IGN);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, port), 0);
        ck_assert_int_eq(pipe2(p->wake, O_CLOEXEC | O_NONBLOCK), 0);
        p->host_port = fcntl(port[0], F_DUPFD_CLOEXEC, 0);
        p->guest_port = fcntl(port[1], F_DUPFD_CLOEXEC, 0);
        p->host = make(p, true, port[0], linger_usec);
        p->guest = make(p, false, port[1], 10 * USEC_PER_SEC);
        ck_assert_int_eq(pthread_create(&p->host_thread, NULL, run_host, p), 0);
        ck_assert_int_eq(pthread_create(&p->guest_thread, NULL, run_guest, p), 0);
        for (int i = 0; i < 5000 && !atomic_load(&p->up); i++)
                (void)poll(NULL, 0, 1);
        ck_assert_int_eq(atomic_load(&p->up), 1);
        return p;
}

static Wire *pair_line(Pair *p)
{
        Wire *l = &p->lines[p->n_lines++];
        int a[2], b[2];

        ck_assert_int_eq(pipe2(a, O_CLOEXEC), 0);
        ck_assert_int_eq(pipe2(b, O_CLOEXEC), 0);
        l->host_in = a[0], l->host_to = a[1], l->host_from = b[0], l->host_out = b[1];
        ck_assert_int_eq(pipe2(a, O_CLOEXEC), 0);
        ck_assert_int_eq(pipe2(b, O_CLOEXEC), 0);
        l->guest_in = a[0], l->guest_to = a[1], l->guest_from = b[0], l->guest_out = b[1];
        return l;
}

static void pair_command(Pair *p, int command)
{
        ck_assert_int_eq((int)write(p->wake[1], &command, sizeof(command)), (int)sizeof(command));
}

static void pair_open(Pair *p, const Wire *l)
{
        pair_command(p, (int)(l - p->lines));
}

static void line_close(Wire *l)
{
        l->host_to = fd_close(l->host_to);
        l->host_from = fd_close(l->host_from);
        l->guest_to = fd_close(l->guest_to);
        l->guest_from = fd_close(l->guest_from);
}

static void await(atomic_int *what, int value)
{
        for (int i = 0; i < 20000 && atomic_load(what) != value; i++)
                (void)poll(NULL, 0, 1);
        ck_assert_int_eq(atomic_load(what), value);
}

/* Both threads end: the host by itself or by a command, the guest because of that. */
static void pair_join(Pair *p)
{
        (void)pthread_join(p->host_thread, NULL);
        (void)shutdown(p->host_port, SHUT_RDWR);
        (void)pthread_join(p->guest_thread, NULL);
        for (unsigned i = 0; i < p->n_lines; i++) {
                ck_assert_int_le(atomic_load(&p->lines[i].host_closed), 1);
                ck_assert_int_le(atomic_load(&p->lines[i].guest_closed), 1);
                line_close(&p->lines[i]);
        }
        (void)fd_close(p->host_port);
        (void)fd_close(p->guest_port);
        (void)fd_close(p->wake[0]);
        (void)fd_close(p->wake[1]);
}

static Pair *pair_free(Pair *p)
{
        pair_join(p);
        free(p);
        return NULL;
}

/* Writes n bytes of a pattern while reading as many from the other end, and compares. */
static void pump(int to, int from, size_t n, unsigned seed, unsigned slow_usec)
{
        static uint8_t out[65536], in[65536];
        size_t sent = 0, got = 0;

        (void)fcntl(to, F_SETFL, O_NONBLOCK);
        (void)fcntl(from, F_SETFL, O_NONBLOCK);
        for (uint64_t deadline = fs_now_usec() + 60 * USEC_PER_SEC; got < n;) {
                struct pollfd fds[2] = { { .fd = from, .events = POLLIN },
                                         { .fd = sent < n ? to : -1, .events = POLLOUT } };
                ssize_t r;

                ck_assert_uint_lt(fs_now_usec(), deadline);
                (void)poll(fds, 2, 1000);
                if (sent < n) {
                        size_t k = MIN(n - sent, sizeof(out));

                        for (size_t i = 0; i < k; i++)
                                out[i] = (uint8_t)((sent + i) * 31 + (sent + i) / 257 + seed);
                        r = write(to, out, k);
                        if (r > 0)
                                sent += (size_t)r;
                }
                r = read(from, in, sizeof(in));
                for (ssize_t i = 0; i < r; i++)
                        if (in[i] != (uint8_t)((got + (size_t)i) * 31 + (got + (size_t)i) / 257 + seed))
                                ck_abort_msg("byte %zu is wrong", got + (size_t)i);
                if (r > 0)
                        got += (size_t)r;
                if (slow_usec > 0)
                        (void)usleep(slow_usec);
        }
}

START_TEST(test_both_ways_and_orderly_end)
{
        Pair *p = pair_new(100 * USEC_PER_MSEC);
        Wire *l = pair_line(p);
        uint8_t c;

        pair_open(p, l);
        pump(l->host_to, l->guest_from, 8u << 20, 1, 0);
        pump(l->guest_to, l->host_from, 8u << 20, 2, 0);
        /* One half ends, the other goes on. */
        l->host_to = fd_close(l->host_to);
        (void)fcntl(l->guest_from, F_SETFL, 0);
        ck_assert_int_eq((int)read(l->guest_from, &c, 1), 0);
        pump(l->guest_to, l->host_from, 1u << 20, 3, 0);
        l->guest_to = fd_close(l->guest_to);
        (void)fcntl(l->host_from, F_SETFL, 0);
        ck_assert_int_eq((int)read(l->host_from, &c, 1), 0);
        await(&l->host_closed, 1);
        await(&l->guest_closed, 1);
        ck_assert_int_eq(atomic_load(&l->opened), 1);
        ck_assert_int_eq(l->host_error, WIRE_OK);
        ck_assert_int_eq(l->guest_error, WIRE_OK);
        ck_assert_uint_eq(l->host_n_in, 8u << 20);
        ck_assert_uint_eq(l->host_n_out, 9u << 20);
        pair_join(p);
        ck_assert_int_eq(p->host_result, 0);
        ck_assert_int_eq(p->guest_result, 0);
        ck_assert_int_eq(atomic_load(&p->lost), 0);
        free(p);
}
END_TEST

START_TEST(test_unread_stream_blocks_no_other)
{
        Pair *p = pair_new(100 * USEC_PER_MSEC);
        Wire *deaf = pair_line(p), *l = pair_line(p);
        static uint8_t junk[4096];
        size_t n = 0;

        pair_open(p, deaf);
        pair_open(p, l);
        (void)fcntl(deaf->host_to, F_SETFL, O_NONBLOCK);
        for (int quiet = 0; quiet < 50;) {
                ssize_t r = write(deaf->host_to, junk, sizeof(junk));

                if (r > 0)
                        n += (size_t)r, quiet = 0;
                else
                        quiet++, (void)poll(NULL, 0, 2);
        }
        /* two pipes, the credit, a frame on its way */
        ck_assert_uint_ge(n, STREAM_CREDIT);
        ck_assert_uint_le(n, STREAM_CREDIT + (2u << 20));
        pump(l->host_to, l->guest_from, 16u << 20, 4, 0);
        pump(l->guest_to, l->host_from, 4u << 20, 5, 0);
        /* What it was owed arrives when it reads at last. */
        deaf->host_to = fd_close(deaf->host_to);
        for (ssize_t r; (r = read(deaf->guest_from, junk, sizeof(junk))) > 0;)
                n -= (size_t)r;
        ck_assert_uint_eq(n, 0);
        pair_command(p, (int)LINES_MAX);
        (void)pair_free(p);
}
END_TEST

START_TEST(test_slow_reader)
{
        Pair *p = pair_new(100 * USEC_PER_MSEC);
        Wire *l = pair_line(p);

        pair_open(p, l);
        pump(l->guest_to, l->host_from, 6u << 20, 6, 3000);
        pump(l->host_to, l->guest_from, 6u << 20, 7, 3000);
        pair_command(p, (int)LINES_MAX);
        (void)pair_free(p);
}
END_TEST

START_TEST(test_refused_and_reset)
{
        Pair *p = pair_new(100 * USEC_PER_MSEC);
        Wire *refused = pair_line(p), *reset = pair_line(p), *l = pair_line(p);
        uint8_t c;

        refused->refuse = WIRE_PERMISSION_DENIED;
        pair_open(p, refused);
        await(&refused->host_closed, 1);
        ck_assert_int_eq(refused->host_error, WIRE_PERMISSION_DENIED);
        ck_assert_int_eq(atomic_load(&refused->opened), 0);
        (void)fd_close(refused->guest_in);
        (void)fd_close(refused->guest_out);

        pair_open(p, reset);
        pump(reset->host_to, reset->guest_from, 100000, 8, 0);
        pair_command(p, -(int)(reset - p->lines) - 1);
        await(&reset->host_closed, 1);
        await(&reset->guest_closed, 1);
        ck_assert_int_eq(reset->host_error, WIRE_CANCELLED);
        ck_assert_int_eq(reset->guest_error, WIRE_CANCELLED);
        (void)fcntl(reset->guest_from, F_SETFL, 0);
        ck_assert_int_eq((int)read(reset->guest_from, &c, 1), 0);

        pair_open(p, l);
        pump(l->host_to, l->guest_from, 100000, 9, 0);
        pair_command(p, (int)LINES_MAX);
        (void)pair_free(p);
}
END_TEST

START_TEST(test_reader_leaves)
{
        Pair *p = pair_new(100 * USEC_PER_MSEC);
        Wire *l = pair_line(p);
        static uint8_t junk[65536];
        size_t n = 0;

        pair_open(p, l);
        pump(l->host_to, l->guest_from, 1000, 10, 0);
        l->guest_from = fd_close(l->guest_from);
        (void)fcntl(l->host_to, F_SETFL, 0);
        /* Many times the credit: it is swallowed, and the other half still works. */
        for (; n < (8u << 20); n += sizeof(junk))
                ck_assert_int_eq((int)write(l->host_to, junk, sizeof(junk)), (int)sizeof(junk));
        pump(l->guest_to, l->host_from, 1u << 20, 11, 0);
        ck_assert_int_eq(atomic_load(&l->host_closed), 0);
        pair_command(p, (int)LINES_MAX);
        (void)pair_free(p);
}
END_TEST

START_TEST(test_lost)
{
        Pair *p = pair_new(10 * USEC_PER_SEC);

        for (unsigned i = 0; i < 50; i++)
                pair_open(p, pair_line(p));
        pump(p->lines[49].host_to, p->lines[49].guest_from, 3000000, 12, 0);
        (void)shutdown(p->host_port, SHUT_RDWR);
        for (unsigned i = 0; i < 50; i++) {
                await(&p->lines[i].host_closed, 1);
                await(&p->lines[i].guest_closed, 1);
                ck_assert_int_eq(p->lines[i].host_error, WIRE_INTERRUPTED);
                ck_assert_int_eq(p->lines[i].guest_error, WIRE_INTERRUPTED);
        }
        pair_join(p);
        ck_assert_int_eq(p->host_result, -ECONNRESET);
        ck_assert_int_eq(p->guest_result, -ECONNRESET);
        ck_assert_int_eq(atomic_load(&p->lost), 1);
        free(p);
}
END_TEST

START_TEST(test_many_streams)
{
        Pair *p = pair_new(10 * USEC_PER_SEC);
        unsigned n_over = 0;

        /* At the limit, and past it. */
        for (unsigned i = 0; i < STREAMS_MAX + 3; i++) {
                Wire *l = pair_line(p);

                pair_open(p, l);
                while (atomic_load(&p->n_opened_by_host) <= i)
                        (void)poll(NULL, 0, 1);
        }
        for (unsigned i = 0; i < STREAMS_MAX + 3; i++)
                if (atomic_load(&p->lines[i].host_closed))
                        n_over++;
        ck_assert_uint_eq(n_over, 3);
        for (unsigned i = 0; i < STREAMS_MAX; i += 5) {
                pump(p->lines[i].host_to, p->lines[i].guest_from, 70000, i, 0);
                pump(p->lines[i].guest_to, p->lines[i].host_from, 70000, i + 1, 0);
        }
        pair_command(p, (int)LINES_MAX);
        for (unsigned i = STREAMS_MAX; i < STREAMS_MAX + 3; i++) {
                (void)fd_close(p->lines[i].guest_in);
                (void)fd_close(p->lines[i].guest_out);
        }
        (void)pair_free(p);
}
END_TEST

/* Random bytes, ends, resets at random times; whatever happens, each stream closes once, and nothing hangs.
 */
START_TEST(test_random)
{
        unsigned seed = (unsigned)_i * 7919 + 1;
        Pair *p = pair_new(50 * USEC_PER_MSEC);
        static uint8_t buf[100000];

        for (unsigned i = 0; i < 40; i++) {
                Wire *l = pair_line(p);

                pair_open(p, l);
                for (int *fd = (int[]){ l->host_to, l->host_from, l->guest_to, l->guest_from, -1 }; *fd >= 0;
                     fd++)
                        (void)fcntl(*fd, F_SETFL, O_NONBLOCK);
        }
        for (unsigned i = 0; i < 3000; i++) {
                Wire *l = &p->lines[(unsigned)rand_r(&seed) % p->n_lines];

                switch ((unsigned)rand_r(&seed) % 40) {
                case 0:
                        l->host_to = fd_close(l->host_to);
                        break;
                case 1:
                        l->guest_to = fd_close(l->guest_to);
                        break;
                case 2:
                        l->host_from = fd_close(l->host_from);
                        break;
                case 3:
                        l->guest_from = fd_close(l->guest_from);
                        break;
                case 4:

                        pair_command(p, -(int)(l - p->lines) - 1);
                        break;
                default:
                        (void)!write(l->host_to, buf, (size_t)rand_r(&seed) % sizeof(buf));
                        (void)!write(l->guest_to, buf, (size_t)rand_r(&seed) % sizeof(buf));
                        (void)!read(l->host_from, buf, (size_t)rand_r(&seed) % sizeof(buf));
                        (void)!read(l->guest_from, buf, (size_t)rand_r(&seed) % sizeof(buf));
                        break;
                }
        }
        if (_i % 3 == 0)
                (void)shutdown(p->guest_port, SHUT_RDWR);
        else
                for (unsigned i = 0; i < p->n_lines; i++)
                        line_close(&p->lines[i]);
        for (unsigned i = 0; i < p->n_lines; i++) {
                await(&p->lines[i].host_closed, 1);
                /* A stream may have been cancelled, or the connection lost, before the guest heard of it. */
                if (atomic_load(&p->lines[i].opened))
                        await(&p->lines[i].guest_closed, 1);
        }
        (void)pair_free(p);
}
END_TEST

SUITE("carrier",
      { test_both_ways_and_orderly_end },
      { test_unread_stream_blocks_no_other },
      { test_slow_reader },
      { test_refused_and_reset },
      { test_reader_leaves },
      { test_lost },
      { test_many_streams },
      { test_random, 12 })
