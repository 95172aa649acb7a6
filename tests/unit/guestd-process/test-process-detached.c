/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands that outlive guestd, and what becomes of those that do not. */
#include "world.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <stdlib.h>

#include "base/fs.h"
#include "proto/message.h"
#include "../suite.h"

START_TEST(guestd_ends)
{
        pid_t pids[2], detached;
        start_hydra("ca", "{\"stdout\":true}", pids);
        _cleanup_free_ char *script = NULL;
        ck_assert_int_gt(asprintf(&script, "echo $$ >%s.pid; sleep 1000", w.jobs_dir), 0);
        start_script("cb", script, "{\"detach\":true}");
        detached = read_pid("pid");
        w.processes = processes_free(w.processes);
        for (int i = 0; i < 500 && (is_alive(pids[0]) || is_alive(pids[1])); i++)
                run_for(20000);
        ck_assert(!is_alive(pids[0]) && !is_alive(pids[1]));
        ck_assert(is_alive(detached));
        processes_up(USEC_PER_SEC / 2);
        run_for(50000);
        ck_assert_str_eq(call("process.list", "{}"), "");
        json_object *list = message_obj(w.reply, "processes"), *o = NULL;
        (void)json_object_object_get_ex(w.reply, "processes", &list);
        ck_assert_uint_eq(json_object_array_length(list), 1);
        o = json_object_array_get_idx(list, 0);
        ck_assert_str_eq(message_str(o, "id", ""), "cb");
        ck_assert_str_eq(message_str(o, "state", ""), "running");
        ck_assert_int_eq(message_int(o, "pid", 0), detached);
        ck_assert(message_bool(o, "detached", false));
        ck_assert_str_eq(call("process.kill", "{\"id\":\"cb\"}"), "");
        wait_until(&w.n_exited, 1);
        ck_assert_int_eq(message_int(w.exited, "exit_signal", -1), SIGTERM);
        wait_no_children();
}
END_TEST

START_TEST(supervisor_is_killed)
{
        pid_t pids[2];
        start_hydra("cc", "{\"stdout\":true}", pids);
        pid_t command = (pid_t)message_int(w.reply, "pid", 0), supervisor = 0;
        char path[64];
        _cleanup_free_ char *stat = NULL;
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)command);
        ck_assert_int_eq(fs_read_file(path, 4096, &stat, NULL), 0);
        supervisor = (pid_t)strtol(strrchr(stat, ')') + 4, NULL, 10);
        ck_assert_int_eq(kill(supervisor, SIGKILL), 0);
        wait_until(&w.n_exited, 1);
        ck_assert_int_eq(message_int(w.exited, "exit_signal", -1), SIGKILL);
        for (int i = 0; i < 500 && is_alive(command); i++)
                run_for(10000);
        ck_assert(!is_alive(command));
        for (int i = 0; i < 2; i++) /* where no cgroup could be made, the rest of the tree is nobody's */
                (void)kill(-pids[i], SIGKILL), (void)kill(pids[i], SIGKILL);
}
END_TEST

static void kill_supervisor(pid_t supervisor)
{
        ck_assert_int_eq(kill(supervisor, SIGKILL), 0);
        for (int i = 0; i < 500 && processes_n_running(w.processes) > 0; i++)
                run_for(10000);
        ck_assert_uint_eq(processes_n_running(w.processes), 0);
}

/* The command has ended by itself and left something: nobody is to end that, guestd's next start neither. */
START_TEST(left_behind_over_a_restart)
{
        _cleanup_free_ char *script = NULL;
        ck_assert_int_gt(asprintf(&script,
                                  "sleep 1000 & echo $! >%s.left; echo $PPID >%s.supervisor; exit 3",
                                  w.jobs_dir, w.jobs_dir),
                         0);
        start_script("ce", script, "{\"detach\":true}");
        pid_t left = read_pid("left");
        wait_until(&w.n_exited, 1);
        kill_supervisor(read_pid("supervisor"));
        w.processes = processes_free(w.processes);
        processes_up(USEC_PER_SEC / 2);
        processes_resend(w.processes);
        ck_assert_uint_eq(w.n_exited, 2);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 3);
        run_for(100000);
        ck_assert(waitpid(left, NULL, WNOHANG) == 0);
        ck_assert_int_eq(kill(left, SIGKILL), 0);
        wait_no_children();
}
END_TEST

