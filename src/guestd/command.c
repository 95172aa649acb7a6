/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/command.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "proto/limits.h"

static int command_take_identity(const User *u)
{
        if (setgroups(u->n_groups, u->groups) < 0 || setresgid(u->gid, u->gid, u->gid) < 0 ||
            setresuid(u->uid, u->uid, u->uid) < 0)
                return -errno;
        return 0;
}

static int command_change_dir(const SupervisorSpec *spec, const User *u)
{
        if (spec->cwd)
                return chdir(spec->cwd) < 0 ? -errno : 0;
        /* A home that is missing or shut is no reason to refuse: login(1) goes to / too. */
        if ((!spec->user || chdir(u->home) < 0) && chdir("/") < 0)
                return -errno;
        return 0;
}

/* 0..2 become the command's; the ends may stand on these numbers themselves if guestd was started without
 * them. */
static int command_set_stdio(const int stdio[3])
{
        int fds[3];
        for (int i = 0; i < 3; i++) {
                fds[i] = fcntl(stdio[i], F_DUPFD_CLOEXEC, 3);
                if (fds[i] < 0)
                        return -errno;
        }
        for (int i = 0; i < 3; i++)
                if (dup2(fds[i], i) < 0)
                        return -errno;
        return 0;
}

/* So that the user may open them by name: /dev/stderr. A terminal is theirs already. */
static void command_give_pipes(const User *u)
{
        struct stat st;
        for (int fd = 0; fd < 3; fd++)
                if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
                        IGNORE(fchown(fd, u->uid, u->gid));
}

static const char *environment_get(char *const *env, const char *name)
{
        size_t n = strlen(name);
        for (; *env; env++)
                if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
                        return *env + n + 1;
        return NULL;
}

/* The policy judges absolute paths: a relative one is looked at from where the command would start. */
static bool command_is_allowed(const SupervisorSpec *spec, const char *path)
{
        if (*path == '/')
                return policy_may_run(spec->policy, path);
        char absolute[PATH_BYTES_MAX + 1], cwd[PATH_BYTES_MAX + 1];
        while (str_has_prefix(path, "./"))
                path += 2;
        if (!getcwd(cwd, sizeof(cwd)))
                return false;
        int n = snprintf(absolute, sizeof(absolute), "%s/%s", str_eq(cwd, "/") ? "" : cwd, path);
        return n > 0 && (size_t)n < sizeof(absolute) && policy_may_run(spec->policy, absolute);
}

static int command_try(const SupervisorSpec *spec, const char *path, char **env, CommandError *e)
{
        struct stat st;
        e->stage = SUPERVISOR_EXEC;
        /* What isn't there is looked for further on; what is there has to be allowed. */
        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EACCES;
        if (!command_is_allowed(spec, path)) {
                e->stage = SUPERVISOR_POLICY;
                return -EACCES;
        }
        (void)execve(path, spec->argv, env);
        return -errno;
}

/* As execvp(3) searches, but in the environment that the command will have, and with ENOEXEC as an error. */
static int command_exec(const SupervisorSpec *spec, char **env, CommandError *e)
{
        const char *name = spec->argv[0];
        e->stage = SUPERVISOR_EXEC;
        if (!*name)
                return -ENOENT;
        if (strchr(name, '/'))
                return command_try(spec, name, env, e);
        const char *dirs = environment_get(env, "PATH");
        CommandError best = { SUPERVISOR_EXEC, ENOENT };
        for (const char *p = dirs ?: "/usr/bin:/bin"; p;) {
                size_t n = strcspn(p, ":");
                char path[PATH_BYTES_MAX + 1];
                int k = snprintf(path, sizeof(path), "%.*s/%s", n ? (int)n : 1, n ? p : ".", name);
                p = p[n] ? p + n + 1 : NULL;
                if (k < 0 || (size_t)k >= sizeof(path))
                        continue;
                int r = command_try(spec, path, env, e);
                if (r == -ENOENT || r == -ENOTDIR)
                        continue;
                if (r != -EACCES)
                        return r;
                best = (CommandError){ e->stage, EACCES };
        }
        e->stage = best.stage;
        return -best.error;
}

static int command_become(const SupervisorSpec *spec, const Tree *tree, const User *u, bool keep_identity,
                          pid_t parent, CommandError *e)
{
        e->stage = SUPERVISOR_SETUP;
        char **env = users_environment(u, spec->terminal, spec->env);
        if (!env)
                return -ENOMEM;
        sigset_t none;
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        tree_enter(tree);
        if (setsid() < 0)
                return -errno;
        int r = spec->terminal ? terminal_enter(spec->stdio[0], u->uid) : 0;
        if (r >= 0)
                r = command_set_stdio(spec->stdio);
        if (r < 0)
                return r;
        (void)umask(022);
        command_give_pipes(u);
        e->stage = SUPERVISOR_IDENTITY;
        r = keep_identity ? 0 : command_take_identity(u);
        if (r < 0)
                return r;
        /* After setresuid(2), which clears it. A supervisor never ends before its command, unless it was
         * killed. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                return -ESRCH;
        e->stage = SUPERVISOR_CWD;
        r = command_change_dir(spec, u);
        return r < 0 ? r : command_exec(spec, env, e);
}

int command_start(const SupervisorSpec *spec, const Tree *tree, const User *user, bool keep_identity,
                  pid_t *ret_pid, CommandError *ret_error)
{
        *ret_error = (CommandError){ SUPERVISOR_SETUP, ENOMEM };
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int from = fds[0], to = fds[1];
        pid_t parent = getpid(), pid = fork();
        if (pid < 0) {
                ret_error->error = errno;
                return -errno;
        }
        if (pid == 0) {
                /* Clear of 0..2, which become the command's. */
                int report = fcntl(to, F_DUPFD_CLOEXEC, 3);
                CommandError e = { SUPERVISOR_SETUP, 0 };
                e.error = -command_become(spec, tree, user, keep_identity, parent, &e);
                (void)!write(report, &e, sizeof(e));
                _exit(127);
        }
        to = fd_close(to);
        ssize_t n;
        do
                n = read(from, ret_error, sizeof(*ret_error));
        while (n < 0 && errno == EINTR);
        if (n == (ssize_t)sizeof(*ret_error))
                return -(ret_error->error ?: EIO);
        *ret_pid = pid;
        return 0;
}
