/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File-system calls that stay where they were told. openat2(2) exists since Linux 5.6; guests may run 3.10,
 * so each has its walk by components. Nothing here keeps state between calls but the knowledge that openat2
 * is missing.
 */

#include "base/fs.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/base.h"

#define RACE_RETRIES 8

/* A symlink where a directory was wanted is ENOTDIR to openat(2); openat2(2) says ELOOP, and so do we. */
static int refine_errno(int dir_fd, const char *name, int error)
{
        struct stat st;

        if (error == ENOTDIR && fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
                return -ELOOP;
        return -error;
}

static int open_by_components(int dir_fd, const char *path, int flags, mode_t mode)
{
        _cleanup_close_ int held = -EBADF;
        int at = dir_fd;
        const char *p = path;

        for (;;) {
                char name[NAME_MAX + 1];
                size_t n = strcspn(p, "/");
                const char *next = p + n + strspn(p + n, "/");
                int fd;

                if (n > NAME_MAX)
                        return -ENAMETOOLONG;
                memcpy(name, p, n);
                name[n] = 0;
                if (str_eq(name, ".."))
                        return -EXDEV;
                if (*next == 0) {
                        bool slash = p[n] == '/';

                        fd = openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC | (slash ? O_DIRECTORY : 0),
                                    mode);
                        return fd < 0 ? refine_errno(at, name, errno) : fd;
                }
                fd = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (fd < 0)
                        return refine_errno(at, name, errno);
                held = fd_close(held);
                at = held = fd;
                p = next;
        }
}

int fs_open_beneath(int dir_fd, const char *path, int flags, mode_t mode)
{
        static bool missing;
        bool creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;

        if (path[0] == '/')
                return -EXDEV;
        if (path[0] == 0)
                path = ".";
        for (int i = 0; !missing && i < RACE_RETRIES; i++) {
                struct open_how how = {
                        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
                        .mode = creates ? mode : 0,
                        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
                };
                int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof how);

                if (fd >= 0)
                        return fd;
                if (errno == ENOSYS)
                        missing = true;
                else if (errno == EPERM) /* a seccomp filter's word, or the file's: the walk will tell */
                        break;
                else if (errno != EAGAIN && errno != EINTR)
                        return -errno;
        }
        return open_by_components(dir_fd, path, flags, mode);
}

int fs_open_parent(const char *path, char **ret_name)
{
        _cleanup_free_ char *parent = NULL, *name = NULL;
        size_t end, start;
        int fd;

        if (path[0] != '/')
                return -EINVAL;
        end = strlen(path);
        while (end > 1 && path[end - 1] == '/')
                end--;
        start = end;
        while (start > 0 && path[start - 1] != '/')
                start--;
        name = strndup(path + start, end - start);
        parent = strndup(path, start);
        if (!name || !parent)
                return -ENOMEM;
        if (name[0] == 0 || str_eq(name, ".") || str_eq(name, ".."))
                return -EINVAL;
        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        *ret_name = TAKE(name);
        return fd;
}

int fs_is_beneath_roots(int fd, const char *const *roots)
{
        char link[64], path[PATH_MAX];
        ssize_t n;

        if (!roots)
                return true;
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        n = readlink(link, path, sizeof path - 1);
        if (n < 0)
                return -errno;
        path[n] = 0;
        for (; *roots; roots++) {
                char resolved[PATH_MAX];
                size_t len;

                /* A root may be a symlink itself; one that does not exist holds nothing. */
                if (!realpath(*roots, resolved))
                        continue;
                len = strlen(resolved);
                if (len == 1)
                        return true;
                if (strncmp(path, resolved, len) == 0 && (path[len] == '/' || path[len] == 0))
                        return true;
        }
        return false;
}

int fs_write_all(int fd, const void *data, size_t n)
{
        const char *p = data;

        while (n > 0) {
                ssize_t k = write(fd, p, n);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                p += k;
                n -= (size_t)k;
        }
        return 0;
}

int fs_read_all(int fd, void *buf, size_t n, size_t *ret_n)
{
        size_t n_done = 0;

        while (n_done < n) {
                ssize_t k = read(fd, (uint8_t *)buf + n_done, n - n_done);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (k == 0)
                        break;
                n_done += (size_t)k;
        }
        *ret_n = n_done;
        return 0;
}

int fs_read_file(const char *path, size_t max, char **ret, size_t *ret_n)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        _cleanup_free_ char *buf = NULL;
        size_t n = 0, allocated = 0;
        struct stat st;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (S_ISDIR(st.st_mode))
                return -EISDIR;
        for (;;) {
                ssize_t k;

                if (allocated - n < 2) {
                        size_t want = allocated        ? allocated * 2
                                      : st.st_size > 0 ? (size_t)st.st_size + 2
                                                       : 4096;
                        char *p;

                        /* One byte to see that there is more, one for the NUL. */
                        want = MIN(want, max + 2);
                        if (want <= allocated)
                                return -EFBIG;
                        p = realloc(buf, want);
                        if (!p)
                                return -ENOMEM;
                        buf = p;
                        allocated = want;
                }
                k = read(fd, buf + n, allocated - n - 1);
                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (k == 0)
                        break;
                n += (size_t)k;
                if (n > max)
                        return -EFBIG;
        }
        buf[n] = 0;
        *ret = TAKE(buf);
        if (ret_n)
                *ret_n = n;
        return 0;
}

int fs_write_file_atomic(const char *path, const void *data, size_t n, mode_t mode)
{
        static unsigned serial;
        _cleanup_free_ char *name = NULL;
        _cleanup_close_ int dir_fd = -EBADF, fd = -EBADF;
        char temporary[64];
        int r;

        dir_fd = fs_open_parent(path, &name);
        if (dir_fd < 0)
                return dir_fd;
        do {
                (void)snprintf(temporary, sizeof temporary, ".#vmferry-%d-%u-%llx", getpid(), serial++,
                               (unsigned long long)fs_now_usec());
                fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        } while (fd < 0 && errno == EEXIST);
        if (fd < 0)
                return -errno;

        r = fs_write_all(fd, data, n);
        if (r >= 0 && fchmod(fd, mode) < 0)
                r = -errno;
        if (r >= 0 && fsync(fd) < 0)
                r = -errno;
        if (r >= 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
                r = -errno;
        if (r < 0) {
                (void)unlinkat(dir_fd, temporary, 0);
                return r;
        }
        return fsync(dir_fd) < 0 ? -errno : 0;
}

static uint64_t clock_usec(clockid_t clock)
{
        struct timespec ts;

        if (clock_gettime(clock, &ts) < 0)
                return 0;
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t fs_now_usec(void)
{
        return clock_usec(CLOCK_MONOTONIC);
}

uint64_t fs_realtime_usec(void)
{
        return clock_usec(CLOCK_REALTIME);
}
