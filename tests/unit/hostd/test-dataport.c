/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The data port against a listening socket with a guest's carrier behind it, which echoes every stream. What
 * dataport.c wants of its guest is played here: a request for `data.open`, a name, a domain.
 */

#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/base.h"
#include "base/fs.h"
#include "carrier/carrier.h"
#include "hostd/dataport.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "../suite.h"

/* --- the guest that dataport.c sees --- */

struct Guest {
        Domain domain;
        GuestState state;
        WireError answer; /* to data.open */
        GuestReply done;
        void *done_data;
        guint source;
        unsigned n_requests;
};

static Guest guest;
static Loop *loop;
static char socket_path[64];

const char *guest_name(const Guest *g)
{
        return "web01";
}

const char *guest_uuid(const Guest *g)
{
        return "11111111-2222-3333-4444-555555555555";
}

GuestState guest_state(const Guest *g)
{
        return g->state;
}

const Domain *guest_domain(const Guest *g)
{
        return &g->domain;
}

static int on_answer(void *userdata)
{
        guest.source = 0;
        guest.done(guest.done_data, guest.answer, guest.answer == WIRE_OK ? "" : "web01 says no", NULL);
        return G_SOURCE_REMOVE;
}

uint64_t guest_request(Guest *g, json_object *json, const void *payload, size_t n_payload,
                       uint64_t timeout_usec, GuestReply done, void *userdata)
{
        json_object_put(json);
        g->done = done;
        g->done_data = userdata;
        g->n_requests++;
        g->source = g_timeout_add(5, on_answer, NULL);
        return 1;
}

void guest_cancel(Guest *g, uint64_t request)
{
        if (g->source)
                (void)g_source_remove(g->source);
        g->source = 0;
}

void log_guest(int level, const char *uuid, const char *name, uint32_t job, const char *format, ...)
{
}

void log_write(int level, const char *format, ...)
{
}

/* --- the guest behind the socket --- */

typedef struct Far {
        int listen_fd;
        unsigned n_deaf; /* so many connections are accepted and not answered */
        atomic_int n_accepted;
        atomic_bool stop;
        GThread *thread;
} Far;

static Far far_end;

static void random_bytes(void *userdata, void *buf, size_t n)
{
        ck_assert_int_eq((int)getrandom(buf, n, 0), (int)n);
}

static WireError on_open(void *userdata, json_object *params, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text)
{
        int fds[2];

        if (json_object_object_get(params, "refuse")) {
                *ret_text = strdup("not\033here");
                return WIRE_NOT_FOUND;
        }
        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        *ret_reply = json_object_new_object();
        json_object_object_add(*ret_reply, "tree", json_object_new_boolean(true));
        ck_assert_int_eq(endpoint_fd_new(fds[0], fds[1], NULL, NULL, NULL, ret_ops, ret_stream), 0);
        return WIRE_OK;
}

static void far_serve(int fd)
{
        static const CarrierOps ops = { .open = on_open };
        SessionConfig sc = { .role = SESSION_GUEST, .port = SESSION_DATA, .random = random_bytes };
        CarrierConfig config = {
                .port_fd = fd, .wake_fd = -1, .linger_usec = 30 * USEC_PER_SEC, .ops = &ops
        };
        Carrier *c;

        ck_assert_int_eq(session_new(&sc, &config.session), 0);
        ck_assert_int_eq(carrier_new(&config, &c), 0);
        (void)carrier_run(c);
        (void)carrier_free(c);
}

static void *far_main(void *userdata)
{
        while (!atomic_load(&far_end.stop)) {
                struct pollfd p = { .fd = far_end.listen_fd, .events = POLLIN };
                int fd;
                char c;

                if (poll(&p, 1, 20) <= 0)
                        continue;
                fd = accept4(far_end.listen_fd, NULL, NULL, SOCK_CLOEXEC);
                ck_assert_int_ge(fd, 0);
                atomic_fetch_add(&far_end.n_accepted, 1);
                if (far_end.n_deaf > 0) {
                        far_end.n_deaf--;
                        while (read(fd, &c, 1) > 0)
                                ;
                        (void)close(fd);
                } else
                        far_serve(fd);
        }
        return NULL;
}

