/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes of the new program are known by the inode that they execute, /proc/PID/exe: a service manager
 * may have restarted it meanwhile. Nothing but the old program's own code runs here, so a broken new one
 * cannot break this.
 */

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/rollback.h"

#define POLL_USEC (50 * USEC_PER_MSEC)
#define EXECUTE_USEC (10 * USEC_PER_SEC) /* from the fork to the execve(2) of the new program */
#define RESPAWN_USEC (8 * USEC_PER_SEC)  /* how long a service manager gets to start the old one */

static bool exe_of(pid_t pid, struct stat *ret)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
        return stat(path, ret) == 0; /* fails for zombies too */
}

static bool is_same(const struct stat *a, const struct stat *b)
{
        return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static void pause_briefly(void)
{
        (void)usleep(POLL_USEC);
}

/* True: the new program has spoken. */
static bool wait_for_word(const Rollback *r, const struct stat *fresh)
{
        uint64_t start = fs_now_usec();
        bool has_executed = false;

        for (;;) {
                uint64_t waited = fs_now_usec() - start;
                struct stat exe;

                if (access(ROLLBACK_MARKER, F_OK) < 0 && errno == ENOENT)
                        return true;
                if (waited > r->confirm_usec)
                        return false;
                bool is_there = exe_of(r->pid, &exe);
                bool is_fresh = is_there && is_same(&exe, fresh);
                has_executed |= is_fresh;
                if (!is_there || (has_executed && !is_fresh) || (!has_executed && waited > EXECUTE_USEC))
                        return false;
                pause_briefly();
        }
}

static void end_all(const struct stat *program)
{
        DIR *d = opendir("/proc");

        for (struct dirent *e; d && (e = readdir(d));) {
                pid_t pid = (pid_t)atoi(e->d_name);
                struct stat exe;
                if (pid > 1 && pid != getpid() && exe_of(pid, &exe) && is_same(&exe, program))
                        (void)kill(pid, SIGKILL);
        }
        if (d)
                (void)closedir(d);
}

/* Whether a guestd runs: it holds the lock as long as it lives. */
static bool is_running(void)
{
        _cleanup_close_ int fd = open(RUNTIME_DIR "/guestd.lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);

        return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static bool is_under_systemd(void)
{
        return getenv("INVOCATION_ID") && access("/run/systemd/system", F_OK) == 0;
}

static void systemctl(const char *verb)
{
        pid_t pid = fork();

        if (pid == 0) {
                (void)execlp("systemctl", "systemctl", "--no-block", verb, "vmferry-guestd.service",
                             (char *)NULL);
                _exit(127);
        }
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

static bool wait_running(uint64_t usec)
{
        uint64_t start = fs_now_usec();

        do {
                if (is_running())
                        return true;
                pause_briefly();
        } while (fs_now_usec() - start < usec);
        return false;
}

void rollback_watch(const Rollback *r)
{
        struct stat fresh;

        (void)prctl(PR_SET_NAME, "guestd-rollback");
        (void)setsid();
        if (stat(r->program, &fresh) < 0)
                _exit(EXIT_FAILURE);
        if (wait_for_word(r, &fresh))
                _exit(EXIT_SUCCESS);
        log_error("The new vmferry-guestd has not come into contact with the host: back to the old one");
        if (rename(r->old_program, r->program) < 0)
                log_error("%s: %s", r->program, strerror(errno));
        (void)unlink(ROLLBACK_MARKER);
        end_all(&fresh);
        if (wait_running(RESPAWN_USEC))
                _exit(EXIT_SUCCESS);
        if (is_under_systemd()) {
                systemctl("reset-failed");
                systemctl("restart");
                if (wait_running(RESPAWN_USEC))
                        _exit(EXIT_SUCCESS);
        }
        (void)execv(r->program, r->argv);
        _exit(EXIT_FAILURE);
}
