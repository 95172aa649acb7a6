/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file is written beside its place under another name, synced and renamed: a power cut leaves the old one
 * or the new one. A label is an extended attribute that is copied as bytes; this host needs no SELinux.
 */

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "base/fs.h"
#include "deploy/tree.h"

#define TEXT_MAX 65536
#define LABEL "security.selinux"
#define LABEL_MAX 512
#define FRESH_SUFFIX ".vmferry-new"

static int open_in(Tree *t, const char *path, int flags)
{
        const struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT };
        int fd;

        do
                fd = (int)syscall(SYS_openat2, t->fd, path, &how, sizeof(how));
        while (fd < 0 && errno == EAGAIN);
        return fd < 0 ? -errno : fd;
}

static int tree_fail(Target *t, int error, const char *path)
{
        return target_fail(t, error, "%s: %s", path, strerror(-error));
}

static int tree_is_there(Target *t, const char *path)
{
        int fd = open_in((Tree *)t, path, O_PATH | O_NOFOLLOW);

        if (fd < 0)
                return fd == -ENOENT || fd == -ENOTDIR ? 0 : tree_fail(t, fd, path);
        (void)fd_close(fd);
        return 1;
}

/* A regular file of known size; anything else is no text and no program of ours. */
static int open_file(Tree *t, const char *path, size_t *ret_size)
{
        struct stat st;
        /* Nonblocking: a FIFO in the image stops nobody. */
        _cleanup_close_ int fd = open_in(t, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);

        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        *ret_size = (size_t)st.st_size;
        return TAKE_FD(fd);
}

int tree_read_head(Tree *t, const char *path, void *buffer, size_t n, size_t *ret_n)
{
        size_t size = 0;
        _cleanup_close_ int fd = open_file(t, path, &size);

        return fd < 0 ? fd : fs_read_all(fd, buffer, n, ret_n);
}

static int tree_is_same(Target *t, const char *path, const void *data, size_t n)
{
        size_t size = 0, n_read = 0;
        _cleanup_free_ uint8_t *old = NULL;
        _cleanup_close_ int fd = open_file((Tree *)t, path, &size);

        if (fd < 0)
                return fd == -ENOENT || fd == -ENOTDIR || fd == -EINVAL ? 0 : tree_fail(t, fd, path);
        if (size != n)
                return 0;
        old = malloc(n ?: 1);
        int r = old ? fs_read_all(fd, old, n, &n_read) : -ENOMEM;
        if (r < 0)
                return tree_fail(t, r, path);
        return n_read == n && memcmp(old, data, n) == 0;
}

static int tree_read(Target *t, const char *path, char **ret)
{
        _cleanup_free_ char *text = NULL;
        size_t size = 0, n = 0;
        _cleanup_close_ int fd = open_file((Tree *)t, path, &size);

        if (fd < 0)
                return tree_fail(t, fd, path);
        if (size > TEXT_MAX)
                return target_fail(t, -EFBIG, "%s is too large", path);
        text = malloc(size + 1);
        int r = text ? fs_read_all(fd, text, size, &n) : -ENOMEM;
        if (r < 0)
                return tree_fail(t, r, path);
        text[n] = '\0';
        *ret = TAKE(text);
        return 0;
}

/* The directory of a path, which is there, and its last component, which points into path. */
static int open_parent(Tree *t, const char *path, const char **ret_name)
{
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *directory = slash > path ? strndup(path, (size_t)(slash - path)) : strdup("/");

        if (!directory)
                return -ENOMEM;
        *ret_name = slash + 1;
        return open_in(t, directory, O_RDONLY | O_DIRECTORY);
}

static int tree_read_link(Target *t, const char *path, char **ret)
{
        char to[PATH_MAX];
        _cleanup_close_ int fd = open_in((Tree *)t, path, O_PATH | O_NOFOLLOW);

        if (fd < 0)
                return fd == -ENOENT || fd == -ENOTDIR ? 0 : tree_fail(t, fd, path);
        ssize_t n = readlinkat(fd, "", to, sizeof(to));
        if (n < 0) /* of what is no link there is none of an empty name */
                return errno == ENOENT || errno == EINVAL ? 0 : tree_fail(t, -errno, path);
        *ret = strndup(to, (size_t)n);
        return *ret ? 1 : tree_fail(t, -ENOMEM, path);
}

