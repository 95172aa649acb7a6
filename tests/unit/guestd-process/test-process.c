/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands, from the method to the last descendant, with real processes of this machine. VMFERRY_TEST_STARTS
 * sets how many starts the leak test makes.
 */
#include "world.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "../suite.h"

START_TEST(exit_status_and_signal)
{
        start_script("a1", "exit 7", "{}");
        ck_assert_int_gt(message_int(w.reply, "pid", 0), 1);
        ck_assert_int_eq(message_int(w.reply, "grace", 0), USEC_PER_SEC / 2);
        wait_until(&w.n_exited, 1);
        ck_assert_str_eq(message_str(w.exited, "id", ""), "a1");
        ck_assert_str_eq(message_str(w.exited, "method", ""), "process.exited");
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 7);
        start_script("a2", "kill -TERM $$", "{}");
        wait_until(&w.n_exited, 2);
        ck_assert_int_eq(message_int(w.exited, "exit_signal", -1), SIGTERM);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), -1);
        processes_resend(w.processes);
        ck_assert_uint_eq(w.n_exited, 4);
        ck_assert_str_eq(call("process.forget", "{\"id\":\"a1\"}"), "");
        processes_resend(w.processes);
        ck_assert_uint_eq(w.n_exited, 5);
        ck_assert_str_eq(call("process.forget", "{\"id\":\"a1\"}"), "NotFound");
        wait_no_children();
}
END_TEST

START_TEST(output_and_input)
{
        char buf[4096];
        int in, out, err, none;
        start_script("b1", "cat; echo done >&2; exit 3", "{\"stdin\":true,\"stdout\":true,\"stderr\":true}");
        ck_assert_int_eq(process_take_fds(w.processes, "b1", PROCESS_STDIO, &in, &out), 0);
        ck_assert_int_eq(process_take_fds(w.processes, "b1", PROCESS_STDIO, &none, &none), -EALREADY);
        ck_assert_int_eq(process_take_fds(w.processes, "b1", PROCESS_STDERR, &none, &err), 0);
        ck_assert_int_eq(process_take_fds(w.processes, "b1", PROCESS_SPOOL_STDOUT, &none, &none), -ENOENT);
        ck_assert_int_eq(process_take_fds(w.processes, "b9", PROCESS_STDIO, &none, &none), -ENOENT);
        ck_assert_int_eq(fs_write_all(in, "hello\n", 6), 0);
        (void)close(in);
        read_all(out, buf, sizeof(buf));
        ck_assert_str_eq(buf, "hello\n");
        read_all(err, buf, sizeof(buf));
        ck_assert_str_eq(buf, "done\n");
        wait_until(&w.n_exited, 1);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 3);
        /* Without streams: /dev/null. */
        start_script("b2", "read line; test $? = 1 && test /dev/null -ef /dev/stdout", "{}");
        wait_until(&w.n_exited, 2);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 0);
}
END_TEST

START_TEST(output_outlives_the_exit)
{
        char buf[64];
        start_script("b3", "(sleep 0.3; echo late) & echo early", "{\"stdout\":true}");
        wait_until(&w.n_exited, 1);
        take_output("b3", buf, sizeof(buf));
        ck_assert_str_eq(buf, "early\nlate\n");
        wait_no_children();
}
END_TEST

START_TEST(errors_are_told_apart)
{
        char *const no_commands[] = { NULL };
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"no-such-command-here\"]}"), "NotFound");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 127);
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"/etc/passwd\"]}"), "PermissionDenied");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 126);
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"/etc\"]}"), "PermissionDenied");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 126);
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"true\"],\"user\":\"no-such-user\"}"),
                         "InvalidArgs");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 0);
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"true\"],\"cwd\":\"/no/such/directory\"}"),
                         "InvalidPath");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 0);
        ck_assert_ptr_nonnull(strstr(message_str(w.reply, "message", ""), "directory"));
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"true\"],\"cwd\":\"/etc/passwd\"}"),
                         "InvalidPath");
        w.policy.exec_commands = (char **)no_commands;
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"true\"]}"), "PermissionDenied");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 0);
        w.policy.exec_commands = NULL;
        w.policy.exec_users = (char **)no_commands;
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"true\"]}"), "PermissionDenied");
        w.policy.exec_users = NULL;
        w.policy.allow[POLICY_EXEC] = false;
        ck_assert_str_eq(start("{\"id\":\"c1\",\"argv\":[\"true\"]}"), "PermissionDenied");
        ck_assert_uint_eq(w.n_exited, 0);
        wait_no_children();
}
END_TEST

