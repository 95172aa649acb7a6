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

#define CHILDREN_BYTES_MAX 65536u
#define STOP_ROUNDS_MAX 64
#define CHASE_DEPTH 8u

typedef struct Member {
        pid_t pid, ppid, group;
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
        unsigned long long value = 0, ppid = 0, group = 0;
        for (int field = 4; field <= 22; field++) {
                char *end;
                value = strtoull(p, &end, 10);
                if (end == p)
                        return -EBADMSG;
                p = end;
                if (field == 4)
                        ppid = value;
                if (field == 5)
                        group = value;
        }
        *ret = (Member){ .pid = pid,
                         .ppid = (pid_t)ppid,
                         .group = (pid_t)group,
                         .started = value,
                         .is_dead = state == 'Z' || state == 'X' };
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

/* Of all of a group at once, which the kernel does not let a fork run across: a group's other members are of
 * the tree too, as all of the root's descendants have left its session. */
static void members_kill_groups(const Members *m)
{
        pid_t own = getpgrp();
        for (size_t i = 0; i < m->n; i++)
                if (m->items[i].is_ours && m->items[i].group > 1 && m->items[i].group != own)
                        (void)kill(-m->items[i].group, SIGKILL);
}

int tree_kill(const Tree *t)
{
        cgroup_kill(&t->cgroup);
        int n_before = 0;
        for (int round = 0; round < STOP_ROUNDS_MAX; round++) {
                int n = tree_signal(t, SIGSTOP);
                if (n < 0)
                        return n;
                if (n == n_before)
                        break;
                n_before = n;
        }
        _cleanup_(members_done) Members m = { 0 };
        int r = members_load(t->root, &m);
        if (r < 0)
                return r;
        members_kill_groups(&m);
        return tree_signal(t, SIGKILL);
}

/* Parents before their children, of which a killed parent waits for none: no number is free meanwhile. */
static void chase(pid_t parent, unsigned depth)
{
        char path[64];
        _cleanup_free_ char *text = NULL;
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
        if (fs_read_file(path, CHILDREN_BYTES_MAX, &text, NULL) < 0)
                return;
        for (char *p = text, *end;; p = end) {
                pid_t pid = (pid_t)strtol(p, &end, 10);
                if (end == p || pid <= 1)
                        return;
                (void)kill(pid, SIGKILL);
                if (depth > 0)
                        chase(pid, depth - 1);
        }
}

void tree_chase(const Tree *t)
{
        chase(t->root, CHASE_DEPTH);
}

void tree_init(Tree *t, const char *id)
{
        *t = (Tree){ .root = getpid(), .cgroup = { .mount = -EBADF } };
        (void)cgroup_make(id, &t->cgroup);
}

void tree_done(Tree *t)
{
        cgroup_remove(&t->cgroup);
}

void tree_enter(const Tree *t)
{
        cgroup_enter(&t->cgroup);
}

void tree_release(const Tree *t)
{
        cgroup_release(&t->cgroup);
}
