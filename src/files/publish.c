/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Two ways to make a batch durable. syncfs(2): one call for all, where it is known to work and to tell of
 * errors (Linux 5.8). fsync(2) of each, after write-back of all was started, so that the first one's journal
 * commit covers the rest: everywhere else, and once syncfs(2) turned out slow, which means that it writes
 * somebody else's data.
 */

#include "files/publish.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/temporaries.h"

#define BATCH_FILES 1024u
#define BATCH_FILES_OPEN 96u /* each holds a descriptor */
#define BATCH_BYTES (16u * 1024 * 1024)
#define SYNCFS_SLOW_USEC (2 * USEC_PER_SEC)

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

typedef enum Durability { BY_NOTHING, BY_SYNCFS, BY_FSYNC } Durability;

typedef struct Waiting {
        Directory *d;
        uint64_t number;
        int fd; /* of the file, where each is synced; of the directory of a link's target */
        bool is_link;
        char *name;
        char *target; /* of a link: its tree path */
} Waiting;

struct Publish {
        const PublishConfig *config;
        Durability durability;
        Waiting waiting[BATCH_FILES];
        size_t n, n_open;
        uint64_t n_dirty;
        bool by_syncfs; /* some names were left to a later syncfs(2) */
};

static bool kernel_tells_of_errors(void)
{
        struct utsname u;
        unsigned long major, minor;
        char *end;

        if (uname(&u) < 0)
                return false;
        major = strtoul(u.release, &end, 10); /* sscanf(3) would cost a static binary 70 KiB */
        minor = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;
        return major > 5 || (major == 5 && minor >= 8);
}

static Durability find_durability(int root_fd, bool is_single)
{
        struct statfs fs;

        if (fstatfs(root_fd, &fs) < 0)
                return BY_FSYNC;
        switch ((unsigned long)fs.f_type) {
        case TMPFS_MAGIC:
        case RAMFS_MAGIC:
                return BY_NOTHING;
        case EXT4_SUPER_MAGIC:
        case XFS_SUPER_MAGIC:
        case BTRFS_SUPER_MAGIC:
        case F2FS_SUPER_MAGIC:
                return is_single || !kernel_tells_of_errors() ? BY_FSYNC : BY_SYNCFS;
        default:
                return BY_FSYNC;
        }
}

int publish_new(const PublishConfig *config, Publish **ret)
{
        Publish *p = calloc(1, sizeof *p);

        if (!p)
                return -ENOMEM;
        p->config = config;
        p->durability = find_durability(config->root_fd, config->is_single);
        *ret = p;
        return 0;
}

bool publish_syncs_directories(const Publish *p)
{
        return p->durability == BY_FSYNC;
}

static void waiting_done(Publish *p, Waiting *w)
{
        (void)fd_close(w->fd);
        free(w->name);
        free(w->target);
        directory_unref(w->d, p->config->rules, publish_syncs_directories(p), p->config->sink);
        *w = (Waiting){ .fd = -EBADF };
}

Publish *publish_free(Publish *p, bool discard)
{
        if (!p)
                return NULL;
        for (size_t i = 0; i < p->n; i++) {
                Waiting *w = &p->waiting[i];
                char temporary[TEMPORARY_NAME_SIZE];

                temporaries_format(temporary, p->config->transfer_id, w->number);
                if (discard && !w->is_link)
                        (void)unlinkat(w->d->fd, temporary, 0);
                waiting_done(p, w);
        }
        free(p);
        return NULL;
}

static void report(const Publish *p, const Waiting *w, int error, const char *what)
{
        _cleanup_free_ char *path = directory_join(w->d, w->name);

        p->config->sink->failed(p->config->sink->userdata, w->number, path ? path : w->name, error, what);
}

static int rename_temporary(const Publish *p, const Waiting *w, const char *temporary)
{
        int fd = w->d->fd;

        if (p->config->no_replace) {
                /* renameat2(2) is younger than the kernels of some guests; link(2) never replaces. */
                if (linkat(fd, temporary, fd, w->name, 0) >= 0) {
                        (void)unlinkat(fd, temporary, 0);
                        return 0;
                }
                if (errno != EPERM && errno != EOPNOTSUPP && errno != EMLINK)
                        return -errno;
                if (faccessat(fd, w->name, F_OK, AT_SYMLINK_NOFOLLOW) >= 0)
                        return -EEXIST;
        }
        return renameat(fd, temporary, fd, w->name) < 0 ? -errno : 0;
}

static const char *target_name(const Waiting *w)
{
        const char *slash = strrchr(w->target, '/');

        return slash ? slash + 1 : w->target;
}

static bool is_same(const Waiting *w)
{
        struct stat a, b;

        return fstatat(w->fd, target_name(w), &a, AT_SYMLINK_NOFOLLOW) >= 0 &&
               fstatat(w->d->fd, w->name, &b, AT_SYMLINK_NOFOLLOW) >= 0 && a.st_dev == b.st_dev &&
               a.st_ino == b.st_ino;
}

