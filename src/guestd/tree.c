/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "base/base.h"
#include "base/fs.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

#define MOUNTINFO_MAX (1024u * 1024)
#define CGROUP_PROCS_MAX (1024u * 1024)
#define STOP_ROUNDS_MAX 64

typedef struct Member {
        pid_t pid, ppid;
        unsigned long long started; /* clock ticks since boot: tells a reused pid */
        bool is_dead, is_ours;
} Member;

typedef struct Members {
        Member *items;
        size_t n, n_allocated;
} Members;

static void members_done(Members *m)
{
        free(m->items);
}

/* proc(5): "pid (comm) state ppid …", starttime is field 22; comm may hold anything, ')' too. */
static int member_read(pid_t pid, Member *ret)
{
        char path[32], buf[1024];
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        ssize_t n = read(fd, buf, sizeof(buf) - 1);
        if (n <= 0)
                return -ESRCH;
        buf[n] = 0;
        char *p = strrchr(buf, ')');
        if (!p || p[1] != ' ' || !p[2])
                return -EBADMSG;
        char state = p[2];
        p += 3;
        unsigned long long value = 0, ppid = 0;
        for (int field = 4; field <= 22; field++) {
                char *end;
                value = strtoull(p, &end, 10);
                if (end == p)
                        return -EBADMSG;
                p = end;
                if (field == 4)
                        ppid = value;
        }
        *ret = (Member){
                .pid = pid, .ppid = (pid_t)ppid, .started = value, .is_dead = state == 'Z' || state == 'X'
        };
        return 0;
}

static int member_compare(const void *a, const void *b)
{
        pid_t x = ((const Member *)a)->pid, y = ((const Member *)b)->pid;
        return x < y ? -1 : x > y;
}

static bool members_is_below(const Members *m, size_t i, pid_t root)
{
        Member key = { .pid = m->items[i].ppid };
        for (size_t depth = 0; depth <= m->n && key.pid > 1; depth++) {
                if (key.pid == root)
                        return true;
                const Member *parent = bsearch(&key, m->items, m->n, sizeof(key), member_compare);
                if (!parent)
                        return false;
                key.pid = parent->ppid;
        }
        return key.pid == root;
}

static int members_load(pid_t root, Members *ret)
{
        DIR *dir = opendir("/proc");
        if (!dir)
                return -errno;
        int r = 0;
        for (struct dirent *entry; (entry = readdir(dir));) {
                if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
                        continue;
                Member m;
                if (member_read((pid_t)strtol(entry->d_name, NULL, 10), &m) < 0)
                        continue;
                if (ret->n == ret->n_allocated) {
                        size_t n = ret->n_allocated ? ret->n_allocated * 2 : 128;
                        Member *items = reallocarray(ret->items, n, sizeof(*items));
                        if (!items) {
                                r = -ENOMEM;
                                break;
                        }
                        ret->items = items;
                        ret->n_allocated = n;
                }
                ret->items[ret->n++] = m;
        }
        (void)closedir(dir);
        if (r < 0)
                return r;
        if (ret->n)
                qsort(ret->items, ret->n, sizeof(*ret->items), member_compare);
        for (size_t i = 0; i < ret->n; i++)
                ret->items[i].is_ours = members_is_below(ret, i, root);
        return 0;
}

static bool member_signal(const Member *m, int signal)
{
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, m->pid, 0);
        if (fd < 0 && errno == ESRCH)
                return false;
        Member now;
        if (member_read(m->pid, &now) < 0 || now.started != m->started)
                return false;
        if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) == 0)
                return true;
        return kill(m->pid, signal) == 0;
}

int tree_signal(const Tree *t, int signal)
{
        _cleanup_(members_done) Members m = { 0 };
        int r = members_load(t->root, &m);
        if (r < 0)
                return r;
        int n = 0;
        for (size_t i = 0; i < m.n; i++)
                if (m.items[i].is_ours && !m.items[i].is_dead)
                        n += member_signal(&m.items[i], signal);
        return n;
}

static int cgroup_write(const char *cgroup, const char *file, const char *text)
{
        _cleanup_free_ char *path = NULL;
        if (asprintf(&path, "%s/%s", cgroup, file) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return fs_write_all(fd, text, strlen(text));
}

int tree_kill(const Tree *t)
{
        if (t->cgroup)
                (void)cgroup_write(t->cgroup, "cgroup.kill", "1");
        int n_before = 0;
        for (int round = 0; round < STOP_ROUNDS_MAX; round++) {
                int n = tree_signal(t, SIGSTOP);
                if (n < 0)
                        return n;
                if (n == 0)
                        return 0;
                if (n == n_before)
                        break;
                n_before = n;
        }
        return tree_signal(t, SIGKILL);
}

bool tree_holds(const Tree *t, const struct stat *files, size_t n_files)
{
        _cleanup_(members_done) Members m = { 0 };
        if (members_load(t->root, &m) < 0)
                return true;
        for (size_t i = 0; i < m.n; i++) {
                if (!m.items[i].is_ours || m.items[i].is_dead)
                        continue;
                char path[64];
                (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)m.items[i].pid);
                DIR *dir = opendir(path);
                if (!dir)
                        continue;
                bool found = false;
                for (struct dirent *entry; !found && (entry = readdir(dir));) {
                        struct stat st;
                        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
                                continue;
                        for (size_t k = 0; k < n_files; k++)
                                found |= st.st_dev == files[k].st_dev && st.st_ino == files[k].st_ino;
                }
                (void)closedir(dir);
                if (found)
                        return true;
        }
        return false;
}

