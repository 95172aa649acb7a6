/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/users.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "proto/name.h"

#define USERS_FILE_MAX (16u * 1024 * 1024)
#define USERS_LINE_MAX 65536u
#define USERS_NAME_MAX 256u
#define ASK_SECONDS_MAX 20
#define USERS_GROUPS_MAX 65536u /* NGROUPS_MAX of Linux */
#define PATH_DEFAULT_ROOT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PATH_DEFAULT "/usr/local/bin:/usr/bin:/bin"

static const char *passwd_file = "/etc/passwd", *group_file = "/etc/group";

void users_set_files(const char *passwd, const char *group)
{
        passwd_file = passwd ?: "/etc/passwd";
        group_file = group ?: "/etc/group";
}

void user_done(User *u)
{
        free(u->name);
        free(u->home);
        free(u->shell);
        free(u->groups);
        *u = (User){ 0 };
}

static int number_parse(const char *s, unsigned *ret)
{
        unsigned long long v = 0;
        if (!*s)
                return -EINVAL;
        for (; *s; s++) {
                if (*s < '0' || *s > '9')
                        return -EINVAL;
                v = v * 10 + (unsigned)(*s - '0');
                if (v >= UINT32_MAX) /* (uid_t)-1 means "leave as it is" to setresuid(2) */
                        return -ERANGE;
        }
        *ret = (unsigned)v;
        return 0;
}

/* passwd(5): name:password:uid:gid:comment:home:shell. 1: filled; 0: a line of another kind. Cuts the line
 * up. */
static int passwd_line_parse(char *line, User *ret)
{
        char *fields[7];
        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                fields[i] = strsep(&line, ":");
                if (!fields[i])
                        return 0;
        }
        unsigned uid, gid;
        if (!*fields[0] || number_parse(fields[2], &uid) < 0 || number_parse(fields[3], &gid) < 0)
                return 0;
        *ret = (User){
                .name = strdup(fields[0]),
                .home = strdup(*fields[5] == '/' ? fields[5] : "/"),
                .shell = strdup(*fields[6] == '/' ? fields[6] : "/bin/sh"),
                .uid = uid,
                .gid = gid,
        };
        if (ret->name && ret->home && ret->shell)
                return 1;
        user_done(ret);
        return -ENOMEM;
}

static int passwd_find(char *text, const char *name, const uid_t *uid, User *ret)
{
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n"));) {
                if (name && (!str_has_prefix(line, name) || line[strlen(name)] != ':'))
                        continue;
                User u = { 0 };
                int r = passwd_line_parse(line, &u);
                if (r < 0)
                        return r;
                if (r > 0 && (!uid || u.uid == *uid)) {
                        *ret = u;
                        return 0;
                }
                user_done(&u);
        }
        return -ENOENT;
}

static int user_add_group(User *u, gid_t gid)
{
        for (size_t i = 0; i < u->n_groups; i++)
                if (u->groups[i] == gid)
                        return 0;
        if (u->n_groups == USERS_GROUPS_MAX)
                return 0;
        if ((u->n_groups & (u->n_groups - 1)) == 0) { /* full at powers of two */
                gid_t *groups = reallocarray(u->groups, u->n_groups ? u->n_groups * 2 : 1, sizeof(*groups));
                if (!groups)
                        return -ENOMEM;
                u->groups = groups;
        }
        u->groups[u->n_groups++] = gid;
        return 0;
}

/* group(5): name:password:gid:member,member */
static char *group_line_parse(char *line, gid_t *ret_gid, char **ret_members)
{
        char *name = strsep(&line, ":"), *gid;
        unsigned value;
        (void)strsep(&line, ":");
        gid = strsep(&line, ":");
        if (!name || !*name || !gid || number_parse(gid, &value) < 0)
                return NULL;
        *ret_gid = value;
        *ret_members = line;
        return name;
}

