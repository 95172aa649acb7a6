/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The socket as a program sees it: blocking clients in this process, the loop turned in between.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fs.h"
#include "guestd/localsock.h"
#include "guestd/log.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "../suite.h"

static Loop *loop;
static Localsock *sock;
static Policy policy;
static char path[64];
static int publish_result;
static uint64_t n_published, last_token, called_token;
static WireError call_result, called_error;
static char last_topic[TOPIC_MAX + 1], last_payload[256], called_text[256];
static size_t last_n;
static unsigned n_called;

static void keep_payload(const void *payload, size_t n)
{
        last_n = n;
        (void)snprintf(last_payload, sizeof(last_payload), "%.*s", (int)n, n ? (const char *)payload : "");
}

static int on_publish(void *userdata, const char *topic, const void *payload, size_t n, uint64_t *ret_id)
{
        if (publish_result < 0)
                return publish_result;
        (void)snprintf(last_topic, sizeof(last_topic), "%s", topic);
        keep_payload(payload, n);
        *ret_id = ++n_published;
        return 0;
}

static WireError on_call(void *userdata, uint64_t token, const char *topic, const void *payload, size_t n,
                         uint64_t timeout_usec)
{
        last_token = token;
        keep_payload(payload, n);
        return call_result;
}

static void on_called(void *userdata, uint64_t token, WireError error, const char *text, const void *payload,
                      size_t n)
{
        called_token = token;
        called_error = error;
        n_called++;
        (void)snprintf(called_text, sizeof(called_text), "%s", text ?: "");
        keep_payload(payload, n);
}

static void setup(void)
{
        static const LocalsockOps ops = { on_publish, on_call, on_called };
        log_init("test", true);
        log_set_max_level(LOG_ERR);
        policy_init(&policy);
        (void)snprintf(path, sizeof(path), "/tmp/vmferry-test-sock-%d/guestd.sock", (int)getpid());
        ck_assert_int_eq(loop_new(&loop), 0);
        LocalsockConfig config = { .path = path, .mode = 0660, .policy = &policy };
        ck_assert_int_eq(localsock_new(loop, &config, &ops, NULL, &sock), 0);
        publish_result = 0, call_result = WIRE_OK, n_published = n_called = 0;
}

