/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Transfers and commands between their callers, who may be refused, and a guest, which may be lost before
 * anything has begun. The guest's side of the session is in the same loop, and answers nothing; what would
 * go to the journal is caught here.
 */

#include <glib.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/exec.h"
#include "hostd/jobs.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "hostd/transfer.h"
#include "../suite.h"

static Loop *loop;
static Config *config; /* host's, looked at as ours */
static Host *host;
static Jobs *jobs;
static Guest *guest;
static Domain *domain;
static Caller *alice;
static char socket_path[64];
static struct {
        int listen_fd, fd;
        LoopWatch *listen_watch, *watch;
        Session *session;
        unsigned n_requests;
} peer;
static GString *journal; /* the fields of all entries, a line each */
static int failed = -1;  /* what a caller was told */

int sd_journal_sendv(const struct iovec *iov, int n);
int sd_journal_sendv(const struct iovec *iov, int n)
{
        for (int i = 0; i < n; i++) {
                g_string_append_len(journal, iov[i].iov_base, (gssize)iov[i].iov_len);
                g_string_append_c(journal, '\n');
        }
        return 0;
}

/* --- the guest --- */

static void random_bytes(void *userdata, void *buf, size_t n)
{
        ck_assert_int_eq(getrandom(buf, n, 0), (ssize_t)n);
}

static void peer_flush(void)
{
        const uint8_t *frame;
        size_t n;

        while (session_output_next(peer.session, &frame, &n))
                ck_assert_int_eq(send(peer.fd, frame, n, MSG_NOSIGNAL), (ssize_t)n);
}

static void peer_close(void)
{
        peer.watch = loop_watch_free(peer.watch);
        peer.listen_watch = loop_watch_free(peer.listen_watch);
        peer.fd = fd_close(peer.fd);
}

static void on_readable(void *userdata, uint32_t events)
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
        session_input_commit(peer.session, (size_t)n, fs_now_usec());
        while (session_next_event(peer.session, &e))
                peer.n_requests += e.type == SESSION_EVENT_REQUEST;
        peer_flush();
}

static void on_connection(void *userdata, uint32_t events)
{
        peer.fd = accept4(peer.listen_fd, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_int_ge(peer.fd, 0);
        session_open(peer.session, fs_now_usec());
        peer_flush();
        peer.watch = loop_watch_new(loop, peer.fd, EPOLLIN, on_readable, NULL);
}

/* As jobs.c does it for guests of its host; here there is one job at most. */
static void tell_job(void)
{
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, jobs_all(jobs));
        if (g_hash_table_iter_next(&i, NULL, &p)) {
                Job *j = p;
                j->ops->guest_state(j->userdata, j);
        }
}

static void on_state(void *userdata, Guest *g, GuestState old)
{
        if (old != guest_state(g))
                tell_job();
}

static void on_facts(void *userdata, Guest *g)
{
}

/* --- around each test --- */

static void on_wake(void *userdata)
{
}