START_TEST(detached_output_is_kept)
{
        char buf[4096];
        int in, out;
        start_script("da", "echo one; echo err >&2; sleep 0.4; echo two; exit 9", "{\"detach\":true}");
        ck_assert_int_eq(process_take_fds(w.processes, "da", PROCESS_STDIO, &in, &out), -ENOENT);
        ck_assert_int_eq(process_take_fds(w.processes, "da", PROCESS_SPOOL_STDOUT, &in, &out), 0);
        read_all(out, buf, sizeof(buf)); /* followed to the end */
        ck_assert_str_eq(buf, "one\ntwo\n");
        wait_until(&w.n_exited, 1);
        for (int i = 0; i < 2; i++) {
                ck_assert_int_eq(process_take_fds(w.processes, "da", PROCESS_SPOOL_STDERR, &in, &out), 0);
                read_all(out, buf, sizeof(buf));
                ck_assert_str_eq(buf, "err\n");
        }
        wait_no_children();
        /* Another guestd has the status, and the output. */
        w.processes = processes_free(w.processes);
        processes_up(USEC_PER_SEC);
        processes_resend(w.processes);
        ck_assert_uint_eq(w.n_exited, 2);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 9);
        ck_assert_int_eq(process_take_fds(w.processes, "da", PROCESS_SPOOL_STDOUT, &in, &out), 0);
        read_all(out, buf, sizeof(buf));
        ck_assert_str_eq(buf, "one\ntwo\n");
        ck_assert_str_eq(call("process.forget", "{\"id\":\"da\"}"), "");
        ck_assert_uint_eq(count_dir(w.jobs_dir), 2);
        wait_no_children();
}
END_TEST

START_TEST(detached_output_is_bounded)
{
        static char buf[512 * 1024];
        int in, out;
        start_script("db", "seq 1 100000", "{\"detach\":true}");
        wait_until(&w.n_exited, 1);
        wait_no_children();
        ck_assert_int_eq(process_take_fds(w.processes, "db", PROCESS_SPOOL_STDOUT, &in, &out), 0);
        read_all(out, buf, sizeof(buf));
        unsigned long long n_lost = 0;
        ck_assert_int_eq(sscanf(buf, "\n[vmferry: %llu bytes of output are lost]\n", &n_lost), 1);
        const char *rest = strchr(buf + 1, '\n') + 1;
        ck_assert_uint_eq(n_lost + strlen(rest), 588895);
        ck_assert_uint_le(strlen(rest), 128 * 1024);
        ck_assert_uint_ge(strlen(rest), 128 * 1024 / 8 * 7);
        ck_assert_str_eq(rest + strlen(rest) - 7, "100000\n");
        ck_assert_str_eq(call("process.list", "{}"), "");
        json_object *list;
        ck_assert(json_object_object_get_ex(w.reply, "processes", &list));
        ck_assert_int_eq(message_int(json_object_array_get_idx(list, 0), "stdout_lost", 0), (int64_t)n_lost);
}
END_TEST

START_TEST(detached_with_a_terminal)
{
        char buf[256];
        int in, out;
        start_script("dc", "tty >/dev/null && echo yes; read line; echo got $line",
                     "{\"detach\":true,\"tty\":true,\"stdin\":true}");
        ck_assert_int_eq(process_take_fds(w.processes, "dc", PROCESS_STDIO, &in, &out), 0);
        ck_assert_int_lt(out, 0);
        ck_assert_int_eq(fs_write_all(in, "x\n", 2), 0);
        wait_until(&w.n_exited, 1);
        ck_assert_int_eq(process_take_fds(w.processes, "dc", PROCESS_SPOOL_STDOUT, &out, &out), 0);
        (void)close(in);
        read_all(out, buf, sizeof(buf));
        ck_assert_ptr_nonnull(strstr(buf, "yes\r\n"));
        ck_assert_ptr_nonnull(strstr(buf, "got x\r\n"));
        wait_no_children();
}
END_TEST

START_TEST(a_follower_ends_with_its_reader)
{
        int in, out;
        start_script("dd", "sleep 1000", "{\"detach\":true}");
        for (int i = 0; i < 40; i++) { /* more than a supervisor serves at once */
                ck_assert_int_eq(process_take_fds(w.processes, "dd", PROCESS_SPOOL_STDOUT, &in, &out), 0);
                (void)close(out);
        }
        run_for(200000);
        ck_assert_str_eq(call("process.kill", "{\"id\":\"dd\",\"signal\":9}"), "");
        wait_until(&w.n_exited, 1);
        wait_no_children();
}
END_TEST

SUITE_AROUND("process-detached", setup, teardown,
             { guestd_ends },
             { supervisor_is_killed },
             { left_behind_over_a_restart },
             { detached_output_is_kept },
             { detached_output_is_bounded },
             { detached_with_a_terminal },
             { a_follower_ends_with_its_reader })
