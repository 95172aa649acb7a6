/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The source: opened, judged, recognised and counted. A symlink given as the source itself is followed.
 */

#include "files/sender-state.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/vfs.h>

#include "base/base.h"
#include "base/fs.h"

#define SCAN_SLICE 1024

DEFINE_CLEANUP(Sender *, sender_free);

static _printf_(3, 4) WireError refuse(char **ret_text, WireError error, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        if (vasprintf(ret_text, format, ap) < 0)
                *ret_text = NULL;
        va_end(ap);
        return error;
}

static WireError refuse_errno(char **ret_text, int error, const char *what, const char *path)
{
        return refuse(ret_text, wire_error_from_errno(error), "%s %s: %s", what, path, strerror(error));
}

/* Files of procfs and its like tell a size that means nothing. */
bool sender_is_pseudo_file(int fd, const struct stat *st)
{
        struct statfs fs;

        if (st->st_blocks > 0 || st->st_size > 4096 || fstatfs(fd, &fs) < 0)
                return false;
        switch ((unsigned long)fs.f_type) {
        case PROC_SUPER_MAGIC:
        case SYSFS_MAGIC:
        case DEBUGFS_MAGIC:
        case TRACEFS_MAGIC:
        case SECURITYFS_MAGIC:
        case CGROUP_SUPER_MAGIC:
        case CGROUP2_SUPER_MAGIC:
                return true;
        default:
                return false;
        }
}

/* Opens the source by its path. A device or a FIFO outside the roots is not even opened: that alone can do
 * harm. */
