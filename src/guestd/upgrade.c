/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The new program is copied before it is checked: what was checked is what is put in place, whoever else can
 * write to where it came from. Its test is a run of --version in a child: a program for another machine,
 * with a library that is missing, that crashes or hangs at once ends there.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/rollback.h"
#include "guestd/upgrade.h"
#include "proto/limits.h"
#include "proto/name.h"

#define PROGRAM_SIZE_MAX (64 * 1024 * 1024)
#define TRIAL_USEC (10 * USEC_PER_SEC)
#define VERSION_WORD "vmferry-guestd "

struct Upgrade {
        Loop *loop;
        const UpgradeOps *ops;
        void *userdata;
        bool is_busy, is_done;
        uint64_t token, confirm_usec;
        char *source, *fresh; /* fresh: the copy, beside the program */
        char digest[DIGEST_TEXT_SIZE];
        pid_t trial;
        int output;
        LoopTimer *patience;
        bool has_timed_out;
};

/* Of this process: known from its start, for /proc/self/exe names a file that has been replaced by another
 * name. */
static char *own_path;
static char own_build[DIGEST_TEXT_SIZE];
static char **own_argv;

static int file_digest(int from, int to, char ret[DIGEST_TEXT_SIZE])
{
        _cleanup_free_ uint8_t *buf = malloc(65536);
        Digest *d = buf ? digest_new() : NULL;
        uint64_t n = 0;
        int r = d ? 0 : -ENOMEM;

        while (r == 0) {
                ssize_t k = read(from, buf, 65536);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        r = -errno;
                if (k <= 0)
                        break;
                n += (uint64_t)k;
                digest_update(d, buf, (size_t)k);
                if (n > PROGRAM_SIZE_MAX)
                        r = -EFBIG;
                else if (to >= 0)
                        r = fs_write_all(to, buf, (size_t)k);
        }
        if (r == 0)
                digest_format(digest_value(d), ret);
        (void)digest_free(d);
        return r;
}

void upgrade_init(char **argv)
{
        char path[PATH_BYTES_MAX + 1];
        ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
        _cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

        own_argv = argv;
        if (n > 0) {
                static const char deleted[] = " (deleted)";
                size_t n_deleted = sizeof(deleted) - 1;
                path[n] = '\0';
                if ((size_t)n > n_deleted && strcmp(path + n - n_deleted, deleted) == 0)
                        path[(size_t)n - n_deleted] = '\0';
                own_path = strdup(path);
        }
        if (fd < 0 || file_digest(fd, -1, own_build) < 0)
                own_build[0] = '\0';
}

const char *upgrade_build(void)
{
        return own_build;
}

/* As it was started, but for going to the background: that was done, and would change the pid. */
static char **restart_argv(void)
{
        size_t n = 0, k = 0;

        while (own_argv && own_argv[n])
                n++;
        char **argv = calloc(n + 2, sizeof(char *));
        if (!argv)
                return NULL;
        for (size_t i = 0; i < n; i++)
                if (i == 0 || strlen(own_argv[i]) < strlen("--dae") ||
                    !str_has_prefix("--daemon", own_argv[i]))
                        argv[k++] = own_argv[i];
        if (k == 0)
                argv[0] = own_path;
        return argv;
}

int upgrade_execute(void)
{
        _cleanup_free_ char **argv = restart_argv();
        sigset_t none;

        if (!argv || !own_path)
                return -ENOMEM;
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)execv(own_path, argv);
        return -errno;
}

void upgrade_confirm(void)
{
        _cleanup_free_ char *text = NULL;
        size_t n;

        if (!own_build[0] || fs_read_file(ROLLBACK_MARKER, 128, &text, &n) < 0)
                return;
        text[strcspn(text, "\n")] = '\0';
        if (str_eq(text, own_build) && unlink(ROLLBACK_MARKER) == 0)
                log_notice("Upgraded: this is vmferry-guestd " VMFERRY_VERSION " (%s)", own_build);
}

static void upgrade_finish(Upgrade *u, WireError error, const char *text)
{
        uint64_t token = u->token;

        loop_timer_set(u->patience, USEC_INFINITY);
        u->output = fd_close(u->output);
        if (error != WIRE_OK && u->fresh)
                (void)unlink(u->fresh);
        /* Whatever else the host has named is not ours to remove when nothing came of it. */
        if (u->source && (error == WIRE_OK || str_eq(u->source, NAME_UPGRADE_STAGE)))
                (void)unlink(u->source);
        free(TAKE(u->fresh));
        free(TAKE(u->source));
        u->trial = 0;
        u->is_busy = false;
        u->is_done = error == WIRE_OK;
        log_audit("upgrade", NULL, error == WIRE_OK ? "ok" : wire_error_to_string(error), "digest=%s",
                  u->digest);
        u->ops->done(u->userdata, token, error, text);
}