/* Undoes the octal escapes of mountinfo, in place. */
static void mount_unescape(char *s)
{
        char *out = s;
        for (; *s; out++)
                if (s[0] == '\\' && s[1] && s[2] && s[3]) {
                        *out = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
                        s += 4;
                } else
                        *out = *s++;
        *out = 0;
}

/* Where cgroup v2 is mounted: proc_pid_mountinfo(5), field 5; the type stands behind " - ". */
static char *cgroup_mount(void)
{
        _cleanup_free_ char *text = NULL;
        if (fs_read_file("/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL) < 0)
                return NULL;
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n"));) {
                char *type = strstr(line, " - ");
                if (!type || !str_has_prefix(type + 3, "cgroup2 "))
                        continue;
                char *field = NULL;
                for (int i = 0; i < 5; i++)
                        field = strsep(&line, " ");
                if (!field)
                        continue;
                mount_unescape(field);
                return strdup(field);
        }
        return NULL;
}

/* This process's own group in it: the line "0::PATH" of cgroups(7). */
static char *cgroup_own(void)
{
        _cleanup_free_ char *mount = cgroup_mount(), *text = NULL;
        if (!mount || fs_read_file("/proc/self/cgroup", MOUNTINFO_MAX, &text, NULL) < 0)
                return NULL;
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n"));) {
                if (!str_has_prefix(line, "0::/"))
                        continue;
                char *path = NULL;
                if (asprintf(&path, "%s%s", mount, str_eq(line + 3, "/") ? "" : line + 3) < 0)
                        return NULL;
                return path;
        }
        return NULL;
}

static char *cgroup_of(const char *id)
{
        _cleanup_free_ char *own = cgroup_own();
        char *path = NULL;
        if (!own || asprintf(&path, "%s/vmferry-job-%s", own, id) < 0)
                return NULL;
        return path;
}

void tree_init(Tree *t, const char *id)
{
        *t = (Tree){ .root = getpid(), .cgroup = cgroup_of(id) };
        if (t->cgroup && mkdir(t->cgroup, 0755) < 0 && errno != EEXIST) {
                free(t->cgroup);
                t->cgroup = NULL;
        }
}

void tree_done(Tree *t)
{
        if (t->cgroup)
                (void)rmdir(t->cgroup);
        free(t->cgroup);
        t->cgroup = NULL;
}

void tree_enter(const Tree *t)
{
        if (t->cgroup)
                (void)cgroup_write(t->cgroup, "cgroup.procs", "0");
}

static void cgroup_each(const char *cgroup, void (*each)(const char *pid, const char *userdata),
                        const char *userdata)
{
        _cleanup_free_ char *path = NULL, *pids = NULL;
        if (asprintf(&path, "%s/cgroup.procs", cgroup) < 0) {
                path = NULL;
                return;
        }
        if (fs_read_file(path, CGROUP_PROCS_MAX, &pids, NULL) < 0)
                return;
        char *rest = pids;
        for (char *line; (line = strsep(&rest, "\n"));)
                if (*line)
                        each(line, userdata);
}

static void cgroup_pid_move(const char *pid, const char *cgroup)
{
        (void)cgroup_write(cgroup, "cgroup.procs", pid);
}

static void cgroup_pid_kill(const char *pid, const char *userdata)
{
        pid_t n = (pid_t)strtol(pid, NULL, 10);
        if (n > 1) /* 0: of another pid namespace */
                (void)kill(n, SIGKILL);
}

void tree_release(const Tree *t)
{
        if (!t->cgroup)
                return;
        _cleanup_free_ char *own = cgroup_own();
        if (own)
                cgroup_each(t->cgroup, cgroup_pid_move, own);
}

void tree_reap(const char *id)
{
        _cleanup_free_ char *cgroup = cgroup_of(id);
        if (!cgroup || access(cgroup, F_OK) < 0)
                return;
        if (cgroup_write(cgroup, "cgroup.kill", "1") < 0)
                cgroup_each(cgroup, cgroup_pid_kill, NULL);
        /* The dead leave the group a moment after the signal. */
        for (int i = 0; i < 20 && rmdir(cgroup) < 0 && errno == EBUSY; i++)
                (void)usleep(1000);
}