static int groups_load(User *u)
{
        int r = user_add_group(u, u->gid);
        _cleanup_free_ char *text = NULL;
        if (r < 0 || fs_read_file(group_file, USERS_FILE_MAX, &text, NULL) < 0)
                return r;
        char *rest = text, *members;
        gid_t gid = 0;
        for (char *line; (line = strsep(&rest, "\n"));) {
                if (!group_line_parse(line, &gid, &members))
                        continue;
                for (char *member; (member = strsep(&members, ","));) {
                        r = str_eq(member, u->name) ? user_add_group(u, gid) : 0;
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int find(const char *name, const uid_t *uid, User *ret)
{
        _cleanup_free_ char *text = NULL;
        int r = fs_read_file(passwd_file, USERS_FILE_MAX, &text, NULL);
        if (r < 0)
                return r;
        _cleanup_(user_done) User u = { 0 };
        r = passwd_find(text, name, uid, &u);
        if (r >= 0)
                r = groups_load(&u);
        if (r < 0)
                return r;
        *ret = u;
        u = (User){ 0 };
        return 0;
}

static int name_check(const char *name)
{
        size_t n = strlen(name);
        bool good = n > 0 && n <= USERS_NAME_MAX && *name != '-' && !strpbrk(name, ":\n/") &&
                    name_is_utf8(name, n);
        return good ? 0 : -EINVAL;
}

int users_find(const char *untrusted_name, User *ret)
{
        unsigned uid;
        int r = name_check(untrusted_name);
        if (r < 0)
                return r;
        r = find(untrusted_name, NULL, ret);
        if (r == -ENOENT && str_eq(untrusted_name, "root"))
                return users_find_uid(0, ret);
        if (r != -ENOENT || number_parse(untrusted_name, &uid) < 0)
                return r;
        return users_find_uid(uid, ret);
}

/* An initramfs may have no passwd at all; it has root. */
static int user_root(User *ret)
{
        _cleanup_(user_done)
                User u = { .name = strdup("root"), .home = strdup("/"), .shell = strdup("/bin/sh") };
        if (!u.name || !u.home || !u.shell)
                return -ENOMEM;
        int r = groups_load(&u);
        if (r < 0)
                return r;
        *ret = u;
        u = (User){ 0 };
        return 0;
}

int users_find_uid(uid_t uid, User *ret)
{
        int r = find(NULL, &uid, ret);
        return r == -ENOENT && uid == 0 ? user_root(ret) : r;
}

int users_find_group(const char *name, gid_t *ret)
{
        _cleanup_free_ char *text = NULL;
        int r = fs_read_file(group_file, USERS_FILE_MAX, &text, NULL);
        if (r < 0)
                return r;
        char *rest = text, *members;
        gid_t gid = 0;
        for (char *line; (line = strsep(&rest, "\n"));)
                if (str_eq(group_line_parse(line, &gid, &members), name)) {
                        *ret = gid;
                        return 0;
                }
        unsigned number;
        if (number_parse(name, &number) < 0)
                return -ENOENT;
        *ret = number;
        return 0;
}

/* The first line that a program of the guest prints. Blocks until it ends; for children only. */
static int ask(const char *const argv[], char **ret_line)
{
        int pipe_fds[2];
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int from = pipe_fds[0], to = pipe_fds[1];
        pid_t pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0) {
                (void)alarm(ASK_SECONDS_MAX); /* goes on over execve(2): a directory service that hangs */
                if (dup2(to, STDOUT_FILENO) >= 0)
                        (void)execvp(argv[0], (char *const *)argv);
                _exit(127);
        }
        to = fd_close(to);
        _cleanup_free_ char *text = malloc(USERS_LINE_MAX);
        size_t n = 0;
        while (text && n < USERS_LINE_MAX - 1) {
                ssize_t k = read(from, text + n, USERS_LINE_MAX - 1 - n);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        break;
                n += (size_t)k;
        }
        from = fd_close(from);
        int status;
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        if (!text)
                return -ENOMEM;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || n == 0)
                return -ENOENT;
        text[n] = 0;
        text[strcspn(text, "\n")] = 0;
        *ret_line = TAKE(text);
        return 0;
}

int users_find_slow(const char *untrusted_name, User *ret)
{
        int r = users_find(untrusted_name, ret);
        if (r != -ENOENT)
                return r;
        _cleanup_free_ char *line = NULL, *groups = NULL;
        r = ask((const char *const[]){ "getent", "passwd", untrusted_name, NULL }, &line);
        if (r < 0)
                return r;
        _cleanup_(user_done) User u = { 0 };
        r = passwd_line_parse(line, &u);
        if (r <= 0)
                return r < 0 ? r : -ENOENT;
        r = groups_load(&u);
        if (r < 0)
                return r;
        if (name_check(u.name) >= 0 &&
            ask((const char *const[]){ "id", "-G", u.name, NULL }, &groups) >= 0) {
                char *rest = groups;
                unsigned gid;
                for (char *word; (word = strsep(&rest, " "));)
                        if (number_parse(word, &gid) >= 0 && (r = user_add_group(&u, gid)) < 0)
                                return r;
        }
        *ret = u;
        u = (User){ 0 };
        return 0;
}

/* Takes `assignment` over; a later one of the same name replaces it in place. */
static int environment_put(char **env, size_t *n, char *assignment)
{
        if (!assignment)
                return -ENOMEM;
        size_t n_name = strcspn(assignment, "=") + 1;
        for (size_t i = 0; i < *n; i++)
                if (strncmp(env[i], assignment, n_name) == 0) {
                        free(env[i]);
                        env[i] = assignment;
                        return 0;
                }
        env[(*n)++] = assignment;
        return 0;
}

static char *assign(const char *name, const char *value)
{
        char *s;
        return asprintf(&s, "%s=%s", name, value) < 0 ? NULL : s;
}

char **users_environment(const User *u, bool tty, char *const *extra)
{
        const char *own_path = getenv("PATH");
        if (!own_path || !*own_path)
                own_path = u->uid == 0 ? PATH_DEFAULT_ROOT : PATH_DEFAULT;
        const char *const base[][2] = {
                { "HOME", u->home },
                { "USER", u->name },
                { "LOGNAME", u->name },
                { "SHELL", u->shell },
                { "PATH", own_path },
                { "LANG", getenv("LANG") },
                { "LC_ALL", getenv("LC_ALL") },
                { "TZ", getenv("TZ") },
                { "TERM", tty ? "xterm" : NULL },
        };
        size_t n = 0, n_extra = 0;
        while (extra && extra[n_extra])
                n_extra++;
        char **env = calloc(ELEMENTSOF(base) + n_extra + 1, sizeof(*env));
        if (!env)
                return NULL;
        int r = 0;
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(base); i++)
                if (base[i][1])
                        r = environment_put(env, &n, assign(base[i][0], base[i][1]));
        for (size_t i = 0; r >= 0 && i < n_extra; i++)
                r = environment_put(env, &n, strdup(extra[i]));
        return r < 0 ? users_environment_free(env) : env;
}

char **users_environment_free(char **env)
{
        for (char **p = env; p && *p; p++)
                free(*p);
        free(env);
        return NULL;
}
