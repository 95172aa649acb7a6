/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handlers as real shell scripts in a directory of the test's own.
 */

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "guestd/handlers.h"
#include "guestd/log.h"
#include "proto/limits.h"
#include "../suite.h"

static char dir[] = "/tmp/vmferry-test-handlers-XXXXXX";
static Loop *loop;
static Config config;
static Handlers *handlers;
static LoopTimer *patience;

static struct {
        unsigned n;
        uint64_t token;
        WireError error;
        char text[512];
        uint8_t payload[PAYLOAD_MAX];
        size_t n_payload;
} ended;

static void on_done(void *userdata, uint64_t token, WireError error, const char *text, const void *payload,
                    size_t n)
{
        ended.n++;
        ended.token = token;
        ended.error = error;
        (void)snprintf(ended.text, sizeof(ended.text), "%s", text);
        memcpy(ended.payload, payload ? payload : "", n);
        ended.n_payload = n;
        loop_stop(loop, 1);
}

static void on_impatience(void *userdata)
{
        loop_stop(loop, 2);
}

static void setup(void)
{
        log_init("test", true);
        (void)signal(SIGPIPE, SIG_IGN);
        memset(&ended, 0, sizeof(ended));
        ck_assert_ptr_nonnull(mkdtemp(dir));
        ck_assert_int_eq(config_init(&config), 0);
        free(config.handlers_dir);
        config.handlers_dir = strdup(dir);
        ck_assert_int_eq(loop_new(&loop), 0);
        ck_assert_int_eq(handlers_new(loop, &config, on_done, NULL, &handlers), 0);
        ck_assert_int_eq(loop_add_timer(loop, on_impatience, NULL, &patience), 0);
}