/* What guestd itself lacks is neither a command that is not found nor one that may not be executed. */
START_TEST(own_failures)
{
        ck_assert_int_eq(rmdir(w.jobs_dir), 0);
        ck_assert_str_eq(start("{\"id\":\"c2\",\"argv\":[\"true\"],\"detach\":true}"), "Failed");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 0);
        ck_assert_int_eq(mkdir(w.jobs_dir, 0700), 0);
        /* Where root is nobody, and alone. */
        if (unshare(CLONE_NEWUSER) == 0)
                ck_assert_str_eq(start("{\"id\":\"c3\",\"argv\":[\"true\"],\"user\":\"2\"}"), "Failed");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 0);
        wait_no_children();
}
END_TEST

START_TEST(bad_requests)
{
        static const struct {
                const char *params, *error;
        } table[] = {
                { "{\"id\":\"d1\"}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[]}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"\"]}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":\"true\"}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[1]}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"a\\u0000b\"]}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"env\":{\"A=B\":\"x\"}}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"env\":{\"\":\"x\"}}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"env\":{\"A\":\"x\\u0000y\"}}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"env\":{\"A\":1}}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"env\":[]}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"cwd\":\"relative\"}", "InvalidPath" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"user\":\"\"}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"user\":\"-x\"}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"user\":\"4294967295\"}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"tty\":true,\"rows\":65536}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"tty\":true,\"columns\":-1}", "InvalidArgs" },
                { "{\"id\":\"d1\",\"argv\":[\"true\"],\"timeout\":-1}", "InvalidArgs" },
                { "{\"id\":\"../d1\",\"argv\":[\"true\"]}", "InvalidArgs" },
                { "{\"argv\":[\"true\"]}", "InvalidArgs" },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                ck_assert_msg(str_eq(start(table[i].params), table[i].error), "%s: %s", table[i].params,
                              message_str(w.reply, "error", "accepted"));
        ck_assert_str_eq(call("process.kill", "{\"id\":\"none\"}"), "NotFound");
        ck_assert_str_eq(call("process.resize", "{\"id\":\"none\"}"), "NotFound");
        ck_assert_str_eq(call("process.dance", "{}"), "Unsupported");
        start_script("d2", "sleep 100", "{}");
        ck_assert_str_eq(start("{\"id\":\"d2\",\"argv\":[\"true\"]}"), "Exists");
        ck_assert_str_eq(call("process.kill", "{\"id\":\"d2\",\"signal\":0}"), "InvalidArgs");
        ck_assert_str_eq(call("process.kill", "{\"id\":\"d2\",\"signal\":65}"), "InvalidArgs");
        ck_assert_str_eq(call("process.resize", "{\"id\":\"d2\",\"rows\":1,\"columns\":1}"), "InvalidArgs");
        ck_assert_str_eq(call("process.forget", "{\"id\":\"d2\"}"), "InvalidArgs");
        ck_assert_str_eq(call("process.kill", "{\"id\":\"d2\",\"signal\":9}"), "");
        wait_until(&w.n_exited, 1);
        wait_no_children();
        ck_assert_str_eq(call("process.kill", "{\"id\":\"d2\",\"signal\":9}"), "NotFound");
}
END_TEST

START_TEST(arguments_at_the_limit)
{
        static const int excess[] = { 0, 1 };
        for (size_t i = 0; i < ELEMENTSOF(excess); i++) {
                json_object *o = json_object_new_object(), *argv = json_object_new_array();
                for (unsigned k = 0; k < ARGV_MAX + (unsigned)excess[i]; k++)
                        (void)json_object_array_add(argv, json_object_new_string("true"));
                (void)json_object_object_add(o, "argv", argv);
                (void)json_object_object_add(o, "id", json_object_new_string("e1"));
                ck_assert_str_eq(start(json_object_to_json_string(o)), excess[i] ? "TooLarge" : "");
                json_object_put(o);

                size_t n = ARGV_BYTES_MAX - 5 - 1 + (size_t)excess[i];
                _cleanup_free_ char *arg = malloc(n + 1);
                memset(arg, 'x', n);
                arg[n] = 0;
                o = json_object_new_object(), argv = json_object_new_array();
                (void)json_object_array_add(argv, json_object_new_string("true"));
                (void)json_object_array_add(argv, json_object_new_string(arg));
                (void)json_object_object_add(o, "argv", argv);
                (void)json_object_object_add(o, "id", json_object_new_string("e2"));
                ck_assert_str_eq(start(json_object_to_json_string(o)), excess[i] ? "TooLarge" : "");
                json_object_put(o);
        }
        wait_until(&w.n_exited, 2);
}
END_TEST

START_TEST(environment_and_directory)
{
        char buf[4096];
        start_script(
                "f1",
                "echo $HOME $USER $LOGNAME $SHELL $EXTRA; pwd; id -u; umask; ps -o stat= -p $$ | grep -c s",
                "{\"stdout\":true,\"user\":\"root\",\"env\":{\"EXTRA\":\"a b\",\"HOME\":\"/else\"}}");
        take_output("f1", buf, sizeof(buf));
        ck_assert_str_eq(buf, "/else root root /bin/bash a b\n/root\n0\n0022\n1\n");
        start_script("f2", "pwd; echo $HOME", "{\"stdout\":true,\"cwd\":\"/usr\"}");
        take_output("f2", buf, sizeof(buf));
        ck_assert_str_eq(buf, "/usr\n/root\n");
        start_script("f7", "pwd -P", "{\"stdout\":true,\"cwd\":\"/usr/../usr//./bin/..\"}");
        take_output("f7", buf, sizeof(buf));
        ck_assert_str_eq(buf, "/usr\n");
        start_script(
                "f3",
                "id -un; id -u; id -gn; ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status",
                "{\"stdout\":true,\"user\":\"2\",\"cwd\":\"/\"}");
        take_output("f3", buf, sizeof(buf));
        ck_assert_str_eq(buf, "bin\n2\nbin\n4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
        /* The pipes are the user's, to be opened by name. */
        start_script("f6", "cat /dev/stdin; echo out >/dev/stdout; exec 2>&1; echo err >/dev/stderr",
                     "{\"stdin\":true,\"stdout\":true,\"user\":\"2\",\"cwd\":\"/\"}");
        take_output("f6", buf, sizeof(buf));
        ck_assert_str_eq(buf, "out\nerr\n");
        /* A script that names no interpreter isn't given to a shell. */
        char path[96], params[256];
        (void)snprintf(path, sizeof(path), "%s/script", w.jobs_dir);
        ck_assert_int_eq(fs_write_file_atomic(path, "echo hello\n", 11, 0755), 0);
        (void)snprintf(params, sizeof(params), "{\"id\":\"f4\",\"argv\":[\"%s\"]}", path);
        ck_assert_str_eq(start(params), "PermissionDenied");
        ck_assert_int_eq(message_int(w.reply, "exit_status", 0), 126);
        /* The PATH that counts is the command's. */
        (void)snprintf(params, sizeof(params),
                       "{\"id\":\"f5\",\"argv\":[\"true\"],\"env\":{\"PATH\":\"/nowhere\"}}");
        ck_assert_str_eq(start(params), "NotFound");
        wait_until(&w.n_exited, 5);
}
END_TEST

START_TEST(terminal)
{
        char buf[4096];
        int in, out;
        start_script(
                "0a",
                "trap 'stty size' WINCH; stty size; read line; echo got $line; tty; sleep 0.2; echo end",
                "{\"tty\":true,\"stdin\":true,\"stdout\":true,\"rows\":50,\"columns\":65535,\"user\":"
                "\"bin\",\"cwd\":\"/\"}");
        ck_assert_int_eq(process_take_fds(w.processes, "0a", PROCESS_STDIO, &in, &out), 0);
        ck_assert_int_eq(fs_write_all(in, "word\n", 5), 0);
        run_for(100000);
        ck_assert_str_eq(call("process.resize", "{\"id\":\"0a\",\"rows\":10,\"columns\":0}"), "");
        wait_until(&w.n_exited, 1);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 0);
        (void)close(in);
        read_all(out, buf, sizeof(buf));
        ck_assert_msg(strstr(buf, "50 65535\r\n"), "%s", buf);
        ck_assert_msg(strstr(buf, "got word\r\n/dev/pts/"), "%s", buf);
        ck_assert_msg(strstr(buf, "10 65535\r\n"), "%s", buf);
        ck_assert_msg(strstr(buf, "end\r\n"), "%s", buf);
        /* The master's end hangs it up. */
        start_script("0b", "sleep 100", "{\"tty\":true,\"stdin\":true,\"stdout\":true}");
        ck_assert_int_eq(process_take_fds(w.processes, "0b", PROCESS_STDIO, &in, &out), 0);
        (void)close(in);
        (void)close(out);
        wait_until(&w.n_exited, 2);
        ck_assert_int_eq(message_int(w.exited, "exit_signal", -1), SIGHUP);
        wait_no_children();
}
END_TEST

START_TEST(answered_when_done)
{
        char params[96], buf[4096];
        int in, out;
        start_script("0c", "stty -echo; echo ready; read line; kill -CONT $$; stty size",
                     "{\"tty\":true,\"stdin\":true,\"stdout\":true}");
        ck_assert_int_eq(process_take_fds(w.processes, "0c", PROCESS_STDIO, &in, &out), 0);
        ck_assert_int_gt(read(out, buf, sizeof(buf)), 0);
        for (unsigned i = 1; i <= 100; i++) {
                struct winsize size;
                (void)snprintf(params, sizeof(params), "{\"id\":\"0c\",\"rows\":%u,\"columns\":%u}", i,
                               i + 1);
                ck_assert_str_eq(call("process.resize", params), "");
                ck_assert_int_eq(ioctl(out, TIOCGWINSZ, &size), 0);
                ck_assert_uint_eq(size.ws_row, i);
                ck_assert_uint_eq(size.ws_col, i + 1);
        }
        ck_assert_str_eq(call("process.kill", "{\"id\":\"0c\",\"signal\":19}"), "");
        char path[64];
        _cleanup_free_ char *stat = NULL;
        json_object *list;
        ck_assert_str_eq(call("process.list", "{\"id\":\"0c\"}"), "");
        ck_assert(json_object_object_get_ex(w.reply, "processes", &list));
        (void)snprintf(path, sizeof(path), "/proc/%d/stat",
                       (int)message_int(json_object_array_get_idx(list, 0), "pid", 0));
        do { /* sent is not yet stopped */
                free(TAKE(stat));
                ck_assert_int_eq(fs_read_file(path, 4096, &stat, NULL), 0);
        } while (strrchr(stat, ')')[2] != 'T');
        ck_assert_str_eq(call("process.kill", "{\"id\":\"0c\",\"signal\":18}"), "");
        ck_assert_int_eq(fs_write_all(in, "\n", 1), 0);
        (void)close(in);
        read_all(out, buf, sizeof(buf));
        ck_assert_msg(strstr(buf, "100 101\r\n"), "%s", buf);
        wait_until(&w.n_exited, 1);
        wait_no_children();
        ck_assert_str_eq(call("process.resize", "{\"id\":\"0c\",\"rows\":1,\"columns\":1}"), "NotFound");
}
END_TEST

START_TEST(kill_ends_the_tree)
{
        pid_t pids[2];
        start_hydra("aa", "{\"stdout\":true}", pids);
        ck_assert_str_eq(call("process.kill", "{\"id\":\"aa\",\"signal\":15,\"tree\":true}"), "");
        wait_until(&w.n_exited, 1);
        ck_assert_int_eq(message_int(w.exited, "exit_signal", -1), SIGTERM);
        wait_no_children(); /* the one that ignores it too, after the grace */
        ck_assert(!is_alive(pids[0]) && !is_alive(pids[1]));
        start_hydra("ab", "{\"stdout\":true}", pids);
        ck_assert_str_eq(call("process.kill", "{\"id\":\"ab\",\"signal\":9}"), "");
        /* Its end is told behind that: who hears of it may forget it, and with it the question. */
        ck_assert_uint_eq(w.n_exited, 1);
        wait_no_children();
        ck_assert(!is_alive(pids[0]) && !is_alive(pids[1]));
        /* One signal to the command alone. */
        start_script("ac", "trap 'exit 5' USR1; while :; do sleep 0.05; done", "{}");
        run_for(100000);
        ck_assert_str_eq(call("process.kill", "{\"id\":\"ac\",\"signal\":10,\"tree\":false}"), "");
        wait_until(&w.n_exited, 3);
        ck_assert_int_eq(message_int(w.exited, "exit_status", -1), 5);
}
END_TEST

START_TEST(timeout_ends_the_tree)
{
        start_script("ba", "setsid sh -c \"sleep 1000 & sleep 1000\"",
                     "{\"stdout\":true,\"stderr\":true,\"timeout\":200000}");
        wait_until(&w.n_exited, 1);
        if (!message_bool(w.exited, "timed_out", false)) /* setsid forked, and the command ended at once */
                wait_until(&w.n_exited, 2);
        ck_assert(message_bool(w.exited, "timed_out", false));
        wait_no_children();
}
END_TEST

START_TEST(what_is_left_behind_is_left_alone)
{
        start_script("bb", "sleep 1000 >/dev/null 2>&1 & echo $!", "{\"stdout\":true,\"timeout\":300000}");
        char buf[64];
        take_output("bb", buf, sizeof(buf));
        pid_t pid = (pid_t)strtol(buf, NULL, 10);
        wait_until(&w.n_exited, 1);
        run_for(600000);
        ck_assert_uint_eq(w.n_exited, 1);
        /* The supervisor looks again after a second if it saw the child before its redirection. */
        for (int i = 0; i < 300 && processes_n_running(w.processes) > 0; i++)
                run_for(20000);
        ck_assert_uint_eq(processes_n_running(w.processes), 0);
        ck_assert(is_alive(pid));
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        wait_no_children();
}
END_TEST

/* Pages follow each other by the processes' own numbers: what is forgotten in between moves nothing. */
START_TEST(list_by_id_and_in_pages)
{
        enum { N = 150 };
        char params[1024], id[16], word[513];
        memset(word, '\\', sizeof(word) - 1);
        word[sizeof(word) - 1] = 0;
        for (unsigned i = 1; i <= N; i++) {
                (void)snprintf(params, sizeof(params), "{\"id\":\"%x\",\"argv\":[\"true\",\"%s\"]}", i,
                               word);
                ck_assert_str_eq(start(params), "");
                wait_until(&w.n_exited, i);
        }
        json_object *list;
        ck_assert_str_eq(call("process.list", "{\"id\":\"7f\"}"), "");
        ck_assert(json_object_object_get_ex(w.reply, "processes", &list));
        ck_assert_uint_eq(json_object_array_length(list), 1);
        ck_assert_str_eq(message_str(json_object_array_get_idx(list, 0), "id", ""), "7f");
        ck_assert_str_eq(message_str(json_object_array_get_idx(list, 0), "state", ""), "exited");
        ck_assert_str_eq(call("process.list", "{\"id\":\"no-such\"}"), "");
        ck_assert(json_object_object_get_ex(w.reply, "processes", &list));
        ck_assert_uint_eq(json_object_array_length(list), 0);

        unsigned n_pages = 0, n_seen = 0;
        for (int64_t from = 0; n_pages == 0 || from > 0; n_pages++) {
                (void)snprintf(params, sizeof(params), "{\"from\":%lld}", (long long)from);
                ck_assert_str_eq(call("process.list", params), "");
                from = message_int(w.reply, "next", 0);
                ck_assert(json_object_object_get_ex(w.reply, "processes", &list));
                ck_assert_uint_lt(strlen(json_object_to_json_string(w.reply)), MESSAGE_JSON_MAX);
                for (size_t i = 0; i < json_object_array_length(list); i++) {
                        (void)snprintf(id, sizeof(id), "%x", ++n_seen);
                        ck_assert_str_eq(message_str(json_object_array_get_idx(list, i), "id", ""), id);
                }
                /* All that was seen so far but the last, which is where the next page begins behind. */
                for (unsigned i = 1; i < n_seen; i++) {
                        (void)snprintf(params, sizeof(params), "{\"id\":\"%x\"}", i);
                        (void)call("process.forget", params);
                }
        }
        ck_assert_uint_gt(n_pages, 1);
        ck_assert_uint_eq(n_seen, N);
        wait_no_children();
}
END_TEST

START_TEST(at_most_so_many)
{
        for (unsigned i = 0; i < 8; i++) {
                char id[16];
                (void)snprintf(id, sizeof(id), "ea%x", i);
                start_script(id, "sleep 100", "{}");
        }
        ck_assert_str_eq(start("{\"id\":\"eb\",\"argv\":[\"true\"]}"), "LimitsExceeded");
        processes_end_attached(w.processes);
        wait_until(&w.n_exited, 8);
        wait_no_children();
        ck_assert_str_eq(start("{\"id\":\"eb\",\"argv\":[\"true\"]}"), "");
}
END_TEST

START_TEST(nothing_leaks)
{
        const char *text = getenv("VMFERRY_TEST_STARTS");
        unsigned n = text ? (unsigned)strtoul(text, NULL, 10) : 300;
        size_t n_fds = 0;
        for (unsigned i = 0; i < n; i++) {
                char id[16], params[64], buf[32];
                int in, out;
                unsigned n_exited = w.n_exited;
                (void)snprintf(id, sizeof(id), "%x", i + 1);
                static const char *const kinds[] = { "{\"stdout\":true,\"stderr\":true}",
                                                     "{\"stdin\":true,\"stdout\":true,\"tty\":true}",
                                                     "{\"stdin\":true}", "{\"detach\":true}" };
                start_script(id, "echo hello", kinds[i % 4]);
                wait_until(&w.n_exited, n_exited + 1);
                if (i % 4 == 0)
                        take_output(id, buf, sizeof(buf));
                if (i % 4 == 3) {
                        ck_assert_int_eq(process_take_fds(w.processes, id, PROCESS_SPOOL_STDOUT, &in, &out),
                                         0);
                        read_all(out, buf, sizeof(buf));
                        ck_assert_str_eq(buf, "hello\n");
                }
                (void)snprintf(params, sizeof(params), "{\"id\":\"%s\"}", id);
                ck_assert_str_eq(call("process.forget", params), "");
                if (i == 99 || i == n - 1) {
                        wait_no_children();
                        if (i == 99)
                                n_fds = count_dir("/proc/self/fd");
                }
        }
        if (n > 100)
                ck_assert_uint_eq(count_dir("/proc/self/fd"), n_fds);
        ck_assert_uint_eq(count_dir(w.jobs_dir), 2);
}
END_TEST

SUITE_AROUND("process", setup, teardown,
             { exit_status_and_signal },
             { output_and_input },
             { output_outlives_the_exit },
             { errors_are_told_apart },
             { own_failures },
             { bad_requests },
             { arguments_at_the_limit },
             { environment_and_directory },
             { terminal },
             { answered_when_done },
             { kill_ends_the_tree },
             { timeout_ends_the_tree },
             { what_is_left_behind_is_left_alone },
             { list_by_id_and_in_pages },
             { at_most_so_many },
             { nothing_leaks })
