/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * One guest and its control connection, against a peer in the same loop: a listening socket with QEMU's
 * backlog, and the guest's side of a session behind it.
 */

#include "hostd/guest.h"

#include <glib.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fs.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#include "../suite.h"

typedef struct Peer {
        int listen_fd, fd;
        LoopWatch *listen_watch, *watch;
        Session *session;
        bool is_deaf;        /* reads and says nothing */
        uint64_t stall_usec; /* once */
        unsigned n_accepted, n_requests;
} Peer;

static Loop *loop;
static Guest *guest;
static Domain *domain;
static Peer peer;
static json_object *hello;
static char socket_path[64];
static unsigned n_state_changes, n_facts, n_notes, n_asked;
static char *replied_text;
static int replied = -1, ponged = -1;

static void random_bytes(void *userdata, void *buf, size_t n)
{
        ck_assert_int_eq(getrandom(buf, n, 0), (ssize_t)n);
}

static void peer_flush(void)
{
        const uint8_t *frame;
        size_t n;

        while (peer.fd >= 0 && session_output_next(peer.session, &frame, &n))
                ck_assert_int_eq(send(peer.fd, frame, n, MSG_NOSIGNAL), (ssize_t)n);
}

static void peer_close(void)
{
        peer.watch = loop_watch_free(peer.watch);
        peer.fd = fd_close(peer.fd);
        session_close(peer.session);
}

static void peer_request(const SessionEvent *e)
{
        const char *method = message_str(e->message->json, "method", "");
        json_object *o;

        peer.n_requests++;
        if (str_eq(method, "hang"))
                return;
        o = str_eq(method, "fail") ? message_error(WIRE_NO_HANDLER, "nobody\x1b here")
                                   : json_object_new_object();
        ck_assert_int_eq(session_reply(peer.session, e->id, o, "pong", 4), 0);
        json_object_put(o);
}

static void on_peer_readable(void *userdata, uint32_t events)
{
        SessionEvent e;
        uint8_t *buf;
        size_t room;
        ssize_t n;

        session_input_space(peer.session, &buf, &room);
        n = recv(peer.fd, buf, room, MSG_DONTWAIT);
        if (n <= 0) {
                peer_close();
                return;
        }
        if (peer.is_deaf)
                return;
        session_input_commit(peer.session, (size_t)n, fs_now_usec());
        while (session_next_event(peer.session, &e))
                if (e.type == SESSION_EVENT_REQUEST)
                        peer_request(&e);
        peer_flush();
        if (peer.stall_usec > 0)
                (void)usleep((useconds_t)peer.stall_usec);
        peer.stall_usec = 0;
}