static int make_link(const Publish *p, const Waiting *w, const char *temporary)
{
        int r;

        if (linkat(w->fd, target_name(w), w->d->fd, w->name, 0) >= 0)
                return 0;
        if (errno != EEXIST)
                return -errno;
        if (is_same(w))
                return 0;
        if (p->config->no_replace)
                return -EEXIST;
        (void)unlinkat(w->d->fd, temporary, 0);
        if (linkat(w->fd, target_name(w), w->d->fd, temporary, 0) < 0)
                return -errno;
        r = renameat(w->d->fd, temporary, w->d->fd, w->name) < 0 ? -errno : 0;
        /* Between two names of one inode rename(2) does nothing, and says that it did. */
        (void)unlinkat(w->d->fd, temporary, 0);
        return r;
}

static void name_one(Publish *p, Waiting *w)
{
        char temporary[TEMPORARY_NAME_SIZE];
        const char *refused =
                w->is_link ? p->config->link_refused(p->config->sink->userdata, w->target) : NULL;
        int r;

        if (refused) {
                report(p, w, ENOLINK, refused);
                return;
        }
        temporaries_format(temporary, p->config->transfer_id, w->number);
        r = w->is_link ? make_link(p, w, temporary) : rename_temporary(p, w, temporary);
        if (r >= 0) {
                w->d->is_touched = true;
                p->config->published(p->config->sink->userdata, w->number);
                return;
        }
        if (!w->is_link)
                (void)unlinkat(w->d->fd, temporary, 0);
        report(p, w, -r,
               r == -EISDIR || r == -ENOTEMPTY ? "A directory is where the file should be"
               : w->is_link                    ? "Cannot link it to the file it shares its content with"
                                               : "Cannot give it its name");
}

/* Begins to write everything, so that the disk is busy with all of it when the first one is waited for. */
static void start_writeback(const Publish *p)
{
        for (size_t i = 0; i < p->n; i++)
                if (!p->waiting[i].is_link && p->waiting[i].fd >= 0)
                        (void)sync_file_range(p->waiting[i].fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

static int sync_all(Publish *p)
{
        uint64_t start = fs_now_usec();

        p->by_syncfs = true;
        if (syncfs(p->config->root_fd) < 0)
                return -errno;
        if (fs_now_usec() - start > SYNCFS_SLOW_USEC)
                p->durability = BY_FSYNC;
        return 0;
}

static void drop(Publish *p, Waiting *w, int error)
{
        char temporary[TEMPORARY_NAME_SIZE];

        report(p, w, error, "Cannot make it durable");
        temporaries_format(temporary, p->config->transfer_id, w->number);
        (void)unlinkat(w->d->fd, temporary, 0);
}

void publish_commit(Publish *p)
{
        bool each = p->durability == BY_FSYNC;
        int error = 0;

        if (p->n == 0)
                return;
        if (each)
                start_writeback(p);
        else if (p->durability == BY_SYNCFS && p->n_dirty > 0)
                error = -sync_all(p);
        for (size_t i = 0; i < p->n; i++) {
                Waiting *w = &p->waiting[i];
                int e = error;

                if (each && !w->is_link && w->fd >= 0 && fsync(w->fd) < 0 && errno != EINVAL)
                        e = errno;
                if (e && !w->is_link)
                        drop(p, w, e);
                else
                        name_one(p, w);
        }
        for (size_t i = 0; i < p->n; i++) {
                Waiting *w = &p->waiting[i];

                if (each && w->d->is_touched) {
                        w->d->is_touched = false;
                        if (fsync(w->d->fd) < 0 && errno != EINVAL && errno != EROFS)
                                report(p, w, errno, "Cannot make its name durable");
                }
                waiting_done(p, w);
        }
        p->n = p->n_open = 0;
        p->n_dirty = 0;
}

/* Takes fd and target. */
static int add(Publish *p, Directory *d, const char *name, uint64_t number, int fd, bool is_link,
               char *target)
{
        Waiting *w = &p->waiting[p->n];

        *w = (Waiting){ .number = number, .fd = fd, .is_link = is_link, .target = target };
        w->name = strdup(name);
        if (!w->name || (is_link && !target)) {
                (void)fd_close(fd);
                free(w->name);
                free(target);
                return -ENOMEM;
        }
        w->d = directory_ref(d);
        p->n++;
        if (fd >= 0)
                p->n_open++;
        if (p->n == BATCH_FILES || p->n_open >= BATCH_FILES_OPEN || p->n_dirty >= BATCH_BYTES)
                publish_commit(p);
        return 0;
}

int publish_add(Publish *p, Directory *d, const char *name, uint64_t number, int fd, uint64_t n_dirty)
{
        int r;

        if (p->durability != BY_FSYNC)
                fd = fd_close(fd);
        p->n_dirty += MAX(n_dirty, (uint64_t)1);
        r = add(p, d, name, number, fd, false, NULL);
        if (r < 0) {
                char temporary[TEMPORARY_NAME_SIZE];

                temporaries_format(temporary, p->config->transfer_id, number);
                (void)unlinkat(d->fd, temporary, 0);
        }
        return r;
}

int publish_add_link(Publish *p, Directory *d, const char *name, uint64_t number, int target_fd,
                     const char *target)
{
        return add(p, d, name, number, target_fd, true, strdup(target));
}

int publish_finish(Publish *p)
{
        publish_commit(p);
        return p->by_syncfs || p->durability == BY_SYNCFS ? sync_all(p) : 0;
}

uint64_t publish_oldest(const Publish *p)
{
        return p->n > 0 ? p->waiting[0].number : UINT64_MAX;
}
