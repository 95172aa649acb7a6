/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/fs.h"

/* The same numbers on all architectures; Linux 5.2. */
#ifndef SYS_fsopen
#define SYS_fsopen 430
#endif
#ifndef SYS_fsconfig
#define SYS_fsconfig 431
#endif
#ifndef SYS_fsmount
#define SYS_fsmount 432
#endif
#define OPEN_CLOEXEC 1u  /* FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC */
#define CONFIG_CREATE 6u /* FSCONFIG_CMD_CREATE */

#define MOUNTINFO_MAX (1024u * 1024)
#define PROCS_MAX (1024u * 1024)
#define FREEZE_TRIES 50 /* of a millisecond */
#define RELEASE_TRIES 64

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
static char *hierarchy_find(void)
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

/* The hierarchy where nobody has mounted it: by a mount that is in no tree, and gone with its descriptor. */
static int hierarchy_open(void)
{
        _cleanup_close_ int fs = (int)syscall(SYS_fsopen, "cgroup2", OPEN_CLOEXEC);
        if (fs < 0 || syscall(SYS_fsconfig, fs, CONFIG_CREATE, NULL, NULL, 0) < 0)
                return -errno;
        int fd = (int)syscall(SYS_fsmount, fs, OPEN_CLOEXEC, 0);
        return fd < 0 ? -errno : fd;
}

/* Where this process is in it: the line "0::PATH" of cgroups(7). */
static char *cgroup_own(const char *mount)
{
        _cleanup_free_ char *text = NULL;
        if (fs_read_file("/proc/self/cgroup", MOUNTINFO_MAX, &text, NULL) < 0)
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

static int cgroup_locate(const char *id, Cgroup *ret)
{
        _cleanup_(cgroup_done) Cgroup c = { .mount = -EBADF };
        _cleanup_free_ char *mount = hierarchy_find();
        if (!mount) {
                c.mount = hierarchy_open();
                if (c.mount < 0)
                        return c.mount;
                if (asprintf(&mount, "/proc/self/fd/%d", c.mount) < 0) {
                        mount = NULL;
                        return -ENOMEM;
                }
        }
        c.own = cgroup_own(mount);
        if (!c.own)
                return -ENOENT;
        if (asprintf(&c.path, "%s/vmferry-job-%s", c.own, id) < 0) {
                c.path = NULL;
                return -ENOMEM;
        }
        *ret = c;
        c = (Cgroup){ .mount = -EBADF };
        return 0;
}

int cgroup_make(const char *id, Cgroup *ret)
{
        _cleanup_(cgroup_done) Cgroup c = { .mount = -EBADF };
        int r = cgroup_locate(id, &c);
        if (r < 0)
                return r;
        if (mkdir(c.path, 0755) < 0 && errno != EEXIST)
                return -errno;
        *ret = c;
        c = (Cgroup){ .mount = -EBADF };
        return 0;
}

void cgroup_done(Cgroup *c)
{
        free(c->own);
        free(c->path);
        (void)fd_close(c->mount);
        *c = (Cgroup){ .mount = -EBADF };
}

void cgroup_remove(Cgroup *c)
{
        if (c->path)
                (void)rmdir(c->path);
        cgroup_done(c);
}

void cgroup_enter(const Cgroup *c)
{
        if (c->path)
                (void)cgroup_write(c->path, "cgroup.procs", "0");
}

/* How many there were. */
static unsigned cgroup_each(const char *cgroup, void (*each)(const char *pid, const char *userdata),
                            const char *userdata)
{
        unsigned n = 0;
        _cleanup_free_ char *path = NULL, *pids = NULL;
        if (asprintf(&path, "%s/cgroup.procs", cgroup) < 0) {
                path = NULL;
                return 0;
        }
        if (fs_read_file(path, PROCS_MAX, &pids, NULL) < 0)
                return 0;
        char *rest = pids;
        for (char *line; (line = strsep(&rest, "\n"));)
                if (*line) {
                        each(line, userdata);
                        n++;
                }
        return n;
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

void cgroup_release(const Cgroup *c)
{
        /* Who forks before it is moved leaves a child behind. */
        for (int i = 0; c->path && i < RELEASE_TRIES; i++)
                if (cgroup_each(c->path, cgroup_pid_move, c->own) == 0)
                        return;
}

static bool cgroup_is_frozen(const char *cgroup)
{
        _cleanup_free_ char *path = NULL, *text = NULL;
        if (asprintf(&path, "%s/cgroup.events", cgroup) < 0) {
                path = NULL;
                return true;
        }
        return fs_read_file(path, 4096, &text, NULL) < 0 || strstr(text, "frozen 1");
}

/* Before Linux 5.14 each is killed by itself, frozen first (5.2) so that none forks away meanwhile. */
void cgroup_kill(const Cgroup *c)
{
        if (!c->path || cgroup_write(c->path, "cgroup.kill", "1") >= 0)
                return;
        bool freezes = cgroup_write(c->path, "cgroup.freeze", "1") >= 0;
        for (int i = 0; freezes && i < FREEZE_TRIES && !cgroup_is_frozen(c->path); i++)
                (void)usleep(1000);
        (void)cgroup_each(c->path, cgroup_pid_kill, NULL);
        if (freezes)
                (void)cgroup_write(c->path, "cgroup.freeze", "0");
}

void cgroup_reap(const char *id)
{
        _cleanup_(cgroup_done) Cgroup c = { .mount = -EBADF };
        if (cgroup_locate(id, &c) < 0 || access(c.path, F_OK) < 0)
                return;
        cgroup_kill(&c);
        /* The dead leave the group a moment after the signal. */
        for (int i = 0; i < 20 && rmdir(c.path) < 0 && errno == EBUSY; i++)
                (void)usleep(1000);
}

void cgroup_disband(const char *id)
{
        Cgroup c;
        if (cgroup_locate(id, &c) < 0)
                return;
        cgroup_release(&c);
        cgroup_remove(&c);
}
