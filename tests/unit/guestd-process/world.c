/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "world.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "proto/message.h"

#define PATIENCE_USEC (20 * USEC_PER_SEC)

World w;

static void on_reply(void *userdata, uint64_t token, json_object *reply)
{
        json_object_put(w.reply);
        w.reply = reply;
        w.n_replies++;
        loop_stop(w.loop, 0);
}

static void on_exited(void *userdata, json_object *notification)
{
        json_object_put(w.exited);
        w.exited = json_object_get(notification);
        w.n_exited++;
        loop_stop(w.loop, 0);
}

static void on_patience(void *userdata)
{
        ck_abort_msg("nothing happened in time");
}

void wait_until(const unsigned *counter, unsigned n)
{
        loop_timer_set(w.patience, fs_now_usec() + PATIENCE_USEC);
        while (*counter < n)
                ck_assert_int_eq(loop_run(w.loop), 0);
        loop_timer_set(w.patience, USEC_INFINITY);
}

static void on_pause(void *userdata)
{
        loop_stop(w.loop, 0);
        *(bool *)userdata = true;
}

void run_for(uint64_t usec)
{
        LoopTimer *t;
        bool over = false;
        ck_assert_int_eq(loop_add_timer(w.loop, on_pause, &over, &t), 0);
        loop_timer_set(t, fs_now_usec() + usec);
        while (!over)
                (void)loop_run(w.loop);
        (void)loop_timer_free(t);
}

void processes_up(uint64_t grace_usec)
{
        static const ProcessesOps ops = { on_reply, on_exited };
        ProcessesConfig config = {
                .jobs_dir = w.jobs_dir,
                .n_max = 8,
                .spool_bytes = 128 * 1024,
                .spool_keep_usec = 3600 * USEC_PER_SEC,
                .kill_grace_usec = grace_usec,
                .policy = &w.policy,
        };
        ck_assert_int_eq(processes_new(w.loop, &config, &ops, NULL, &w.processes), 0);
}

void setup(void)
{
        w = (World){ .jobs_dir = "/tmp/vmferry-test-jobs-XXXXXX" };
        ck_assert_ptr_nonnull(mkdtemp(w.jobs_dir));
        /* So that nothing of a test can get away unseen. */
        ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
        log_init("test", true);
        log_set_max_level(LOG_ERR);
        policy_init(&w.policy);
        ck_assert_int_eq(loop_new(&w.loop), 0);
        ck_assert_int_eq(loop_add_timer(w.loop, on_patience, NULL, &w.patience), 0);
        processes_up(USEC_PER_SEC / 2);
}

void teardown(void)
{
        w.processes = processes_free(w.processes);
        json_object_put(w.reply);
        json_object_put(w.exited);
        w.loop = loop_free(w.loop);
        policy_done(&w.policy);
        char command[128];
        (void)snprintf(command, sizeof(command), "rm -rf %s", w.jobs_dir);
        ck_assert_int_eq(system(command), 0);
}

const char *call(const char *method, const char *params)
{
        json_object *o = json_tokener_parse(params);
        ck_assert_msg(o, "%s", params);
        unsigned n = w.n_replies;
        process_call(w.processes, 1, method, o);
        json_object_put(o);
        wait_until(&w.n_replies, n + 1);
        return message_str(w.reply, "error", "");
}

const char *start(const char *params)
{
        return call("process.start", params);
}

/* sh -c script, with these further members. */
void start_script(const char *id, const char *script, const char *more)
{
        json_object *o = json_tokener_parse(more), *argv = json_object_new_array();
        (void)json_object_array_add(argv, json_object_new_string("sh"));
        (void)json_object_array_add(argv, json_object_new_string("-c"));
        (void)json_object_array_add(argv, json_object_new_string(script));
        (void)json_object_object_add(o, "argv", argv);
        (void)json_object_object_add(o, "id", json_object_new_string(id));
        ck_assert_str_eq(start(json_object_to_json_string(o)), "");
        json_object_put(o);
}

void read_all(int fd, char *buf, size_t n)
{
        size_t at = 0;
        for (;;) {
                ssize_t k = read(fd, buf + at, n - 1 - at);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        break;
                at += (size_t)k;
        }
        buf[at] = 0;
        (void)close(fd);
}

void take_output(const char *id, char *buf, size_t n)
{
        int in, out;
        ck_assert_int_eq(process_take_fds(w.processes, id, PROCESS_STDIO, &in, &out), 0);
        ck_assert_int_ge(out, 0);
        (void)fd_close(in);
        read_all(out, buf, n);
}

size_t count_dir(const char *path)
{
        DIR *dir = opendir(path);
        size_t n = 0;
        while (readdir(dir))
                n++;
        (void)closedir(dir);
        return n;
}

static bool has_children(void)
{
        siginfo_t info;
        return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

void wait_no_children(void)
{
        uint64_t deadline = fs_now_usec() + PATIENCE_USEC;
        while (has_children()) {
                ck_assert_msg(fs_now_usec() < deadline, "processes are left");
                run_for(20000);
        }
}

bool is_alive(pid_t pid)
{
        return kill(pid, 0) == 0;
}

pid_t read_pid(const char *name)
{
        char path[96];
        _cleanup_free_ char *text = NULL;
        (void)snprintf(path, sizeof(path), "%s.%s", w.jobs_dir, name);
        for (int i = 0; i < 500; i++) {
                size_t n = 0;
                free(TAKE(text));
                if (fs_read_file(path, 64, &text, &n) == 0 && n > 1) {
                        (void)unlink(path);
                        return (pid_t)strtol(text, NULL, 10);
                }
                run_for(10000);
        }
        ck_abort_msg("no pid in %s", path);
        return 0;
}

static const char hydra[] = "setsid sh -c 'echo $$ >%s.one; (trap \"\" TERM HUP; sh -c \"echo \\$\\$ "
                            ">%s.two; sleep 1000; sleep 1000\") "
                            "& sleep 1000' & sleep 1000";

void start_hydra(const char *id, const char *more, pid_t ret_pids[2])
{
        _cleanup_free_ char *script = NULL;
        ck_assert_int_gt(asprintf(&script, hydra, w.jobs_dir, w.jobs_dir), 0);
        start_script(id, script, more);
        ret_pids[0] = read_pid("one");
        ret_pids[1] = read_pid("two");
}