static void teardown(void)
{
        sock = localsock_free(sock);
        loop = loop_free(loop);
        ck_assert_int_ne(access(path, F_OK), 0);
        *strrchr(path, '/') = 0;
        ck_assert_int_eq(rmdir(path), 0);
        policy_done(&policy);
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

static int client(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

static void say(int fd, const char *line)
{
        ck_assert_int_eq(fs_write_all(fd, line, strlen(line)), 0);
        ck_assert_int_eq(fs_write_all(fd, "\n", 1), 0);
}

/* One line of guestd, or NULL at its end. */
static json_object *hear(int fd)
{
        static char line[2 * 1024 * 1024];
        size_t n = 0;
        for (int idle = 0; idle < 200;) {
                ssize_t k = recv(fd, line + n, 1, 0);
                if (k == 0 || (k < 0 && errno == ECONNRESET))
                        return NULL;
                if (k < 0) {
                        run_for(5000);
                        idle++;
                        continue;
                }
                if (line[n] == '\n') {
                        line[n] = 0;
                        json_object *o = json_tokener_parse(line);
                        ck_assert_msg(o, "%s", line);
                        return o;
                }
                ck_assert_uint_lt(++n, sizeof(line));
        }
        ck_abort_msg("guestd says nothing");
        return NULL;
}

static void expect(int fd, const char *json)
{
        json_object *o = hear(fd), *wanted = json_tokener_parse(json);
        ck_assert_msg(o && json_object_equal(o, wanted), "%s instead of %s", json_object_to_json_string(o),
                      json);
        json_object_put(o);
        json_object_put(wanted);
}

static void expect_error(int fd, const char *error)
{
        json_object *o = hear(fd);
        ck_assert_str_eq(message_str(o, "error", "none"), error);
        json_object_put(o);
}

START_TEST(subscribed)
{
        int a = client(), b = client();
        ck_assert_int_eq(localsock_deliver(sock, "news", 1, "x", 1), 0);
        say(a, "{\"method\":\"subscribe\",\"topic\":\"news\",\"tag\":\"t1\"}");
        expect(a, "{\"ok\":true,\"tag\":\"t1\"}");
        say(b, "{\"method\":\"subscribe\",\"topic\":\"news\"}");
        expect(b, "{\"ok\":true}");
        ck_assert_int_eq(localsock_deliver(sock, "news", 7, "a\nb", 3), 2);
        expect(a, "{\"event\":\"message\",\"topic\":\"news\",\"id\":7,\"text\":\"a\\nb\"}");
        expect(b, "{\"event\":\"message\",\"topic\":\"news\",\"id\":7,\"text\":\"a\\nb\"}");
        say(b, "{\"method\":\"unsubscribe\",\"topic\":\"news\"}");
        expect(b, "{\"ok\":true}");
        ck_assert_int_eq(localsock_deliver(sock, "news", 8, "\377", 1), 1);
        expect(a, "{\"event\":\"message\",\"topic\":\"news\",\"id\":8,\"data64\":\"/w==\"}");
        (void)close(a);
        run_for(20000);
        ck_assert_int_eq(localsock_deliver(sock, "news", 9, NULL, 0), 0);
        ck_assert_uint_eq(localsock_n_clients(sock), 1);
        (void)close(b);
        struct stat st;
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode & 0777, 0660);
}
END_TEST

START_TEST(published)
{
        int a = client();
        say(a, "{\"method\":\"publish\",\"topic\":\"t\",\"text\":\"hello\",\"tag\":5}");
        expect(a, "{\"ok\":true,\"tag\":5,\"id\":1}");
        ck_assert_str_eq(last_topic, "t");
        ck_assert_str_eq(last_payload, "hello");
        publish_result = -ENOBUFS;
        say(a, "{\"method\":\"publish\",\"topic\":\"t\"}");
        expect_error(a, "LimitsExceeded");
        /* No room for a moment: the lines wait, in order. */
        publish_result = -EAGAIN;
        say(a, "{\"method\":\"publish\",\"topic\":\"t\",\"text\":\"one\",\"tag\":1}");
        say(a, "{\"method\":\"publish\",\"topic\":\"t\",\"text\":\"two\",\"tag\":2}");
        run_for(20000);
        ck_assert_uint_eq(n_published, 1);
        localsock_resume(sock);
        ck_assert_uint_eq(n_published, 1);
        publish_result = 0;
        localsock_resume(sock);
        expect(a, "{\"ok\":true,\"tag\":1,\"id\":2}");
        expect(a, "{\"ok\":true,\"tag\":2,\"id\":3}");
        ck_assert_str_eq(last_payload, "two");
        (void)close(a);
}
END_TEST

/* What somebody has written counts, also where he is not there any more to hear that it does. */
START_TEST(published_and_left)
{
        int a = client();
        for (int i = 0; i < 5; i++)
                say(a, "{\"method\":\"publish\",\"topic\":\"t\",\"text\":\"hello\"}");
        say(a, "{\"method\":\"publish\",\"topic\":\"t\",\"text\":\"last\"}");
        (void)close(a);
        run_for(20000);
        ck_assert_uint_eq(n_published, 6);
        ck_assert_str_eq(last_payload, "last");
        ck_assert_uint_eq(localsock_n_clients(sock), 0);
        /* Having closed one half only. */
        a = client();
        say(a, "{\"method\":\"publish\",\"topic\":\"t\"}");
        say(a, "{\"method\":\"publish\",\"topic\":\"t\"}");
        ck_assert_int_eq(shutdown(a, SHUT_WR), 0);
        expect(a, "{\"ok\":true,\"id\":7}");
        expect(a, "{\"ok\":true,\"id\":8}");
        ck_assert_ptr_null(hear(a));
        (void)close(a);
}
END_TEST

START_TEST(published_and_left_while_full)
{
        static const char line[] = "{\"method\":\"publish\",\"topic\":\"t\",\"text\":\"more\"}\n";
        static const int hows[] = { SHUT_WR, SHUT_RDWR, -1 };
        char lines[1500 * (sizeof(line) - 1)]; /* more than one read takes */
        for (size_t at = 0; at < sizeof(lines); at += sizeof(line) - 1)
                memcpy(lines + at, line, sizeof(line) - 1);
        for (size_t i = 0; i < ELEMENTSOF(hows); i++) {
                int a = client();
                n_published = 0;
                publish_result = -EAGAIN;
                say(a, "{\"method\":\"publish\",\"topic\":\"t\"}");
                run_for(20000);
                ck_assert_int_eq(fs_write_all(a, lines, sizeof(lines)), 0);
                if (hows[i] >= 0)
                        ck_assert_int_eq(shutdown(a, hows[i]), 0);
                else
                        (void)close(a);
                run_for(20000);
                localsock_resume(sock);
                run_for(20000);
                ck_assert_uint_eq(n_published, 0);
                ck_assert_uint_eq(localsock_n_clients(sock), 1);
                publish_result = 0;
                localsock_resume(sock);
                run_for(100000);
                ck_assert_uint_eq(n_published, 1501);
                if (hows[i] >= 0)
                        (void)close(a);
                run_for(20000);
                ck_assert_uint_eq(localsock_n_clients(sock), 0);
        }
}
END_TEST

/* Nobody is told that one who has left listens, or will answer. */
START_TEST(left_while_full)
{
        int a = client();
        say(a, "{\"method\":\"subscribe\",\"topic\":\"news\"}");
        expect(a, "{\"ok\":true}");
        say(a, "{\"method\":\"serve\",\"topic\":\"sum\"}");
        expect(a, "{\"ok\":true}");
        ck_assert_int_eq(localsock_call(sock, 70, "sum", 1, "?", 1, 0), 0);
        publish_result = -EAGAIN;
        say(a, "{\"method\":\"publish\",\"topic\":\"t\"}");
        run_for(20000);
        (void)close(a);
        run_for(20000);
        (void)localsock_deliver(sock, "news", 1, "x", 1);
        ck_assert_int_eq(called_error, WIRE_INTERRUPTED);
        ck_assert_uint_eq(n_called, 1);
        ck_assert_int_eq(localsock_deliver(sock, "news", 1, "x", 1), 0);
        ck_assert_int_eq(localsock_call(sock, 71, "sum", 1, "?", 1, 0), -ENOENT);
        publish_result = 0;
        localsock_resume(sock);
        run_for(20000);
        ck_assert_uint_eq(n_published, 1);
        ck_assert_uint_eq(localsock_n_clients(sock), 0);
}
END_TEST

/* It has not read its answers, and leaves behind the last of its lines. */
START_TEST(published_and_read_nothing)
{
        int a = client();
        unsigned n = 0;
        for (unsigned idle = 0; idle < 20;) {
                static const char line[] =
                        "{\"method\":\"publish\",\"topic\":\"t\",\"tag\":\"tttttttttttt\"}\n";
                if (send(a, line, strlen(line), MSG_DONTWAIT) == (ssize_t)strlen(line))
                        n++, idle = 0;
                else {
                        run_for(5000);
                        idle++;
                }
        }
        ck_assert_uint_lt(n_published, n);
        (void)close(a);
        run_for(100000);
        ck_assert_uint_eq(n_published, n);
        ck_assert_uint_eq(localsock_n_clients(sock), 0);
}
END_TEST

START_TEST(served)
{
        int a = client(), b = client();
        ck_assert_int_eq(localsock_call(sock, 70, "sum", 1, "1+1", 3, 0), -ENOENT);
        say(a, "{\"method\":\"serve\",\"topic\":\"sum\"}");
        expect(a, "{\"ok\":true}");
        say(b, "{\"method\":\"serve\",\"topic\":\"sum\"}");
        expect_error(b, "Exists");
        ck_assert_int_eq(localsock_call(sock, 71, "sum", 1, "1+1", 3, USEC_PER_SEC), 0);
        json_object *o = hear(a);
        ck_assert_str_eq(message_str(o, "event", ""), "call");
        ck_assert_str_eq(message_str(o, "text", ""), "1+1");
        char answer[128];
        long long number = message_int(o, "call", 0);
        json_object_put(o);
        (void)snprintf(answer, sizeof(answer), "{\"method\":\"answer\",\"call\":%lld,\"text\":\"2\"}",
                       number);
        say(b, answer); /* not its call */
        expect_error(b, "NotFound");
        say(a, answer);
        run_for(20000);
        ck_assert_uint_eq(n_called, 1);
        ck_assert_uint_eq(called_token, 71);
        ck_assert_int_eq(called_error, WIRE_OK);
        ck_assert_str_eq(last_payload, "2");
        say(a, answer); /* twice */
        expect_error(a, "NotFound");
        /* An error, a timeout, a server that goes. */
        ck_assert_int_eq(localsock_call(sock, 72, "sum", 2, "?", 1, USEC_PER_SEC), 0);
        o = hear(a);
        (void)snprintf(answer, sizeof(answer), "{\"method\":\"answer\",\"call\":%lld,\"error\":\"no sum\"}",
                       (long long)message_int(o, "call", 0));
        json_object_put(o);
        say(a, answer);
        run_for(20000);
        ck_assert_int_eq(called_error, WIRE_FAILED);
        ck_assert_str_eq(called_text, "no sum");
        ck_assert_int_eq(localsock_call(sock, 73, "sum", 3, "?", 1, 30000), 0);
        run_for(60000);
        ck_assert_uint_eq(called_token, 73);
        ck_assert_int_eq(called_error, WIRE_TIMEOUT);
        ck_assert_int_eq(localsock_call(sock, 74, "sum", 4, "?", 1, 0), 0);
        (void)close(a);
        run_for(20000);
        ck_assert_uint_eq(called_token, 74);
        ck_assert_int_eq(called_error, WIRE_INTERRUPTED);
        ck_assert_uint_eq(n_called, 4);
        say(b, "{\"method\":\"serve\",\"topic\":\"sum\"}");
        expect(b, "{\"ok\":true}");
        for (unsigned i = 0; i < LOCALSOCK_CALLS_MAX; i++)
                ck_assert_int_eq(localsock_call(sock, 100 + i, "sum", 5, "?", 1, 0), 0);
        ck_assert_int_eq(localsock_call(sock, 200, "sum", 5, "?", 1, 0), -ENOBUFS);
        (void)close(b);
}
END_TEST

START_TEST(calling)
{
        int a = client();
        say(a, "{\"method\":\"call\",\"topic\":\"time\",\"text\":\"?\",\"tag\":\"x\"}");
        run_for(20000);
        localsock_answer(sock, last_token + 1, WIRE_OK, "", "no", 2);
        localsock_answer(sock, last_token, WIRE_OK, "", "noon", 4);
        localsock_answer(sock, last_token, WIRE_OK, "", "noon", 4);
        expect(a, "{\"ok\":true,\"tag\":\"x\",\"text\":\"noon\"}");
        say(a, "{\"method\":\"call\",\"topic\":\"time\"}");
        run_for(20000);
        localsock_answer(sock, last_token, WIRE_NO_HANDLER, "nobody", NULL, 0);
        expect(a, "{\"error\":\"NoHandler\",\"message\":\"nobody\"}");
        call_result = WIRE_NOT_READY;
        say(a, "{\"method\":\"call\",\"topic\":\"time\"}");
        expect_error(a, "NotReady");
        call_result = WIRE_OK;
        say(a, "{\"method\":\"call\",\"topic\":\"time\",\"timeout\":30000}");
        expect_error(a, "Timeout");
        /* The half that it closes is not the half that hears the answer. */
        say(a, "{\"method\":\"call\",\"topic\":\"time\"}");
        ck_assert_int_eq(shutdown(a, SHUT_WR), 0);
        run_for(20000);
        localsock_answer(sock, last_token, WIRE_OK, "", "late", 4);
        expect(a, "{\"ok\":true,\"text\":\"late\"}");
        ck_assert_ptr_null(hear(a));
        (void)close(a);
        a = client();
        for (unsigned i = 0; i < LOCALSOCK_CALLS_MAX; i++)
                say(a, "{\"method\":\"call\",\"topic\":\"time\"}");
        say(a, "{\"method\":\"call\",\"topic\":\"time\"}");
        expect_error(a, "LimitsExceeded");
        (void)close(a);
        run_for(20000);
        localsock_answer(sock, last_token, WIRE_OK, "", "gone", 4);
        ck_assert_uint_eq(localsock_n_clients(sock), 0);
}
END_TEST

START_TEST(wrong_lines)
{
        static const struct {
                const char *line, *error;
        } table[] = {
                { "{}", "InvalidArgs" },
                { "{\"method\":\"subscribe\"}", "InvalidArgs" },
                { "{\"method\":\"subscribe\",\"topic\":\"a/b\"}", "InvalidArgs" },
                { "{\"method\":\"subscribe\",\"topic\":\"../x\"}", "InvalidArgs" },
                { "{\"method\":\"subscribe\",\"topic\":7}", "InvalidArgs" },
                { "{\"method\":\"dance\",\"topic\":\"a\"}", "Unsupported" },
                { "{\"method\":\"publish\",\"topic\":\"a\",\"text\":1}", "InvalidArgs" },
                { "{\"method\":\"publish\",\"topic\":\"a\",\"data64\":\"!\"}", "InvalidArgs" },
                { "{\"method\":\"publish\",\"topic\":\"a\",\"tag\":{}}", "InvalidArgs" },
                { "{\"method\":\"answer\",\"call\":1}", "NotFound" },
                { "{\"method\":\"answer\",\"call\":\"x\"}", "NotFound" },
        };
        int a = client();
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                say(a, table[i].line);
                expect_error(a, table[i].error);
        }
        char line[512];
        for (unsigned i = 0; i <= LOCALSOCK_TOPICS_MAX; i++) {
                (void)snprintf(line, sizeof(line), "{\"method\":\"subscribe\",\"topic\":\"t%u\"}", i);
                say(a, line);
                if (i < LOCALSOCK_TOPICS_MAX)
                        expect(a, "{\"ok\":true}");
                else
                        expect_error(a, "LimitsExceeded");
        }
        (void)close(a);
        ck_assert_uint_eq(n_published, 0);
}
END_TEST

