/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop: order of life and death of its sources, children, signals, and that it sleeps.
 */

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "guestd/loop.h"
#include "../suite.h"

typedef struct World {
        Loop *loop;
        LoopFd *sources[2];
        LoopTimer *timer;
        int pair[2][2];
        unsigned n_calls, n_times;
        int status, signal;
} World;

static World w;

static void setup(void)
{
        w = (World){ 0 };
        ck_assert_int_eq(loop_new(&w.loop), 0);
        for (int i = 0; i < 2; i++)
                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w.pair[i]), 0);
}

static void teardown(void)
{
        w.loop = loop_free(w.loop);
        for (int i = 0; i < 4; i++)
                (void)close(w.pair[i / 2][i % 2]);
}

static void on_time(void *userdata)
{
        w.n_times++;
        loop_stop(w.loop, 5);
}

static void stop_after(uint64_t usec)
{
        ck_assert_int_eq(loop_add_timer(w.loop, on_time, NULL, &w.timer), 0);
        loop_timer_set(w.timer, fs_now_usec() + usec);
        ck_assert_int_eq(loop_run(w.loop), 5);
}

static void on_fd_free_both(void *userdata, int fd, short revents)
{
        w.n_calls++;
        w.sources[0] = loop_fd_free(w.sources[0]);
        w.sources[1] = loop_fd_free(w.sources[1]);
}

START_TEST(a_source_may_free_itself_and_its_neighbour)
{
        for (int i = 0; i < 2; i++) {
                ck_assert_int_eq(
                        loop_add_fd(w.loop, w.pair[i][0], POLLIN, on_fd_free_both, NULL, &w.sources[i]), 0);
                ck_assert_int_eq(write(w.pair[i][1], "x", 1), 1);
        }
        stop_after(50000);
        ck_assert_uint_eq(w.n_calls, 1);
}
END_TEST

static void on_fd_count(void *userdata, int fd, short revents)
{
        char c;

        w.n_calls++;
        ck_assert_int_eq(read(fd, &c, 1), 1);
}

START_TEST(it_sleeps)
{
        ck_assert_int_eq(loop_add_fd(w.loop, w.pair[0][0], POLLIN, on_fd_count, NULL, &w.sources[0]), 0);
        ck_assert_int_eq(write(w.pair[0][1], "x", 1), 1);
        stop_after(200000);
        ck_assert_uint_eq(w.n_calls, 1);
        ck_assert_uint_le(loop_n_turns(w.loop), 3);
}
END_TEST

START_TEST(a_hangup_of_what_is_not_polled_does_not_spin)
{
        ck_assert_int_eq(loop_add_fd(w.loop, w.pair[0][0], 0, on_fd_count, NULL, &w.sources[0]), 0);
        (void)shutdown(w.pair[0][1], SHUT_RDWR);
        stop_after(100000);
        ck_assert_uint_eq(w.n_calls, 0);
        ck_assert_uint_le(loop_n_turns(w.loop), 2);
}
END_TEST

static void on_child(void *userdata, pid_t pid, int wait_status)
{
        w.status = wait_status;
        loop_stop(w.loop, 5);
}

START_TEST(children_get_only_what_they_are_given)
{
        const int keep[] = { w.pair[0][1] };
        int refused = open("/dev/null", O_RDONLY);

        pid_t pid = loop_fork(w.loop, keep, 1);
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                sigset_t mask;
                (void)sigprocmask(SIG_BLOCK, NULL, &mask);
                bool is_clean = !sigismember(&mask, SIGCHLD) && fcntl(w.pair[0][1], F_GETFD) >= 0 &&
                                fcntl(w.pair[0][0], F_GETFD) < 0 && fcntl(w.pair[1][0], F_GETFD) < 0 &&
                                fcntl(refused, F_GETFD) < 0 && fcntl(STDERR_FILENO, F_GETFD) >= 0;
                _exit(is_clean ? 42 : 1);
        }
        (void)close(refused);
        ck_assert_int_eq(loop_on_child(w.loop, pid, on_child, NULL), 0);
        ck_assert_int_eq(loop_run(w.loop), 5);
        ck_assert(WIFEXITED(w.status));
        ck_assert_int_eq(WEXITSTATUS(w.status), 42);
}
END_TEST

static void on_signal(void *userdata, int signal)
{
        w.signal = signal;
        loop_stop(w.loop, 5);
}

START_TEST(signals_arrive)
{
        ck_assert_int_eq(loop_on_signal(w.loop, SIGHUP, on_signal, NULL), 0);
        ck_assert_int_eq(kill(getpid(), SIGHUP), 0);
        ck_assert_int_eq(loop_run(w.loop), 5);
        ck_assert_int_eq(w.signal, SIGHUP);
}
END_TEST

SUITE_AROUND("guestd-loop", setup, teardown,
             { a_source_may_free_itself_and_its_neighbour },
             { it_sleeps },
             { a_hangup_of_what_is_not_polled_does_not_spin },
             { children_get_only_what_they_are_given },
             { signals_arrive })