static int tree_make_directory(Target *t, const char *path)
{
        const char *name;
        _cleanup_close_ int parent = open_parent((Tree *)t, path, &name);

        if (parent < 0)
                return tree_fail(t, parent, path);
        Tree *tree = (Tree *)t;
        if (mkdirat(parent, name, 0755) < 0 ||
            fchownat(parent, name, tree->uid, tree->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
            fchmodat(parent, name, 0755, 0) < 0)
                return tree_fail(t, -errno, path);
        return 0;
}

/* Where something new is made, and under which name beside its own. */
static int open_place(Tree *t, const char *path, const char **ret_name, char **ret_fresh)
{
        _cleanup_close_ int parent = open_parent(t, path, ret_name);

        if (parent < 0)
                return parent;
        if (asprintf(ret_fresh, ".%s" FRESH_SUFFIX, *ret_name) < 0) {
                *ret_fresh = NULL;
                return -ENOMEM;
        }
        return TAKE_FD(parent);
}

static int write_fresh(const Tree *t, int parent, const char *fresh, const void *data, size_t n, mode_t mode)
{
        if (unlinkat(parent, fresh, 0) < 0 && errno != ENOENT)
                return -errno;
        _cleanup_close_ int fd = openat(parent, fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        int r = fs_write_all(fd, data, n);
        if (r < 0)
                return r;
        return fchown(fd, t->uid, t->gid) < 0 || fchmod(fd, mode) < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int tree_put(Target *t, const char *path, const void *data, size_t n, mode_t mode)
{
        _cleanup_free_ char *fresh = NULL;
        const char *name;
        _cleanup_close_ int parent = open_place((Tree *)t, path, &name, &fresh);

        if (parent < 0)
                return tree_fail(t, parent, path);
        int r = write_fresh((Tree *)t, parent, fresh, data, n, mode);
        if (r == 0 && (renameat(parent, fresh, parent, name) < 0 || fsync(parent) < 0))
                r = -errno;
        if (r == 0)
                return 0;
        (void)unlinkat(parent, fresh, 0);
        return tree_fail(t, r, path);
}

static int tree_link(Target *t, const char *path, const char *to)
{
        _cleanup_free_ char *fresh = NULL;
        const char *name;
        _cleanup_close_ int parent = open_place((Tree *)t, path, &name, &fresh);

        if (parent < 0)
                return tree_fail(t, parent, path);
        (void)unlinkat(parent, fresh, 0);
        if (symlinkat(to, parent, fresh) == 0 && renameat(parent, fresh, parent, name) == 0 &&
            fsync(parent) == 0)
                return 0;
        int r = -errno;
        (void)unlinkat(parent, fresh, 0);
        return tree_fail(t, r, path);
}

/* The attribute calls know no directory descriptor, but its name in /proc. The last component may be a link:
 * it has a label of its own. Returns the descriptor that the name needs. */
static int name_of(Tree *t, const char *path, char *ret, size_t n)
{
        const char *name;
        _cleanup_close_ int parent = open_parent(t, path, &name);

        if (parent < 0)
                return parent;
        int k = snprintf(ret, n, "/proc/self/fd/%d/%s", parent, name);
        return k < 0 || (size_t)k >= n ? -ENAMETOOLONG : TAKE_FD(parent);
}

static int tree_label(Target *t, const char *path, const char *like)
{
        char name[PATH_MAX], label[LABEL_MAX];
        _cleanup_close_ int from = name_of((Tree *)t, like, name, sizeof(name));

        if (from < 0)
                return tree_fail(t, from, like);
        ssize_t n = lgetxattr(name, LABEL, label, sizeof(label));
        if (n < 0)
                return errno == ENODATA || errno == EOPNOTSUPP ? 0 : tree_fail(t, -errno, like);
        _cleanup_close_ int to = name_of((Tree *)t, path, name, sizeof(name));
        if (to < 0)
                return tree_fail(t, to, path);
        return lsetxattr(name, LABEL, label, (size_t)n, 0) < 0 ? tree_fail(t, -errno, path) : 1;
}

int tree_open(Tree *t, const char *path)
{
        static const TargetOps ops = { tree_is_there,       tree_is_same, tree_read, tree_read_link,
                                       tree_make_directory, tree_put,     tree_link, tree_label };
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        *t = (Tree){ .target.ops = &ops, .uid = st.st_uid, .gid = st.st_gid };
        t->fd = TAKE_FD(fd);
        return 0;
}

void tree_done(Tree *t)
{
        t->fd = fd_close(t->fd);
}