static void on_peer_connection(void *userdata, uint32_t events)
{
        int n_early;

        if (peer.fd >= 0) /* one at a time */
                return;
        peer.fd = accept4(peer.listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (peer.fd < 0)
                return;
        peer.n_accepted++;
        /* What is written before this moment would go to whoever was served until now. */
        ck_assert_int_eq(ioctl(peer.fd, FIONREAD, &n_early), 0);
        ck_assert_int_eq(n_early, 0);
        session_open(peer.session, fs_now_usec());
        if (!peer.is_deaf)
                peer_flush();
        peer.watch = loop_watch_new(loop, peer.fd, EPOLLIN, on_peer_readable, NULL);
        ck_assert_ptr_nonnull(peer.watch);
}

static void peer_accepts(bool does)
{
        if (does && !peer.listen_watch)
                peer.listen_watch = loop_watch_new(loop, peer.listen_fd, EPOLLIN, on_peer_connection, NULL);
        if (!does)
                peer.listen_watch = loop_watch_free(peer.listen_watch);
}

static void on_state(void *userdata, Guest *g, GuestState old)
{
        n_state_changes++;
        ck_assert_str_ne(guest_state_reason(g), "");
}

static void on_facts(void *userdata, Guest *g)
{
        n_facts++;
}

static void on_notify(void *userdata, Guest *g, const Message *m)
{
        n_notes++;
}

static void on_request(void *userdata, Guest *g, uint32_t id, const Message *m)
{
        n_asked++;
        ck_assert_int_eq(guest_reply(g, id, json_object_new_object(), NULL, 0), 0);
}

static const GuestOps ops = {
        .state_changed = on_state, .facts_changed = on_facts, .notify = on_notify, .request = on_request
};

static void on_reply(void *userdata, WireError error, const char *text, const Message *m)
{
        ck_assert_int_eq(replied, -1);
        replied = (int)error;
        g_free(replied_text);
        replied_text = g_strdup(text);
        if (error == WIRE_OK)
                ck_assert_uint_eq(m->n_payload, 4);
}

static void on_pong(void *userdata, WireError error, const char *text, uint64_t rtt_usec)
{
        ponged = (int)error;
        if (error == WIRE_OK)
                ck_assert_uint_gt(rtt_usec, 0);
}

static void on_wake(void *userdata)
{
}

/* Turns the loop until the condition holds; fails after so many milliseconds. */
#define UNTIL(condition, msec)                                                                              \
        do {                                                                                                \
                uint64_t end_ = fs_now_usec() + (msec)*USEC_PER_MSEC;                                       \
                LoopTimer *t_ = loop_timer_new(loop, on_wake, NULL);                                        \
                while (!(condition)) {                                                                      \
                        ck_assert_msg(fs_now_usec() < end_, "%s; the guest is %s (%s)", #condition,         \
                                      guest_state_to_string(guest_state(guest)),                            \
                                      guest_state_reason(guest));                                           \
                        loop_timer_set(t_, fs_now_usec() + 10 * USEC_PER_MSEC, 0);                          \
                        (void)g_main_context_iteration(NULL, TRUE);                                         \
                }                                                                                           \
                loop_timer_free(t_);                                                                        \
        } while (0)

static void ask(const char *method, uint64_t timeout_usec)
{
        json_object *o = json_object_new_object();

        json_object_object_add(o, "method", json_object_new_string(method));
        replied = -1;
        ck_assert_uint_gt(guest_request(guest, o, NULL, 0, timeout_usec, on_reply, NULL), 0);
        ck_assert_int_eq(replied, -1); /* never from within */
}

static bool is_state(GuestState s)
{
        return guest_state(guest) == s;
}

static void set_up(void)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        SessionConfig config = { .role = SESSION_GUEST, .port = SESSION_CONTROL, .random = random_bytes };

        log_set_max_level(-1);
        ck_assert_int_eq(loop_new(&loop), 0);
        hello = json_tokener_parse("{\"agent\":\"test 1\",\"boot_id\":\"b1\",\"instance\":\"i1\","
                                   "\"capabilities\":[\"exec\",7,\"bad name\"],"
                                   "\"facts\":{\"hostname\":\"a\\u001bb\",\"kernel\":7,\"os_release\":{"
                                   "\"ID\":\"debian\",\"N\":[]}}}");
        config.hello = hello;
        ck_assert_int_eq(session_new(&config, &peer.session), 0);
        peer.fd = -EBADF;
        (void)snprintf(socket_path, sizeof(socket_path), "/tmp/vmferry-test-guest-%d", getpid());
        unlink(socket_path);
        memcpy(sa.sun_path, socket_path, strlen(socket_path) + 1);
        peer.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(peer.listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        ck_assert_int_eq(listen(peer.listen_fd, 1), 0);
        peer_accepts(true);

        domain = domain_new();
        domain->uuid = g_strdup("6af613b6-569c-5c22-9c37-2ed93f31d3af");
        domain->name = g_strdup("web01");
        domain->id = 1;
        domain->state = DOMAIN_RUNNING;
        domain->control_socket = g_strdup(socket_path);
        domain->data_socket = g_strdup("/nonexistent/data");
        guest = guest_new(domain, &ops, NULL);
}

static void tear_down(void)
{
        guest = guest_free(guest);
        domain_free(domain);
        peer_accepts(false);
        peer_close();
        session_free(peer.session);
        json_object_put(hello);
        fd_close(peer.listen_fd);
        unlink(socket_path);
        g_free(replied_text);
        loop_free(loop);
}

START_TEST(test_ready)
{
        const GuestFacts *f;

        set_up();
        ck_assert_int_eq(guest_state(guest), GUEST_WAITING);
        UNTIL(is_state(GUEST_READY), 2000);
        ck_assert_uint_gt(guest_ready_since(guest), 0);
        ck_assert_uint_eq(n_facts, 1);
        f = guest_facts(guest);
        ck_assert_str_eq(f->agent_version, "test 1");
        ck_assert_str_eq(f->hostname, "a\\x1bb");
        ck_assert_str_eq(f->kernel, "");
        ck_assert(guest_has_capability(guest, "exec"));
        ck_assert_int_eq(g_strv_length(f->capabilities), 1);
        ck_assert_int_eq(g_strv_length(f->os_release), 2);

        ask("echo", 5 * USEC_PER_SEC);
        UNTIL(replied >= 0, 2000);
        ck_assert_int_eq(replied, WIRE_OK);
        ask("fail", 5 * USEC_PER_SEC);
        UNTIL(replied >= 0, 2000);
        ck_assert_int_eq(replied, WIRE_NO_HANDLER);
        ck_assert_str_eq(replied_text, "Guest web01: nobody\\x1b here");
        (void)guest_ping(guest, USEC_PER_SEC, on_pong, NULL);
        UNTIL(ponged >= 0, 2000);
        ck_assert_int_eq(ponged, WIRE_OK);
        ck_assert_uint_eq(guest_counters(guest)->n_sessions, 1);
        tear_down();
}
END_TEST

START_TEST(test_from_guest)
{
        json_object *o = json_object_new_object();
        uint32_t id;

        set_up();
        UNTIL(is_state(GUEST_READY) && session_is_up(peer.session), 2000);
        /* Without a method: refused here. */
        ck_assert_int_eq(session_request(peer.session, o, NULL, 0, &id), 0);
        ck_assert_int_eq(session_notify(peer.session, o, NULL, 0), 0);
        peer_flush();
        UNTIL(guest_counters(guest)->n_requests_refused == 2, 2000);
        json_object_object_add(o, "method", json_object_new_string("x"));
        ck_assert_int_eq(session_request(peer.session, o, NULL, 0, &id), 0);
        ck_assert_int_eq(session_notify(peer.session, o, NULL, 0), 0);
        peer_flush();
        UNTIL(n_asked == 1 && n_notes == 1, 2000);
        ck_assert_int_eq(guest_reply(guest, 4711, json_object_new_object(), NULL, 0), -ENOENT);
        json_object_put(o);
        tear_down();
}
END_TEST

START_TEST(test_timeout_and_cancel)
{
        json_object *o;
        uint64_t id;

        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        ask("hang", 200 * USEC_PER_MSEC);
        UNTIL(replied >= 0, 2000);
        ck_assert_int_eq(replied, WIRE_TIMEOUT);
        ck_assert_str_eq(replied_text, "Guest web01 did not answer within 0.2 s");

        o = json_object_new_object();
        replied = -1;
        id = guest_request(guest, o, NULL, 0, 100 * USEC_PER_MSEC, on_reply, NULL);
        guest_cancel(guest, id);
        guest_cancel(guest, id);
        ask("echo", USEC_PER_SEC);
        UNTIL(replied >= 0, 2000);
        ck_assert_int_eq(replied, WIRE_OK);
        tear_down();
}
END_TEST

START_TEST(test_not_ready)
{
        static const struct {
                DomainState state;
                bool has_channel;
                GuestState is;
                const char *text;
        } table[] = {
                { DOMAIN_OFF, false, GUEST_OFF,
                  "Guest web01 is not ready: it is off (the domain is not running)" },
                { DOMAIN_PAUSED, true, GUEST_PAUSED,
                  "Guest web01 is not ready: it is paused (its vCPUs are stopped)" },
                { DOMAIN_RUNNING, false, GUEST_NO_CHANNEL,
                  "Guest web01 is not ready: it is no-channel (it has none)" },
        };

        set_up();
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(domain_freep) Domain *d = domain_copy(domain);

                d->state = table[i].state;
                d->id = d->state == DOMAIN_OFF ? -1 : 5;
                d->channel_reason = g_strdup("it has none");
                if (!table[i].has_channel)
                        g_clear_pointer(&d->control_socket, g_free);
                guest_update(guest, d);
                ck_assert_int_eq(guest_state(guest), table[i].is);
                ask("echo", USEC_PER_SEC);
                UNTIL(replied >= 0, 1000);
                ck_assert_int_eq(replied, WIRE_NOT_READY);
                ck_assert_str_eq(replied_text, table[i].text);
        }
        tear_down();
}
END_TEST

