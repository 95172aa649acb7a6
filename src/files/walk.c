/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The walk. Directories are read by getdents64(2) as a whole when they are entered, names in one block with
 * an index to sort; a descriptor stays open per level so that everything below is opened relative to it.
 */

#include "files/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/base.h"
#include "proto/limits.h"

typedef struct Level {
        int fd;
        char *names; /* each: d_type, name, NUL */
        size_t n_names, allocated;
        size_t *index;
        size_t n_index, next;
        size_t n_path; /* length of the path up to here */
} Level;

struct Walk {
        Level *levels;
        size_t n_levels, n_allocated;
        int root_fd;
        bool started;
        int list_error; /* of the directory just entered */
        char path[PATH_BYTES_MAX + 1];
};

static void level_done(Level *l)
{
        (void)fd_close(l->fd);
        free(l->names);
        free(l->index);
}

int walk_new(int root_fd, Walk **ret)
{
        Walk *w = calloc(1, sizeof *w);

        if (!w) {
                (void)fd_close(root_fd);
                return -ENOMEM;
        }
        w->root_fd = root_fd;
        *ret = w;
        return 0;
}

Walk *walk_free(Walk *w)
{
        if (!w)
                return NULL;
        for (size_t i = 0; i < w->n_levels; i++)
                level_done(&w->levels[i]);
        (void)fd_close(w->root_fd);
        free(w->levels);
        free(w);
        return NULL;
}

static int add_name(Level *l, unsigned char type, const char *name)
{
        size_t n = strlen(name) + 2;

        if (l->allocated - l->n_names < n) {
                size_t want = MAX(l->allocated * 2, (size_t)4096);
                char *p = realloc(l->names, want);

                if (!p)
                        return -ENOMEM;
                l->names = p;
                l->allocated = want;
        }
        l->names[l->n_names] = (char)type;
        memcpy(l->names + l->n_names + 1, name, n - 1);
        l->n_names += n;
        l->n_index++;
        return 0;
}

static int compare(const void *a, const void *b, void *names)
{
        return strcmp((char *)names + *(const size_t *)a + 1, (char *)names + *(const size_t *)b + 1);
}

static int list(Level *l)
{
        _Alignas(struct dirent64) char buf[32768];
        size_t at = 0;

        for (;;) {
                long n = syscall(SYS_getdents64, l->fd, buf, sizeof buf);

                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                for (long o = 0; o < n;) {
                        const struct dirent64 *d = (const struct dirent64 *)(buf + o);
                        int r;

                        o += d->d_reclen;
                        if (str_eq(d->d_name, ".") || str_eq(d->d_name, ".."))
                                continue;
                        r = add_name(l, d->d_type, d->d_name);
                        if (r < 0)
                                return r;
                }
        }
        l->index = malloc(MAX(l->n_index, (size_t)1) * sizeof *l->index);
        if (!l->index) {
                l->n_index = 0;
                return -ENOMEM;
        }
        for (size_t i = 0; i < l->n_index; i++) {
                l->index[i] = at;
                at += strlen(l->names + at + 1) + 2;
        }
        qsort_r(l->index, l->n_index, sizeof *l->index, compare, l->names);
        return 0;
}

static int enter(Walk *w, int fd, size_t n_path)
{
        Level *l;
        int r;

        if (w->n_levels == w->n_allocated) {
                size_t want = w->n_allocated ? w->n_allocated * 2 : 16;
                Level *p = reallocarray(w->levels, want, sizeof *p);

                if (!p) {
                        (void)fd_close(fd);
                        return -ENOMEM;
                }
                w->levels = p;
                w->n_allocated = want;
        }
        l = &w->levels[w->n_levels++];
        *l = (Level){ .fd = fd, .n_path = n_path };
        r = list(l);
        if (r < 0) {
                /* What could be read of it is dropped: half a directory looks like a whole one. */
                l->n_index = 0;
                w->list_error = -r;
        }
        return 0;
}

static WalkStep failed(WalkItem *ret, const Walk *w, int error)
{
        *ret = (WalkItem){ .path = w->path, .dir_fd = -EBADF, .error = error };
        return WALK_FAILED;
}

static WalkStep enter_directory(Walk *w, int fd, size_t n_path, WalkItem *ret)
{
        int r = enter(w, fd, n_path);

        if (r < 0)
                return failed(ret, w, -r);
        *ret = (WalkItem){ .path = w->path, .name = "", .dir_fd = fd, .type = DT_DIR };
        return WALK_DIRECTORY;
}

WalkStep walk_next(Walk *w, WalkItem *ret)
{
        const char *entry, *name;
        size_t n_name, n_path;
        unsigned char type;
        Level *l;

        if (w->list_error) {
                int error = w->list_error;

                w->list_error = 0;
                return failed(ret, w, error);
        }
        if (w->n_levels == 0) {
                if (w->started)
                        return WALK_END;
                w->started = true;
                return enter_directory(w, TAKE_FD(w->root_fd), 0, ret);
        }
        l = &w->levels[w->n_levels - 1];
        w->path[l->n_path] = 0;
        if (l->next == l->n_index) {
                level_done(l);
                w->n_levels--;
                *ret = (WalkItem){ .path = w->path, .name = "", .dir_fd = -EBADF };
                return WALK_LEAVE;
        }

        entry = l->names + l->index[l->next++];
        type = (unsigned char)entry[0];
        name = entry + 1;
        n_name = strlen(name);
        n_path = l->n_path + (l->n_path > 0) + n_name;
        if (n_path > PATH_BYTES_MAX)
                return failed(ret, w, ENAMETOOLONG);
        if (l->n_path > 0)
                w->path[l->n_path] = '/';
        memcpy(w->path + n_path - n_name, name, n_name + 1);

        if (type == DT_UNKNOWN) {
                struct stat st;

                if (fstatat(l->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return failed(ret, w, errno);
                type = IFTODT(st.st_mode);
        }
        if (type == DT_DIR) {
                int fd;

                if (w->n_levels >= TREE_DEPTH_MAX)
                        return failed(ret, w, ELOOP);
                fd = openat(l->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (fd < 0)
                        return failed(ret, w, errno);
                return enter_directory(w, fd, n_path, ret);
        }
        *ret = (WalkItem){ .path = w->path, .name = name, .dir_fd = l->fd, .type = type };
        return WALK_OBJECT;
}
