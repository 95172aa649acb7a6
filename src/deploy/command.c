/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between fork and exec only what is safe after a fork of a process that may have threads (libvirt's).
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "deploy/command.h"

#define OUTPUT_MAX (1024u * 1024)
#define STDERR_MAX 4096u

/* sbin isn't in everybody's PATH, and lvm and modprobe are there. */
static const char *const directories[] = { "/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                           "/usr/bin",        "/sbin",          "/bin" };

static int find_program(const char *name, char *ret, size_t n)
{
        const char *path = getenv("PATH");
        const char *at = path ? path : "";

        while (*at) {
                size_t k = strcspn(at, ":");
                (void)snprintf(ret, n, "%.*s/%s", (int)k, at, name);
                if (k > 0 && access(ret, X_OK) == 0)
                        return 0;
                at += at[k] ? k + 1 : k;
        }
        for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
                (void)snprintf(ret, n, "%s/%s", directories[i], name);
                if (access(ret, X_OK) == 0)
                        return 0;
        }
        return -ENOENT;
}

static _Noreturn void become(const char *program, const char *const *argv, int out, int err, pid_t parent)
{
        sigset_t none;
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        (void)setpgid(0, 0);
        /* 0: whoever waits for the end of this one is there to see it. */
        if (parent > 0 && (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent))
                _exit(127);
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (dup2(null, STDIN_FILENO) < 0 || dup2(out >= 0 ? out : null, STDOUT_FILENO) < 0 ||
            dup2(err, STDERR_FILENO) < 0)
                _exit(127);
        (void)execv(program, (char *const *)argv);
        _exit(127);
}

static int start(Target *t, const char *const *argv, bool with_us, pid_t *ret_pid, int *ret_out,
                 int *ret_err)
{
        char program[512];
        int out[2] = { -EBADF, -EBADF }, err[2] = { -EBADF, -EBADF }, r = 0;
        pid_t self = getpid();

        if (find_program(argv[0], program, sizeof(program)) < 0)
                return target_fail(t, -ENOENT, "%s is not installed", argv[0]);
        if (pipe2(err, O_CLOEXEC) < 0 || (ret_out && pipe2(out, O_CLOEXEC) < 0))
                r = -errno;
        pid_t pid = r == 0 ? fork() : -1;
        if (pid == 0)
                become(program, argv, out[1], err[1], with_us ? self : 0);
        if (r == 0 && pid < 0)
                r = -errno;
        (void)fd_close(out[1]);
        (void)fd_close(err[1]);
        if (r < 0) {
                (void)fd_close(out[0]);
                (void)fd_close(err[0]);
                return target_fail(t, r, "%s: %s", program, strerror(-r));
        }
        *ret_pid = pid;
        *ret_err = err[0];
        if (ret_out)
                *ret_out = out[0];
        return 0;
}

/* What is past max is read and dropped: the writer must not wait for us. False at the end. */
static bool take(int fd, char *buffer, size_t max, size_t *n)
{
        char rest[4096];
        bool is_full = *n >= max;
        ssize_t k = read(fd, is_full ? rest : buffer + *n, is_full ? sizeof(rest) : max - *n);

        if (k < 0)
                return errno == EINTR || errno == EAGAIN;
        if (!is_full)
                *n += (size_t)k;
        return k > 0;
}

/* Programs say on stderr first what went wrong, and go on with what that led to. */
static const char *complaint_of(char *text)
{
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
                while (*line == ' ')
                        line++;
                if (*line && !str_has_prefix(line, "WARNING"))
                        return line;
        }
        return "it gave no reason";
}

int command_run(Target *t, const char *const *argv, char **ret_output)
{
        _cleanup_free_ char *output = calloc(1, OUTPUT_MAX + 1);
        _cleanup_close_ int out = -EBADF, err = -EBADF;
        char complaint[STDERR_MAX + 1] = "";
        size_t n_out = 0, n_err = 0;
        int status;
        pid_t pid;

        if (!output)
                return target_fail(t, -ENOMEM, "no memory");
        int r = start(t, argv, false, &pid, &out, &err);
        if (r < 0)
                return r;
        while (out >= 0 || err >= 0) {
                struct pollfd p[] = { { .fd = out, .events = POLLIN }, { .fd = err, .events = POLLIN } };
                if (poll(p, ELEMENTSOF(p), -1) < 0 && errno != EINTR)
                        break;
                if (p[0].revents && !take(out, output, OUTPUT_MAX, &n_out))
                        out = fd_close(out);
                if (p[1].revents && !take(err, complaint, STDERR_MAX, &n_err))
                        err = fd_close(err);
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return target_fail(t, -errno, "%s: %s", argv[0], strerror(errno));
        complaint[n_err] = '\0';
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                return target_fail(t, -EIO, "%s: %s", argv[0], complaint_of(complaint));
        output[n_out] = '\0';
        if (ret_output)
                *ret_output = TAKE(output);
        return 0;
}

int command_start(Target *t, const char *const *argv, pid_t *ret_pid, int *ret_stderr)
{
        int r = start(t, argv, true, ret_pid, NULL, ret_stderr);

        if (r == 0)
                (void)fcntl(*ret_stderr, F_SETFL, O_NONBLOCK);
        return r;
}

void command_complaint(int fd, char *ret, size_t n)
{
        char text[STDERR_MAX + 1];
        ssize_t k = read(fd, text, STDERR_MAX);

        text[MAX(k, 0)] = '\0';
        (void)snprintf(ret, n, "%s", complaint_of(text));
}