/* Somebody else is served: nothing is said into the queue, and the guest is ready as soon as he leaves. */
START_TEST(test_busy)
{
        set_up();
        peer_accepts(false);
        UNTIL(is_state(GUEST_BUSY), 3000);
        ck_assert_ptr_nonnull(strstr(guest_state_reason(guest), socket_path));
        peer_accepts(true);
        UNTIL(is_state(GUEST_READY), 2000);
        ck_assert_uint_eq(peer.n_accepted, 1);
        tear_down();
}
END_TEST

START_TEST(test_lost_and_back)
{
        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        ask("hang", USEC_INFINITY);
        UNTIL(peer.n_requests == 1, 1000);
        peer_close();
        UNTIL(replied >= 0, 1000);
        ck_assert_int_eq(replied, WIRE_INTERRUPTED);
        ck_assert_int_ne(guest_state(guest), GUEST_READY);
        UNTIL(is_state(GUEST_READY), 2000);
        tear_down();
}
END_TEST

/* However long the interval: an idle guest is not asked before it is over. */
START_TEST(test_keepalive)
{
        const uint64_t usec[] = { 0, USEC_INFINITY, USEC_INFINITY - 1, USEC_INFINITY / 2,
                                  3600 * USEC_PER_SEC };
        uint64_t n_bytes;
        bool is_over = false;

        guest_set_keepalive(usec[_i]);
        set_up();
        UNTIL(is_state(GUEST_READY) && session_is_up(peer.session), 2000);
        n_bytes = guest_counters(guest)->n_bytes_sent;
        for (uint64_t end = fs_now_usec() + 200 * USEC_PER_MSEC; !is_over; is_over = fs_now_usec() >= end)
                (void)g_main_context_iteration(NULL, FALSE);
        ck_assert_uint_eq(guest_counters(guest)->n_bytes_sent, n_bytes);
        tear_down();
}
END_TEST