static WireError open_source(Sender *s, const SenderConfig *config, char **ret_text)
{
        _cleanup_close_ int probe = -EBADF;
        struct stat st;
        int r;

        if (config->roots) {
                probe = open(config->path, O_PATH | O_CLOEXEC);
                if (probe < 0 || fstat(probe, &st) < 0)
                        return refuse_errno(ret_text, errno, "Cannot open", config->path);
                r = fs_is_beneath_roots(probe, config->roots);
                if (r < 0)
                        return refuse_errno(ret_text, -r, "Cannot tell where this is:", config->path);
                if (r == 0)
                        return refuse(ret_text, WIRE_PERMISSION_DENIED,
                                      "The guest's policy does not let %s be read", config->path);
        }
        s->root_fd = open(config->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (s->root_fd < 0)
                return errno == ENXIO ? refuse(ret_text, WIRE_UNSUPPORTED, "%s is a socket", config->path)
                                      : refuse_errno(ret_text, errno, "Cannot open", config->path);
        if (fstat(s->root_fd, &s->root_st) < 0)
                return refuse_errno(ret_text, errno, "Cannot look at", config->path);
        if (config->roots && (s->root_st.st_dev != st.st_dev || s->root_st.st_ino != st.st_ino))
                return refuse(ret_text, WIRE_SOURCE_CHANGED, "%s was replaced while it was opened",
                              config->path);
        return WIRE_OK;
}

/* A descriptor of the caller's. A file is opened once more where that is allowed, for looking for holes
 * moves the offset, which is shared with the caller. */
static WireError adopt_source(Sender *s, int fd, char **ret_text)
{
        char link[64];
        off_t at;
        int own;

        s->root_fd = fd;
        if (fstat(fd, &s->root_st) < 0)
                return refuse_errno(ret_text, errno, "Cannot look at", "the descriptor");
        if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
                return refuse(ret_text, WIRE_INVALID_ARGS, "The descriptor is not open for reading");
        if (!S_ISREG(s->root_st.st_mode))
                return WIRE_OK;
        at = lseek(fd, 0, SEEK_CUR);
        s->base = at > 0 ? (uint64_t)at : 0;
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        own = open(link, O_RDONLY | O_CLOEXEC);
        if (own >= 0) {
                (void)fd_close(s->root_fd);
                s->root_fd = own;
        } else
                s->root_st.st_blocks = s->root_st.st_size / 512 + 1; /* no holes for us to look for */
        return WIRE_OK;
}

static void find_name(const char *path, char ret_name[256])
{
        size_t end = strlen(path), start;

        while (end > 0 && path[end - 1] == '/')
                end--;
        for (start = end; start > 0 && path[start - 1] != '/';)
                start--;
        (void)snprintf(ret_name, 256, "%.*s", (int)MIN(end - start, (size_t)255), path + start);
}

static void count(Sender *s, const struct stat *st)
{
        uint64_t size = (uint64_t)st->st_size, allocated = (uint64_t)st->st_blocks * 512;

        s->source.n_bytes += size;
        s->n_allocated += MIN(size, allocated);
}

static WireError start_tree(Sender *s, char **ret_text)
{
        int fds[2] = { openat(s->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                       openat(s->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) };

        if (fds[0] < 0 || fds[1] < 0) {
                int error = errno;

                (void)fd_close(fds[0]);
                (void)fd_close(fds[1]);
                return refuse_errno(ret_text, error, "Cannot enter", s->source.name);
        }
        s->source.is_tree = true;
        s->links = links_new();
        s->scan_links = links_new();
        if (walk_new(fds[0], &s->scan) < 0) {
                (void)fd_close(fds[1]);
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        }
        if (walk_new(fds[1], &s->walk) < 0 || !s->links || !s->scan_links)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        return WIRE_OK;
}

WireError sender_new(const SenderConfig *config, Sender **ret, char **ret_text)
{
        _cleanup_(sender_freep) Sender *s = calloc(1, sizeof *s);
        const char *shown = config->fd >= 0 ? "The descriptor" : config->path;
        WireError error;

        *ret_text = NULL;
        if (!s) {
                (void)fd_close(config->fd);
                return WIRE_FAILED;
        }
        s->root_fd = config->fd >= 0 ? config->fd : -EBADF;
        s->preserve = config->preserve;
        s->negotiate = config->negotiate;
        s->reported = config->reported;
        s->userdata = config->userdata;
        s->progress.text = s->progress.path = "";
        s->digest = digest_new();
        s->parser = record_parser_new();
        if (!s->digest || !s->parser)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");

        error = config->fd >= 0 ? adopt_source(s, config->fd, ret_text) : open_source(s, config, ret_text);
        if (error != WIRE_OK)
                return error;
        find_name(config->fd >= 0 || !config->path ? "" : config->path, s->source.name);
        s->source.inode = s->root_st.st_ino;
        s->source.mtime_sec = s->root_st.st_mtim.tv_sec;
        s->source.mtime_nsec = (uint32_t)s->root_st.st_mtim.tv_nsec;

        switch (s->root_st.st_mode & S_IFMT) {
        case S_IFDIR:
                error = start_tree(s, ret_text);
                if (error != WIRE_OK)
                        return error;
                break;
        case S_IFREG:
                s->is_pseudo = sender_is_pseudo_file(s->root_fd, &s->root_st);
                s->source.is_stream = s->is_pseudo;
                break;
        default:
                s->source.is_stream = true;
        }
        if (s->source.is_stream) {
                s->source.n_bytes = SIZE_UNKNOWN;
                s->n_allocated = SIZE_UNKNOWN;
                s->source.n_files = 1;
                s->scan_done = true;
        } else if (!s->source.is_tree) {
                count(s, &s->root_st);
                s->source.n_bytes -= MIN(s->base, s->source.n_bytes);
                s->source.n_files = 1;
                s->scan_done = true;
        }
        if (config->expect_size != SIZE_UNKNOWN && !s->source.is_stream &&
            ((!s->source.is_tree && s->source.n_bytes != config->expect_size) ||
             s->source.inode != config->expect_inode || s->source.mtime_sec != config->expect_mtime_sec ||
             s->source.mtime_nsec != config->expect_mtime_nsec))
                return refuse(ret_text, WIRE_SOURCE_CHANGED,
                              "%s has changed since the transfer began; start it again", shown);
        *ret = TAKE(s);
        return WIRE_OK;
}

int sender_scan(Sender *s, SenderSource *ret)
{
        for (int i = 0; !s->scan_done && i < SCAN_SLICE; i++) {
                WalkItem item;
                struct stat st;
                WalkStep step = walk_next(s->scan, &item);

                if (step == WALK_END) {
                        s->scan = walk_free(s->scan);
                        s->scan_links = links_free(s->scan_links);
                        s->scan_done = true;
                } else if (step == WALK_OBJECT) {
                        if (item.type != DT_REG && item.type != DT_LNK)
                                continue;
                        s->source.n_files++;
                        if (item.type == DT_LNK ||
                            fstatat(item.dir_fd, item.name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                            !S_ISREG(st.st_mode))
                                continue;
                        if (st.st_nlink > 1 && links_meet(s->scan_links, &st, ""))
                                continue;
                        count(s, &st);
                }
        }
        *ret = s->source;
        if (s->scan_done)
                return 0;
        ret->n_bytes = ret->n_files = SIZE_UNKNOWN;
        return 1;
}