static void upgrade_fail(Upgrade *u, WireError error, const char *format, ...) _printf_(3, 4);
static void upgrade_fail(Upgrade *u, WireError error, const char *format, ...)
{
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        upgrade_finish(u, error, text);
}

static int sync_directory_of(const char *path)
{
        _cleanup_free_ char *name = NULL;
        _cleanup_close_ int fd = fs_open_parent(path, &name);

        return fd < 0 ? fd : fsync(fd) < 0 ? -errno : 0;
}

/* The old one keeps its name until the rename: there is a vmferry-guestd at every moment. */
static int swap(const char *old, const char *fresh)
{
        if (unlink(old) < 0 && errno != ENOENT)
                return -errno;
        if (link(own_path, old) < 0)
                return -errno;
        if (rename(fresh, own_path) < 0) {
                int r = -errno;
                (void)unlink(old);
                return r;
        }
        return sync_directory_of(own_path);
}

static int start_watcher(Upgrade *u, const char *old, char **argv)
{
        Rollback rollback = { .program = own_path,
                              .old_program = old,
                              .argv = argv,
                              .pid = getpid(),
                              .confirm_usec = u->confirm_usec };
        pid_t pid = loop_fork(u->loop, NULL, 0);

        if (pid == 0)
                rollback_watch(&rollback);
        return pid < 0 ? (int)pid : 0;
}

static void put_in_place(Upgrade *u, const char *version)
{
        _cleanup_free_ char *old = NULL;
        _cleanup_free_ char **argv = restart_argv();

        if (!argv || asprintf(&old, "%s.old", own_path) < 0) {
                old = NULL;
                upgrade_fail(u, WIRE_FAILED, "The guest has no memory for an upgrade");
                return;
        }
        int r = fs_write_file_atomic(ROLLBACK_MARKER, u->digest, strlen(u->digest), 0600);
        if (r < 0) {
                upgrade_fail(u, wire_error_from_errno(-r), "%s: %s: without it there would be no way back",
                             ROLLBACK_MARKER, strerror(-r));
                return;
        }
        r = swap(old, u->fresh);
        if (r == 0) {
                r = start_watcher(u, old, argv);
                if (r < 0)
                        (void)rename(old, own_path);
        }
        if (r < 0) {
                (void)unlink(ROLLBACK_MARKER);
                upgrade_fail(u, wire_error_from_errno(-r), "%s cannot be replaced: %s", own_path,
                             strerror(-r));
                return;
        }
        upgrade_finish(u, WIRE_OK, version);
}

static void on_trial_ended(void *userdata, pid_t pid, int status)
{
        Upgrade *u = userdata;
        char text[128];

        u->trial = 0;
        ssize_t n = read(u->output, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = '\0';
        text[strcspn(text, "\n")] = '\0';
        if (u->has_timed_out)
                upgrade_fail(u, WIRE_TIMEOUT,
                             "The new program hangs in this guest: no answer to --version in %u seconds",
                             (unsigned)(TRIAL_USEC / USEC_PER_SEC));
        else if (WIFSIGNALED(status))
                upgrade_fail(u, WIRE_INCOMPATIBLE, "The new program crashes in this guest (signal %d)",
                             WTERMSIG(status));
        else if (WEXITSTATUS(status) == 126)
                upgrade_fail(u, WIRE_INCOMPATIBLE,
                             "The new program cannot be executed in this guest: it is for another "
                             "architecture or system");
        else if (WEXITSTATUS(status) != 0)
                upgrade_fail(u, WIRE_INCOMPATIBLE,
                             "The new program fails in this guest (--version ends with status %d)",
                             WEXITSTATUS(status));
        else if (!str_has_prefix(text, VERSION_WORD) || !name_is_text(text, FACT_BYTES_MAX))
                upgrade_fail(u, WIRE_INCOMPATIBLE, "The new program is no vmferry-guestd");
        else
                put_in_place(u, text + strlen(VERSION_WORD));
}

static void on_patience(void *userdata)
{
        Upgrade *u = userdata;

        u->has_timed_out = true;
        if (u->trial > 0)
                (void)kill(u->trial, SIGKILL);
}

static _Noreturn void try_out(const char *program, int out)
{
        char *const argv[] = { (char *)program, (char *)"--version", NULL };
        char *const env[] = { NULL };

        (void)setsid();
        if (dup2(out, STDOUT_FILENO) < 0)
                _exit(125);
        (void)execve(program, argv, env);
        _exit(126);
}

static int start_trial(Upgrade *u)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        _cleanup_close_ int in = fds[0], out = fds[1];
        pid_t pid = loop_fork(u->loop, &out, 1);
        if (pid < 0)
                return (int)pid;
        if (pid == 0)
                try_out(u->fresh, out);
        int r = loop_on_child(u->loop, pid, on_trial_ended, u);
        if (r < 0) {
                (void)kill(pid, SIGKILL);
                return r;
        }
        u->trial = pid;
        u->output = TAKE_FD(in);
        u->has_timed_out = false;
        loop_timer_set(u->patience, loop_now(u->loop) + TRIAL_USEC);
        return 0;
}

