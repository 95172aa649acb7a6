/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * hostd/delivery: whose messages and calls have a place, and when they leave it. The guest's side of the
 * session is in the same loop, and answers nothing.
 */

#include <glib.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/delivery.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "../suite.h"

static Loop *loop;
static Config *config; /* host's, looked at as ours */
static Host *host;
static Jobs *jobs;
static Guest *guest;
static Domain *domain;
static Caller *alice, *bob, *root;
static char socket_path[64];
static int listen_fd, fd;
static LoopWatch *listen_watch, *watch;
static Session *session; /* the guest's */
static GString *asked;   /* the guest's last request */
static GString *told;    /* "OK ", "Cancelled ", … as callers were told */

/* --- the guest --- */

static void random_bytes(void *userdata, void *buf, size_t n)
{
        ck_assert_int_eq(getrandom(buf, n, 0), (ssize_t)n);
}

static void flush(void)
{
        const uint8_t *frame;
        size_t n;

        while (session_output_next(session, &frame, &n))
                ck_assert_int_eq(send(fd, frame, n, MSG_NOSIGNAL), (ssize_t)n);
}

static void on_readable(void *userdata, uint32_t events)
{
        SessionEvent e;
        uint8_t *buf;
        size_t room;
        ssize_t n;

        session_input_space(session, &buf, &room);
        n = recv(fd, buf, room, MSG_DONTWAIT);
        if (n <= 0) {
                watch = loop_watch_free(watch);
                return;
        }
        session_input_commit(session, (size_t)n, fs_now_usec());
        while (session_next_event(session, &e))
                if (e.type == SESSION_EVENT_REQUEST)
                        g_string_assign(asked, json_object_to_json_string(e.message->json));
        flush();
}

static void on_connection(void *userdata, uint32_t events)
{
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        session_open(session, fs_now_usec());
        flush();
        watch = loop_watch_new(loop, fd, EPOLLIN, on_readable, NULL);
}

static void on_state(void *userdata, Guest *g, GuestState old)
{
}

static void on_facts(void *userdata, Guest *g)
{
}

/* --- around each test --- */

static void on_wake(void *userdata)
{
}

static void until_ready(void)
{
        uint64_t end = fs_now_usec() + 10 * USEC_PER_SEC;
        LoopTimer *t = loop_timer_new(loop, on_wake, NULL);

        while (guest_state(guest) != GUEST_READY || !session_is_up(session)) {
                ck_assert_uint_lt(fs_now_usec(), end);
                loop_timer_set(t, fs_now_usec() + 10 * USEC_PER_MSEC, 0);
                (void)g_main_context_iteration(NULL, TRUE);
        }
        loop_timer_free(t);
}

static void set_up(void)
{
        static const GuestOps ops = { .state_changed = on_state, .facts_changed = on_facts };
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        SessionConfig sc = { .role = SESSION_GUEST, .port = SESSION_CONTROL, .random = random_bytes };

        log_set_max_level(-1);
        (void)g_setenv("XDG_CONFIG_HOME", "/nonexistent", TRUE);
        ck_assert_int_eq(loop_new(&loop), 0);
        told = g_string_new(NULL);
        asked = g_string_new(NULL);
        config = config_load(true);
        g_free(config->connect_uri);
        config->connect_uri = g_strdup("test:///default");
        g_free(config->state_dir);
        config->state_dir = g_strdup("/dev/null/none"); /* nothing outlives this hostd */
        host = host_new(config);
        jobs = jobs_new(host);
        ck_assert_ptr_nonnull(jobs);
        alice = caller_new(1000, 1000, NULL, 0, ":1.7");
        bob = caller_new(1001, 1001, NULL, 0, ":1.8");
        root = caller_new(0, 0, NULL, 0, ":1.9");

        ck_assert_int_eq(session_new(&sc, &session), 0);
        fd = -EBADF;
        (void)snprintf(socket_path, sizeof(socket_path), "/tmp/vmferry-test-delivery-%d", getpid());
        (void)unlink(socket_path);
        memcpy(sa.sun_path, socket_path, strlen(socket_path) + 1);
        listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        ck_assert_int_eq(listen(listen_fd, 1), 0);
        listen_watch = loop_watch_new(loop, listen_fd, EPOLLIN, on_connection, NULL);

        domain = domain_new();
        domain->uuid = g_strdup("6af613b6-569c-5c22-9c37-2ed93f31d3af");
        domain->name = g_strdup("web01");
        domain->id = 1;
        domain->state = DOMAIN_RUNNING;
        domain->control_socket = g_strdup(socket_path);
        domain->data_socket = g_strdup("/nonexistent/data");
        guest = guest_new(domain, &ops, NULL);
        until_ready();
}

static void tear_down(void)
{
        delivery_stop_all();
        jobs_free(jobs);
        guest_free(guest);
        host_free(host);
        domain_free(domain);
        caller_free(alice);
        caller_free(bob);
        caller_free(root);
        watch = loop_watch_free(watch);
        listen_watch = loop_watch_free(listen_watch);
        fd_close(fd);
        session_free(session);
        fd_close(listen_fd);
        (void)unlink(socket_path);
        loop_free(loop);
        g_string_free(told, TRUE);
        g_string_free(asked, TRUE);
}

static void on_done(void *userdata, WireError error, const char *text, uint64_t id, const uint8_t *reply,
                    size_t n)
{
        g_string_append_printf(told, "%s%s ", wire_error_to_string(error),
                               !text                                ? ""
                               : strstr(text, "MaxCallsPerCaller=") ? " of caller"
                               : strstr(text, "MaxCallsPerGuest=")  ? " of guest"
                                                                    : "");
}