static void teardown(void)
{
        char command[256];

        handlers = handlers_free(handlers);
        loop = loop_free(loop);
        config_done(&config);
        (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
        ck_assert_int_eq(system(command), 0);
        memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
}

static void add(const char *topic, const char *script, mode_t mode)
{
        char path[256], text[1024];

        (void)snprintf(path, sizeof(path), "%s/%s", dir, topic);
        (void)snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", script);
        ck_assert_int_eq(fs_write_file_atomic(path, text, strlen(text), mode), 0);
}

static void wait_for_end(void)
{
        loop_timer_set(patience, fs_now_usec() + 20 * USEC_PER_SEC);
        ck_assert_int_eq(loop_run(loop), 1);
        ck_assert_uint_eq(ended.n, 1);
        ck_assert_uint_eq(handlers_n_running(handlers), 0);
}

static int call(const char *topic, const void *payload, size_t n, uint64_t timeout_usec)
{
        return handlers_start(handlers, 77, HANDLER_CALL, topic, 12345678901234ULL, payload, n,
                              timeout_usec);
}

START_TEST(a_call_gets_stdout)
{
        add("echo", "cat; printf ' %s %s %s' $VMFERRY_TOPIC $VMFERRY_MESSAGE_ID $VMFERRY_KIND", 0755);
        ck_assert_int_eq(call("echo", "hello", 5, 0), 0);
        ck_assert_uint_eq(handlers_n_running(handlers), 1);
        wait_for_end();
        ck_assert_uint_eq(ended.token, 77);
        ck_assert_int_eq(ended.error, WIRE_OK);
        static const char expected[] = "hello echo 12345678901234 call";
        ck_assert_uint_eq(ended.n_payload, strlen(expected));
        ck_assert_mem_eq(ended.payload, expected, strlen(expected));
}
END_TEST

START_TEST(the_largest_payload_and_answer)
{
        static uint8_t payload[PAYLOAD_MAX];

        for (size_t i = 0; i < sizeof(payload); i++)
                payload[i] = (uint8_t)(i * 7);
        add("echo", "cat", 0755);
        ck_assert_int_eq(call("echo", payload, sizeof(payload), 0), 0);
        wait_for_end();
        ck_assert_int_eq(ended.error, WIRE_OK);
        ck_assert_uint_eq(ended.n_payload, sizeof(payload));
        ck_assert_mem_eq(ended.payload, payload, sizeof(payload));
}
END_TEST

START_TEST(one_byte_more_is_too_large)
{
        add("big", "head -c 65537 /dev/zero; sleep 100", 0755);
        ck_assert_int_eq(call("big", NULL, 0, 0), 0);
        wait_for_end();
        ck_assert_int_eq(ended.error, WIRE_TOO_LARGE);
        ck_assert_uint_eq(ended.n_payload, 0);
}
END_TEST

START_TEST(failure_has_the_first_line_of_stderr)
{
        add("fail", "echo 'no \033 luck' >&2; echo more >&2; exit 3", 0755);
        ck_assert_int_eq(call("fail", NULL, 0, 0), 0);
        wait_for_end();
        ck_assert_int_eq(ended.error, WIRE_FAILED);
        ck_assert_ptr_nonnull(strstr(ended.text, "status 3: no "));
        ck_assert_ptr_null(strchr(ended.text, '\033'));
        ck_assert_ptr_null(strstr(ended.text, "more"));
}
END_TEST

START_TEST(a_flood_on_stderr_and_a_closed_stdin)
{
        static uint8_t payload[PAYLOAD_MAX];

        add("rude", "exec 0<&-; head -c 1000000 /dev/zero >&2; echo done", 0755);
        ck_assert_int_eq(call("rude", payload, sizeof(payload), 0), 0);
        wait_for_end();
        ck_assert_int_eq(ended.error, WIRE_OK);
        ck_assert_mem_eq(ended.payload, "done\n", 5);
}
END_TEST

START_TEST(time_ends_the_whole_tree)
{
        char path[256], script[512];
        _cleanup_free_ char *text = NULL;
        size_t n;

        (void)snprintf(path, sizeof(path), "%s/pid", dir);
        (void)snprintf(script, sizeof(script), "setsid sh -c 'echo $$ > %s; sleep 1000' & sleep 1000", path);
        add("hang", script, 0755);
        ck_assert_int_eq(call("hang", NULL, 0, 500000), 0);
        wait_for_end();
        ck_assert_int_eq(ended.error, WIRE_TIMEOUT);
        ck_assert_int_eq(fs_read_file(path, 100, &text, &n), 0);
        ck_assert_int_lt(kill(atoi(text), 0), 0);
}
END_TEST

START_TEST(what_a_handler_leaves_behind_delays_nothing)
{
        add("daemon", "sleep 3 & echo started", 0755);
        uint64_t start = fs_now_usec();
        ck_assert_int_eq(call("daemon", NULL, 0, 0), 0);
        wait_for_end();
        ck_assert_uint_lt(fs_now_usec() - start, 2 * USEC_PER_SEC);
        ck_assert_int_eq(ended.error, WIRE_OK);
        ck_assert_mem_eq(ended.payload, "started\n", 8);
}
END_TEST

START_TEST(who_serves_not)
{
        add("off", "true", 0644);
        add(".hidden", "true", 0755);
        ck_assert_int_eq(call("none", NULL, 0, 0), -ENOENT);
        ck_assert_int_eq(call("../etc/passwd", NULL, 0, 0), -ENOENT);
        ck_assert_int_eq(call(".hidden", NULL, 0, 0), -ENOENT);
        ck_assert_int_eq(call("off", NULL, 0, 0), -EACCES);
        ck_assert_uint_eq(handlers_n_running(handlers), 0);
}
END_TEST

START_TEST(a_script_without_interpreter_fails)
{
        char path[256];

        (void)snprintf(path, sizeof(path), "%s/odd", dir);
        ck_assert_int_eq(fs_write_file_atomic(path, "#!/nonexistent\n", 15, 0755), 0);
        ck_assert_int_eq(call("odd", NULL, 0, 0), 0);
        wait_for_end();
        ck_assert_int_eq(ended.error, WIRE_FAILED);
        ck_assert_ptr_nonnull(strstr(ended.text, "cannot be executed"));
}
END_TEST

START_TEST(a_bounded_number_at_once)
{
        config.handlers_max = 2;
        add("slow", "sleep 100", 0755);
        ck_assert_int_eq(call("slow", NULL, 0, 0), 0);
        ck_assert_int_eq(call("slow", NULL, 0, 0), 0);
        ck_assert_int_eq(call("slow", NULL, 0, 0), -ENOBUFS);
}
END_TEST

SUITE_AROUND("guestd-handlers", setup, teardown,
             { a_call_gets_stdout },
             { the_largest_payload_and_answer },
             { one_byte_more_is_too_large },
             { failure_has_the_first_line_of_stderr },
             { a_flood_on_stderr_and_a_closed_stdin },
             { time_ends_the_whole_tree },
             { what_a_handler_leaves_behind_delays_nothing },
             { who_serves_not },
             { a_script_without_interpreter_fails },
             { a_bounded_number_at_once })