START_TEST(garbage)
{
        static const char *const lines[] = {
                "hello",    "[1]",
                "{\"a\":",  "{\"method\":\"publish\"} x",
                "\xff\xfe", "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}"
        };
        for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
                int a = client();
                say(a, lines[i]);
                expect_error(a, "Protocol");
                ck_assert_ptr_null(hear(a));
                (void)close(a);
        }
        /* A line without end. */
        int a = client();
        static char buf[4096];
        memset(buf, 'x', sizeof(buf));
        for (size_t n = 0; n < LOCALSOCK_LINE_MAX + 65536;) {
                ssize_t k = send(a, buf, sizeof(buf), MSG_NOSIGNAL);
                if (k > 0)
                        n += (size_t)k;
                else if (errno == EAGAIN)
                        run_for(1000);
                else
                        break;
        }
        expect_error(a, "Protocol");
        (void)close(a);
        run_for(20000);
        ck_assert_uint_eq(localsock_n_clients(sock), 0);
}
END_TEST

START_TEST(who_does_not_read)
{
        static char payload[PAYLOAD_MAX];
        int a = client(), b = client();
        memset(payload, 'x', sizeof(payload));
        say(a, "{\"method\":\"subscribe\",\"topic\":\"news\"}");
        expect(a, "{\"ok\":true}");
        int r, n = 0;
        while ((r = localsock_deliver(sock, "news", 1, payload, sizeof(payload))) > 0)
                ck_assert_int_lt(n++, 100);
        ck_assert_int_eq(r, -ENOBUFS);
        /* Others are served meanwhile, and it has all that it was given if it reads after all. */
        say(b, "{\"method\":\"publish\",\"topic\":\"t\"}");
        expect(b, "{\"ok\":true,\"id\":1}");
        for (int i = 0; i < n; i++)
                json_object_put(hear(a));
        ck_assert_int_eq(localsock_deliver(sock, "news", 1, payload, sizeof(payload)), 1);
        json_object_put(hear(a));
        /* If it doesn't, it goes. */
        while ((r = localsock_deliver(sock, "news", 1, payload, sizeof(payload))) > 0)
                continue;
        run_for(LOCALSOCK_STUCK_USEC + 100000);
        ck_assert_int_eq(localsock_deliver(sock, "news", 1, payload, sizeof(payload)), 0);
        /* One that asks and asks, and never reads, is not listened to any more. */
        static const char question[] = "{\"method\":\"dance\",\"topic\":\"t\"}\n";
        size_t n_said = 0, n_question = sizeof(question) - 1;
        for (int idle = 0; idle < 20;) {
                size_t at = n_said % n_question;
                ssize_t k = send(b, question + at, n_question - at, MSG_NOSIGNAL);
                ck_assert(k > 0 || errno == EAGAIN);
                idle = k > 0 ? 0 : idle + 1;
                if (k > 0)
                        n_said += (size_t)k;
                else
                        run_for(5000);
                ck_assert_uint_lt(n_said, 16 * 1024 * 1024);
        }
        (void)close(a);
        (void)close(b);
        run_for(20000);
        ck_assert_uint_eq(localsock_n_clients(sock), 0);
}
END_TEST

START_TEST(so_many)
{
        int fds[LOCALSOCK_CLIENTS_MAX + 1];
        for (unsigned i = 0; i < LOCALSOCK_CLIENTS_MAX; i++) {
                fds[i] = client();
                run_for(2000);
        }
        ck_assert_uint_eq(localsock_n_clients(sock), LOCALSOCK_CLIENTS_MAX);
        fds[LOCALSOCK_CLIENTS_MAX] = client();
        ck_assert_ptr_null(hear(fds[LOCALSOCK_CLIENTS_MAX]));
        (void)close(fds[0]);
        run_for(20000);
        fds[0] = client();
        say(fds[0], "{\"method\":\"subscribe\",\"topic\":\"t\"}");
        expect(fds[0], "{\"ok\":true}");
        for (unsigned i = 0; i <= LOCALSOCK_CLIENTS_MAX; i++)
                (void)close(fds[i]);
}
END_TEST

SUITE_AROUND("localsock", setup, teardown, { subscribed }, { published }, { published_and_left },
             { published_and_left_while_full }, { left_while_full }, { published_and_read_nothing },
             { served }, { calling }, { wrong_lines }, { garbage }, { who_does_not_read }, { so_many })