static Delivery *message(const Caller *caller, bool is_call)
{
        return delivery_send(jobs, guest, caller, is_call, "topic", "x", 1,
                             &(DeliveryOptions){ .timeout_usec = USEC_INFINITY }, on_done, NULL);
}

static uint32_t n_under_way(void)
{
        return quota_count(jobs_quota(jobs), QUOTA_CALLS, guest_uuid(guest));
}

static void turn(uint64_t usec)
{
        for (uint64_t end = fs_now_usec() + usec; fs_now_usec() < end;)
                (void)g_main_context_iteration(NULL, FALSE);
}

/* --- tests --- */

/* Who has taken his share leaves the rest to others; root has all that there is. */
START_TEST(share)
{
        config->max_calls_per_guest = 5;
        config->max_calls_per_caller = 2;
        for (int i = 0; i < 4; i++)
                (void)message(alice, i % 2);
        ck_assert_str_eq(told->str, "LimitsExceeded of caller LimitsExceeded of caller ");
        ck_assert_ptr_nonnull(message(bob, true));
        ck_assert_uint_eq(n_under_way(), 3);
        g_string_truncate(told, 0);
        for (int i = 0; i < 3; i++)
                (void)message(root, true);
        ck_assert_str_eq(told->str, "LimitsExceeded of guest ");
        /* Not counted in the share either, then. */
        (void)message(bob, true);
        delivery_caller_left(root->sender);
        g_string_truncate(told, 0);
        ck_assert_ptr_nonnull(message(bob, true));
        (void)message(bob, true);
        ck_assert_str_eq(told->str, "LimitsExceeded of caller ");
}
END_TEST

/* Nobody takes the answers of one who has left; what goes one way still goes. */
START_TEST(caller_left)
{
        (void)message(alice, true);
        (void)message(alice, true);
        (void)message(alice, false);
        (void)message(bob, true);
        delivery_caller_left(":1.70");
        ck_assert_str_eq(told->str, "");
        delivery_caller_left(":1.7");
        ck_assert_str_eq(told->str, "Cancelled Cancelled ");
        ck_assert_uint_eq(n_under_way(), 2);
        delivery_caller_left(":1.7");
        ck_assert_uint_eq(n_under_way(), 2);
}
END_TEST

START_TEST(caller_of_an_item_left)
{
        Delivery *d = delivery_send(jobs, guest, alice, true, "topic", "x", 1,
                                    &(DeliveryOptions){ .queued = true, .id = 7 }, on_done, NULL);

        delivery_caller_left(":1.7");
        ck_assert_uint_eq(n_under_way(), 1);
        delivery_cancel(d);
        ck_assert_uint_eq(n_under_way(), 0);
        ck_assert_str_eq(told->str, "");
}
END_TEST

/* With a request under way, and between two tries: no timer, and no answer, finds what is gone. */
START_TEST(cancelled)
{
        Delivery *calls = message(alice, true), *between = message(alice, false);

        delivery_cancel(calls);
        domain->state = DOMAIN_PAUSED;
        guest_update(guest, domain);
        domain->state = DOMAIN_OFF;
        guest_update(guest, domain);
        turn(50 * USEC_PER_MSEC);
        ck_assert_str_eq(told->str, "");
        delivery_cancel(between);
        ck_assert_uint_eq(n_under_way(), 0);
        turn(400 * USEC_PER_MSEC);
        ck_assert_str_eq(told->str, "");
}
END_TEST

static int64_t time_asked(bool is_call, const DeliveryOptions *options, const char *key)
{
        g_string_truncate(asked, 0);
        (void)delivery_send(jobs, guest, root, is_call, "topic", "x", 1, options, on_done, NULL);
        for (uint64_t end = fs_now_usec() + 10 * USEC_PER_SEC; asked->len == 0 && fs_now_usec() < end;)
                (void)g_main_context_iteration(NULL, FALSE);
        json_object *o = json_tokener_parse(asked->str);
        ck_assert_ptr_nonnull(o);
        int64_t usec = message_int(o, key, -1);
        json_object_put(o);
        return usec;
}

/* A caller's time is the handler's; where he names none the guest has its own, and is told how long a call
 * is waited for. */
START_TEST(times)
{
        DeliveryOptions none = { 0 }, second = { .timeout_usec = USEC_PER_SEC },
                        endless = { .timeout_usec = USEC_INFINITY };

        for (int is_call = 0; is_call < 2; is_call++) {
                int64_t usec = time_asked(is_call, &second, "timeout");

                ck_assert_int_gt(usec, 0);
                ck_assert_int_le(usec, (int64_t)USEC_PER_SEC);
                ck_assert_int_eq(time_asked(is_call, &second, "within"), -1);
                ck_assert_int_eq(time_asked(is_call, &none, "timeout"), -1);
                ck_assert_int_eq(time_asked(is_call, &endless, "timeout"), -1);
                ck_assert_int_eq(time_asked(is_call, &endless, "within"), -1);
        }
        ck_assert_int_eq(time_asked(false, &none, "within"), -1);
        ck_assert_int_gt(time_asked(true, &none, "within"), 0);
        ck_assert_int_le(time_asked(true, &none, "within"), (int64_t)DELIVERY_TIMEOUT_USEC);
}
END_TEST

SUITE_AROUND("hostd/delivery", set_up, tear_down, { share }, { caller_left }, { caller_of_an_item_left },
             { cancelled }, { times })