/* QEMU takes everything and nothing comes back: once more, then new connections, and in the end the truth.
 */
START_TEST(test_deaf)
{
        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        peer.is_deaf = true;
        ask("echo", USEC_INFINITY);
        UNTIL(replied >= 0, 6000);
        ck_assert_int_eq(replied, WIRE_INTERRUPTED);
        UNTIL(is_state(GUEST_UNRESPONSIVE), 12000);
        ck_assert_uint_ge(peer.n_accepted, 3);
        ck_assert_uint_le(peer.n_accepted, 4);
        peer.is_deaf = false;
        guest_hint(guest, DOMAIN_HINT_CONTROL_OPENED);
        UNTIL(is_state(GUEST_READY), 2000);
        tear_down();
}
END_TEST

/* Whoever was not on a processor for so long finds the answer and the end of its patience together. */
START_TEST(test_late_itself)
{
        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        ask("hang", USEC_INFINITY);
        UNTIL(peer.n_requests == 1, 1000);
        peer.stall_usec =
                2500 * USEC_PER_MSEC; /* in the turn that answers the question what is the matter */
        UNTIL(peer.stall_usec == 0, 6000);
        for (int i = 0; i < 20; i++)
                (void)g_main_context_iteration(NULL, FALSE);
        ck_assert_int_eq(replied, -1);
        ck_assert_uint_eq(guest_counters(guest)->n_silences, 0);
        ck_assert(is_state(GUEST_READY));
        tear_down();
}
END_TEST