static void setup(void)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        (void)snprintf(socket_path, sizeof(socket_path), "/tmp/test-dataport-%d.sock", (int)getpid());
        (void)unlink(socket_path);
        memcpy(sa.sun_path, socket_path, strlen(socket_path) + 1);
        guest = (Guest){ .domain = { .state = DOMAIN_RUNNING, .data_socket = socket_path },
                         .state = GUEST_READY };
        far_end = (Far){ .listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
        ck_assert_int_eq(bind(far_end.listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        ck_assert_int_eq(listen(far_end.listen_fd, 1), 0);
        far_end.thread = g_thread_new("far", far_main, NULL);
        ck_assert_int_eq(loop_new(&loop), 0);
}

static void teardown(void)
{
        atomic_store(&far_end.stop, true);
        (void)g_thread_join(far_end.thread);
        (void)close(far_end.listen_fd);
        (void)unlink(socket_path);
        loop = loop_free(loop);
}

/* --- one stream as its owner has it --- */

typedef struct Owner {
        GuestStream *stream;
        int to, from;
        int n_opened, n_closed;
        bool had_reply;
        WireError error;
        char text[256];
        uint64_t n_in, n_out;
} Owner;

static void on_opened(void *userdata, json_object *reply)
{
        Owner *o = userdata;

        o->n_opened++;
        o->had_reply = json_object_get_boolean(json_object_object_get(reply, "tree"));
}

static void on_closed(void *userdata, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
        Owner *o = userdata;

        o->n_closed++;
        o->error = error;
        o->n_in = n_in;
        o->n_out = n_out;
        (void)snprintf(o->text, sizeof(o->text), "%s", text);
}

static void owner_open(Owner *o, Dataport *p, const char *flag)
{
        int to[2], from[2];
        GuestStreamConfig config = { .opened = on_opened, .closed = on_closed, .userdata = o };

        *o = (Owner){ 0 };
        ck_assert_int_eq(pipe2(to, O_CLOEXEC), 0);
        ck_assert_int_eq(pipe2(from, O_CLOEXEC), 0);
        o->to = to[1];
        o->from = from[0];
        config.in_fd = to[0];
        config.out_fd = from[1];
        config.params = json_object_new_object();
        if (flag)
                json_object_object_add(config.params, flag, json_object_new_boolean(true));
        o->stream = dataport_open_stream(p, &config);
        ck_assert_int_eq(o->n_closed, 0);
}

static void owner_done(Owner *o)
{
        o->to = fd_close(o->to);
        o->from = fd_close(o->from);
}

static void run_for(uint64_t usec)
{
        for (uint64_t end = fs_now_usec() + usec; fs_now_usec() < end;) {
                while (g_main_context_iteration(NULL, FALSE))
                        ;
                (void)poll(NULL, 0, 1);
        }
}

static void await(const int *what, int value)
{
        for (uint64_t end = fs_now_usec() + 20 * USEC_PER_SEC; *what != value && fs_now_usec() < end;)
                run_for(1000);
        ck_assert_int_eq(*what, value);
}

/* Says something, hears it back, ends. */
static void owner_echo(Owner *o)
{
        char buf[6] = "";

        await(&o->n_opened, 1);
        ck_assert(o->had_reply);
        ck_assert_int_eq((int)write(o->to, "hello", 5), 5);
        ck_assert_int_eq((int)read(o->from, buf, 5), 5);
        ck_assert_str_eq(buf, "hello");
        o->to = fd_close(o->to);
        await(&o->n_closed, 1);
        ck_assert_int_eq(o->error, WIRE_OK);
        ck_assert_uint_eq(o->n_in, 5);
        ck_assert_uint_eq(o->n_out, 5);
        owner_done(o);
}

START_TEST(test_echo_reuse_reopen)
{
        Dataport *p = dataport_new(&guest);
        Owner a, b;

        owner_open(&a, p, NULL);
        owner_open(&b, p, NULL);
        ck_assert_uint_eq(dataport_n_streams(p), 2);
        owner_echo(&a);
        owner_echo(&b);
        ck_assert_uint_eq(dataport_n_streams(p), 0);
        run_for(500 * USEC_PER_MSEC);
        owner_open(&a, p, NULL);
        owner_echo(&a);
        ck_assert_int_eq(atomic_load(&far_end.n_accepted), 1);
        ck_assert_uint_eq(guest.n_requests, 1);
        run_for(2500 * USEC_PER_MSEC);
        owner_open(&a, p, NULL);
        owner_echo(&a);
        ck_assert_int_eq(atomic_load(&far_end.n_accepted), 2);
        GuestCounters counters = { 0 };
        dataport_count(p, &counters);
        ck_assert_uint_gt(counters.n_bytes_sent, 0);
        ck_assert_uint_gt(counters.n_bytes_received, 0);
        ck_assert_uint_eq(counters.n_reconnects, 0);
        (void)dataport_free(p);
}
END_TEST

/* A stream that comes just when the connection is lingering out is never lost. */
START_TEST(test_linger_race)
{
        Dataport *p = dataport_new(&guest);
        Owner o;

        for (unsigned i = 0; i < 5; i++) {
                owner_open(&o, p, NULL);
                owner_echo(&o);
                run_for((1996 + i * 2) * USEC_PER_MSEC);
        }
        owner_open(&o, p, NULL);
        owner_echo(&o);
        (void)dataport_free(p);
}
END_TEST

START_TEST(test_refused)
{
        Dataport *p = dataport_new(&guest);
        Owner o;

        owner_open(&o, p, "refuse");
        await(&o.n_closed, 1);
        ck_assert_int_eq(o.error, WIRE_NOT_FOUND);
        ck_assert_str_eq(o.text, "Guest web01: not\\x1bhere");
        ck_assert_int_eq(o.n_opened, 0);
        owner_done(&o);
        guest.answer = WIRE_NO_CHANNEL;
        run_for(2500 * USEC_PER_MSEC);
        owner_open(&o, p, NULL);
        await(&o.n_closed, 1);
        ck_assert_int_eq(o.error, WIRE_NO_CHANNEL);
        ck_assert_str_eq(o.text, "web01 says no");
        owner_done(&o);
        (void)dataport_free(p);
}
END_TEST

/* A guest that doesn't answer since it is paused, or is known to be, will be back; one that runs has had its
 * time. */
START_TEST(test_paused)
{
        static const struct {
                GuestState state;
                WireError answer, expected;
        } table[] = {
                { GUEST_PAUSED, WIRE_TIMEOUT, WIRE_INTERRUPTED },
                { GUEST_PAUSED, WIRE_NOT_READY, WIRE_INTERRUPTED },
                { GUEST_READY, WIRE_NOT_READY, WIRE_INTERRUPTED }, /* just back */
                { GUEST_CONNECTING, WIRE_TIMEOUT, WIRE_INTERRUPTED },
                { GUEST_PAUSED, WIRE_PERMISSION_DENIED, WIRE_PERMISSION_DENIED },
                { GUEST_READY, WIRE_TIMEOUT, WIRE_TIMEOUT },
        };
        Dataport *p = dataport_new(&guest);
        Owner o;

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                guest.state = table[i].state;
                guest.answer = table[i].answer;
                owner_open(&o, p, NULL);
                await(&o.n_closed, 1);
                ck_assert_int_eq(o.error, table[i].expected);
                ck_assert_str_eq(o.text, "web01 says no");
                owner_done(&o);
        }
        guest.state = GUEST_READY;
        guest.answer = WIRE_OK;
        owner_open(&o, p, NULL);
        owner_echo(&o);
        (void)dataport_free(p);
}
END_TEST

START_TEST(test_deaf)
{
        Dataport *p = dataport_new(&guest);
        Owner o;

        far_end.n_deaf = 1;
        owner_open(&o, p, NULL);
        owner_echo(&o);
        ck_assert_int_eq(atomic_load(&far_end.n_accepted), 2);
        (void)dataport_free(p);

        run_for(100 * USEC_PER_MSEC);
        far_end.n_deaf = 3;
        p = dataport_new(&guest);
        owner_open(&o, p, NULL);
        await(&o.n_closed, 1);
        ck_assert_int_eq(o.error, WIRE_INTERRUPTED);
        ck_assert_ptr_nonnull(strstr(o.text, "web01"));
        owner_done(&o);
        owner_open(&o, p, NULL);
        owner_echo(&o);
        (void)dataport_free(p);
}
END_TEST

START_TEST(test_cancel_and_reset)
{
        Dataport *p = dataport_new(&guest);
        Owner a, b, c;

        owner_open(&a, p, NULL); /* not opened yet */
        guest_stream_cancel(a.stream, WIRE_CANCELLED, "enough");
        ck_assert_int_eq(a.n_closed, 0);
        await(&a.n_closed, 1);
        ck_assert_int_eq(a.error, WIRE_CANCELLED);
        ck_assert_str_eq(a.text, "enough");
        owner_done(&a);

        owner_open(&a, p, NULL);
        owner_open(&b, p, NULL);
        await(&a.n_opened, 1);
        await(&b.n_opened, 1);
        guest_stream_cancel(a.stream, WIRE_CANCELLED, "enough");
        await(&a.n_closed, 1);
        ck_assert_int_eq(a.error, WIRE_CANCELLED);
        ck_assert_int_eq(b.n_closed, 0);

        dataport_reset(p, "the guest has rebooted");
        owner_open(&c, p, NULL);
        await(&b.n_closed, 1);
        ck_assert_int_eq(b.error, WIRE_INTERRUPTED);
        ck_assert_str_eq(b.text, "the guest has rebooted");
        owner_echo(&c);

        owner_done(&a);
        owner_done(&b);
        owner_open(&a, p, NULL);
        owner_open(&b, p, NULL);
        await(&b.n_opened, 1);
        owner_open(&c, p, NULL);
        (void)dataport_free(p);
        ck_assert_int_eq(a.n_closed + b.n_closed + c.n_closed, 3);
        ck_assert_int_eq(c.error, WIRE_INTERRUPTED);
        run_for(50 * USEC_PER_MSEC);
        owner_done(&a);
        owner_done(&b);
        owner_done(&c);
}
END_TEST

START_TEST(test_no_socket)
{
        Dataport *p = dataport_new(&guest);
        Owner o;

        guest.domain.data_socket = NULL;
        owner_open(&o, p, NULL);
        await(&o.n_closed, 1);
        ck_assert_int_eq(o.error, WIRE_NO_CHANNEL);
        owner_done(&o);
        guest.domain.data_socket = (char *)"/nonexistent/socket";
        owner_open(&o, p, NULL);
        await(&o.n_closed, 1);
        ck_assert_int_eq(o.error, WIRE_NOT_READY);
        owner_done(&o);
        (void)dataport_free(p);
}
END_TEST

SUITE_AROUND("dataport", setup, teardown, { test_echo_reuse_reopen }, { test_linger_race }, { test_refused },
             { test_paused }, { test_deaf }, { test_cancel_and_reset }, { test_no_socket })