#define UNTIL(condition)                                                                                    \
        do {                                                                                                \
                uint64_t end_ = fs_now_usec() + 10 * USEC_PER_SEC;                                          \
                LoopTimer *t_ = loop_timer_new(loop, on_wake, NULL);                                        \
                while (!(condition)) {                                                                      \
                        ck_assert_msg(fs_now_usec() < end_, "%s", #condition);                              \
                        loop_timer_set(t_, fs_now_usec() + 10 * USEC_PER_MSEC, 0);                          \
                        (void)g_main_context_iteration(NULL, TRUE);                                         \
                }                                                                                           \
                loop_timer_free(t_);                                                                        \
        } while (0)

static void set_up(void)
{
        static const GuestOps ops = { .state_changed = on_state, .facts_changed = on_facts };
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        SessionConfig sc = { .role = SESSION_GUEST, .port = SESSION_CONTROL, .random = random_bytes };

        log_set_max_level(-1);
        (void)g_setenv("XDG_CONFIG_HOME", "/nonexistent", TRUE);
        ck_assert_int_eq(loop_new(&loop), 0);
        journal = g_string_new(NULL);
        config = config_load(true);
        g_free(config->connect_uri);
        config->connect_uri = g_strdup("test:///default");
        g_free(config->state_dir);
        config->state_dir = g_strdup("/dev/null/none"); /* nothing outlives this hostd */
        host = host_new(config);
        jobs = jobs_new(host);
        ck_assert_ptr_nonnull(jobs);
        alice = caller_new(1000, 1000, NULL, 0, ":1.7");

        ck_assert_int_eq(session_new(&sc, &peer.session), 0);
        peer.fd = -EBADF;
        (void)snprintf(socket_path, sizeof(socket_path), "/tmp/vmferry-test-engines-%d", getpid());
        (void)unlink(socket_path);
        memcpy(sa.sun_path, socket_path, strlen(socket_path) + 1);
        peer.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(peer.listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        ck_assert_int_eq(listen(peer.listen_fd, 1), 0);
        peer.listen_watch = loop_watch_new(loop, peer.listen_fd, EPOLLIN, on_connection, NULL);

        domain = domain_new();
        domain->uuid = g_strdup("6af613b6-569c-5c22-9c37-2ed93f31d3af");
        domain->name = g_strdup("web01");
        domain->id = 1;
        domain->state = DOMAIN_RUNNING;
        domain->control_socket = g_strdup(socket_path);
        domain->data_socket = g_strdup("/nonexistent/data");
        guest = guest_new(domain, &ops, NULL);
        UNTIL(guest_state(guest) == GUEST_READY && session_is_up(peer.session));
}

static void tear_down(void)
{
        jobs_free(jobs);
        guest_free(guest);
        host_free(host);
        domain_free(domain);
        caller_free(alice);
        peer_close();
        session_free(peer.session);
        fd_close(peer.listen_fd);
        (void)unlink(socket_path);
        loop_free(loop);
        g_string_free(journal, TRUE);
}

static void pause_guest(void)
{
        domain->state = DOMAIN_PAUSED;
        guest_update(guest, domain);
        ck_assert_int_eq(guest_state(guest), GUEST_PAUSED);
}

/* The job is told first, and has its requests ended with the guest. */
static void undefine_guest(void)
{
        jobs_find(jobs, 1)->guest = NULL;
        tell_job();
        guest = guest_free(guest);
}

/* --- what callers do --- */

static WireError transfer(JobKind kind, const char *guest_path, Job **ret)
{
        const TransferOptions o = { .mode = UINT32_MAX, .resume = true, .detach = true };
        g_autofree char *text = NULL;
        Job *j = NULL;
        WireError error =
                transfer_start(jobs, kind, guest, alice, "/srv/a b", -1, guest_path, &o, &j, &text);

        ck_assert_int_eq(error == WIRE_OK, j != NULL);
        ck_assert_int_eq(error == WIRE_OK, text == NULL);
        if (ret)
                *ret = j;
        return error;
}

static void on_started(void *userdata, WireError error, const char *text, Job *j, const int fds[3])
{
        failed = (int)error;
}

static void on_ran(void *userdata, WireError error, const char *text, const RunResult *r)
{
        failed = (int)error;
}

static const char *const command[] = { "/bin/echo", "a b", NULL }, *const nothing[] = { NULL };

static WireError push(const char *path)
{
        return transfer(JOB_PUSH, path, NULL);
}

static WireError pull(const char *path)
{
        return transfer(JOB_PULL, path, NULL);
}

static WireError start(const char *empty)
{
        exec_start(jobs, guest, alice, empty ? nothing : command, &(ExecOptions){ .user = "bob" },
                   on_started, NULL);
        return (WireError)failed;
}

static WireError run(const char *empty)
{
        exec_run(jobs, guest, alice, empty ? nothing : command, &(ExecOptions){ .user = "bob" }, on_ran,
                 NULL);
        return (WireError)failed;
}

/* --- tests --- */

/* Whoever was refused what, and why, is in the journal, in one entry. */
START_TEST(test_refused)
{
        static const struct {
                WireError (*ask)(const char *argument);
                const char *argument;
                bool is_paused, is_full;
                WireError error;
                const char *verb, *what;
        } table[] = {
                { push, "/etc/a b", true, false, WIRE_NOT_READY, "push", "VMFERRY_PATH=/etc/a b\n" },
                { pull, "/etc/a b", true, false, WIRE_NOT_READY, "pull", "VMFERRY_HOST_PATH=/srv/a b\n" },
                { push, "../x\n", false, false, WIRE_INVALID_PATH, "push", "VMFERRY_PATH=../x\\x0a\n" },
                { push, "/etc/x", false, true, WIRE_LIMITS_EXCEEDED, "push", "VMFERRY_PATH=/etc/x\n" },
                { pull, "/etc/x", false, true, WIRE_LIMITS_EXCEEDED, "pull", "VMFERRY_PATH=/etc/x\n" },
                { start, NULL, true, false, WIRE_NOT_READY, "exec", "VMFERRY_COMMAND='/bin/echo' 'a b'\n" },
                { start, NULL, false, true, WIRE_LIMITS_EXCEEDED, "exec", "VMFERRY_USER=bob\n" },
                { start, "", false, false, WIRE_INVALID_ARGS, "exec", "VMFERRY_USER=bob\n" },
                { run, NULL, true, false, WIRE_NOT_READY, "exec", "VMFERRY_COMMAND='/bin/echo' 'a b'\n" },
                { run, NULL, false, true, WIRE_LIMITS_EXCEEDED, "exec", "VMFERRY_USER=bob\n" },
                { run, "", false, false, WIRE_INVALID_ARGS, "exec", "VMFERRY_USER=bob\n" },
        };
        g_autofree char *verb = g_strdup_printf("\nVMFERRY_VERB=%s\n", table[_i].verb),
                        *error = g_strdup_printf("\nVMFERRY_ERROR=%s\n",
                                                 wire_error_to_string(table[_i].error));
        const char *const fields[] = {
                verb,
                error,
                table[_i].what,
                "\nVMFERRY_RESULT=refused\n",
                "\nVMFERRY_ERROR_TEXT=",
                "\nVMFERRY_CALLER_UID=1000\n",
                "\nDOMAIN_NAME=web01\n",
                "\nDOMAIN_UUID=6af613b6-569c-5c22-9c37-2ed93f31d3af\n",
        };
        const char *entry;

        ck_assert_uint_eq(ELEMENTSOF(table), 11);
        if (table[_i].is_paused)
                pause_guest();
        config->max_jobs = table[_i].is_full ? 0 : 10;
        ck_assert_int_eq(table[_i].ask(table[_i].argument), table[_i].error);
        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                ck_assert_msg(strstr(journal->str, fields[i]), "%s is not in %s", fields[i], journal->str);
        entry = strstr(journal->str, "MESSAGE_ID=");
        ck_assert_ptr_null(strstr(entry + 1, "MESSAGE_ID="));
        ck_assert_uint_eq(g_hash_table_size(jobs_all(jobs)), 0);
}
END_TEST

START_TEST(test_accepted)
{
        ck_assert_int_eq(push("/etc/x"), WIRE_OK);
        failed = -1;
        (void)run(NULL);
        UNTIL(peer.n_requests > 0);
        ck_assert_int_eq(failed, -1);
        ck_assert_ptr_null(strstr(journal->str, "refused"));
}
END_TEST

/* The guest is paused before its turn has come, and its domain is no more before it goes on. */
START_TEST(test_transfer_undefined)
{
        Job *j;

        ck_assert_int_eq(transfer(_i ? JOB_PUSH : JOB_PULL, "/etc/x", &j), WIRE_OK);
        pause_guest();
        UNTIL(j->state != JOB_QUEUED && j->state != JOB_RUNNING);
        ck_assert_int_eq(j->state, JOB_WAITING);
        undefine_guest();
        ck_assert_int_eq(j->state, JOB_FAILED);
        ck_assert_int_eq(j->error, WIRE_INTERRUPTED);
}
END_TEST

/* Nobody has confirmed its start, and nobody is left to be told to end it. */
START_TEST(test_command_undefined)
{
        failed = -1;
        (void)start(NULL);
        UNTIL(peer.n_requests == 1);
        if (_i == 0) { /* the answer is outstanding */
                undefine_guest();
                ck_assert_int_eq(failed, WIRE_INTERRUPTED);
        } else { /* so is that of its end */
                session_close(peer.session);
                session_open(peer.session, fs_now_usec());
                peer_flush();
                UNTIL(peer.n_requests == 2);
                ck_assert_int_eq(failed, WIRE_INTERRUPTED);
                ck_assert_uint_eq(g_hash_table_size(jobs_all(jobs)), 1);
                undefine_guest();
        }
        ck_assert_uint_eq(g_hash_table_size(jobs_all(jobs)), 0);
}
END_TEST

SUITE_AROUND("hostd/engines", set_up, tear_down, { test_refused, 11 }, { test_accepted },
             { test_transfer_undefined, 2 }, { test_command_undefined, 2 })