START_TEST(test_reboot)
{
        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        ask("hang", USEC_INFINITY);
        guest_hint(guest, DOMAIN_HINT_REBOOTED);
        ck_assert_int_eq(guest_state(guest), GUEST_WAITING);
        ck_assert_str_eq(guest_facts(guest)->boot_id, "");
        UNTIL(replied == WIRE_INTERRUPTED, 1000);
        UNTIL(is_state(GUEST_READY), 2000);
        ck_assert_str_eq(guest_facts(guest)->boot_id, "b1");
        ck_assert_uint_eq(peer.n_accepted, 1);
        tear_down();
}
END_TEST

static void on_state_noted(void *userdata, Guest *g, GuestState old)
{
        GString *noted = userdata;

        g_string_append_printf(noted, "%s>%s ", guest_state_to_string(old),
                               guest_state_to_string(guest_state(g)));
}

/* Stopped and started between two looks: who waits for either hears of both. */
START_TEST(test_another_domain_id)
{
        static const GuestOps noting = { .state_changed = on_state_noted,
                                         .facts_changed = on_facts,
                                         .notify = on_notify,
                                         .request = on_request };
        g_autoptr(GString) noted = g_string_new(NULL);
        _cleanup_(domain_freep) Domain *d = NULL;

        set_up();
        guest = guest_free(guest);
        guest = guest_new(domain, &noting, noted);
        UNTIL(is_state(GUEST_READY), 2000);
        g_string_truncate(noted, 0);
        d = domain_copy(domain);
        d->id = 7;
        guest_update(guest, d);
        ck_assert_ptr_nonnull(strstr(noted->str, ">off off>waiting "));
        ck_assert_str_eq(guest_facts(guest)->boot_id, "");
        UNTIL(is_state(GUEST_READY), 2000);
        /* The same one again. */
        g_string_truncate(noted, 0);
        guest_update(guest, d);
        d->state = DOMAIN_PAUSED;
        guest_update(guest, d);
        ck_assert_ptr_null(strstr(noted->str, "off"));
        tear_down();
}
END_TEST

START_TEST(test_pause)
{
        _cleanup_(domain_freep) Domain *d = NULL;

        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        d = domain_copy(domain);
        d->state = DOMAIN_PAUSED;
        guest_update(guest, d);
        ck_assert_int_eq(guest_state(guest), GUEST_PAUSED);
        d->state = DOMAIN_RUNNING;
        guest_update(guest, d);
        ck_assert_int_eq(guest_state(guest), GUEST_CONNECTING);
        UNTIL(is_state(GUEST_READY), 1000);
        ck_assert_uint_eq(peer.n_accepted, 1);
        ck_assert_uint_eq(guest_counters(guest)->n_sessions, 1);
        tear_down();
}
END_TEST

START_TEST(test_garbage)
{
        uint8_t junk[65536];

        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        random_bytes(NULL, junk, sizeof(junk) < 256 ? sizeof(junk) : 256);
        for (size_t i = 256; i < sizeof(junk); i++)
                junk[i] = (uint8_t)(junk[i - 256] * 31 + i);
        for (size_t sent = 0; sent < 1024 * 1024;) {
                ssize_t n = send(peer.fd, junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n > 0)
                        sent += (size_t)n;
                (void)g_main_context_iteration(NULL, FALSE);
        }
        session_open(peer.session, fs_now_usec());
        peer_flush();
        UNTIL(is_state(GUEST_READY) && session_is_up(peer.session), 2000);
        ask("echo", USEC_PER_SEC);
        UNTIL(replied >= 0, 2000);
        ck_assert_int_eq(replied, WIRE_OK);
        tear_down();
}
END_TEST

/* Only what is there is freed, and who waits is told. */
START_TEST(test_free_with_requests)
{
        set_up();
        UNTIL(is_state(GUEST_READY), 2000);
        ask("hang", USEC_INFINITY);
        guest = guest_free(guest);
        ck_assert_int_eq(replied, WIRE_INTERRUPTED);
        tear_down();
}
END_TEST

SUITE("guest", { test_ready }, { test_from_guest }, { test_timeout_and_cancel }, { test_not_ready },
      { test_busy }, { test_lost_and_back }, { test_keepalive, 5 }, { test_deaf }, { test_late_itself },
      { test_reboot }, { test_another_domain_id }, { test_pause }, { test_garbage },
      { test_free_with_requests })