/* 0, -errno; -EBADMSG: another digest. */
static int copy_program(Upgrade *u, const char *source, const char *digest)
{
        _cleanup_close_ int from = open(source, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat st;

        if (from < 0 || fstat(from, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        (void)unlink(u->fresh);
        _cleanup_close_ int to = open(u->fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0755);
        if (to < 0)
                return -errno;
        int r = file_digest(from, to, u->digest);
        if (r == 0 && (fchmod(to, 0755) < 0 || fsync(to) < 0))
                r = -errno;
        if (r == 0 && !str_eq(u->digest, digest))
                r = -EBADMSG;
        return r;
}

void upgrade_start(Upgrade *u, uint64_t token, const char *untrusted_path, const char *untrusted_digest,
                   uint64_t confirm_usec)
{
        if (u->is_busy || u->is_done) {
                u->ops->done(u->userdata, token, WIRE_EXISTS,
                             "An upgrade of this guest's daemon is under way already");
                return;
        }
        if (!own_path) {
                u->ops->done(u->userdata, token, WIRE_UNSUPPORTED,
                             "This guest's daemon does not know its own file: /proc is missing");
                return;
        }
        if (!name_is_absolute_path(untrusted_path)) {
                u->ops->done(u->userdata, token, WIRE_INVALID_PATH,
                             "The new program's path has to be absolute");
                return;
        }
        u->is_busy = true;
        u->token = token;
        u->confirm_usec = MIN(MAX(confirm_usec, USEC_PER_SEC), UPGRADE_CONFIRM_MAX_USEC);
        u->digest[0] = '\0';
        u->source = strdup(untrusted_path);
        if (!u->source || asprintf(&u->fresh, "%s.new", own_path) < 0) {
                u->fresh = NULL;
                upgrade_fail(u, WIRE_FAILED, "The guest has no memory for an upgrade");
                return;
        }
        int r = copy_program(u, untrusted_path, untrusted_digest);
        if (r == -EBADMSG) {
                upgrade_fail(u, WIRE_INTEGRITY, "The new program is not what was sent: its digest is %s",
                             u->digest);
                return;
        }
        if (r == 0)
                r = start_trial(u);
        if (r < 0)
                upgrade_fail(u, wire_error_from_errno(-r),
                             "%s: the new program cannot be copied from %.200s: %s", u->fresh,
                             untrusted_path, strerror(-r));
}

int upgrade_new(Loop *l, const UpgradeOps *ops, void *userdata, Upgrade **ret)
{
        _cleanup_(upgrade_freep) Upgrade *u = calloc(1, sizeof(*u));

        if (!u)
                return -ENOMEM;
        *u = (Upgrade){ .loop = l, .ops = ops, .userdata = userdata, .output = -EBADF };
        int r = loop_add_timer(l, on_patience, u, &u->patience);
        if (r < 0)
                return r;
        *ret = TAKE(u);
        return 0;
}

Upgrade *upgrade_free(Upgrade *u)
{
        if (!u)
                return NULL;
        if (u->trial > 0) {
                loop_forget_child(u->loop, u->trial);
                (void)kill(u->trial, SIGKILL);
        }
        if (u->fresh)
                (void)unlink(u->fresh);
        u->output = fd_close(u->output);
        u->patience = loop_timer_free(u->patience);
        free(u->fresh);
        free(u->source);
        free(u);
        return NULL;
}
