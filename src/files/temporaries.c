/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Temporary names, made and recognised. A name that only looks a little like ours is the user's file.
 */

#include "files/temporaries.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/walk.h"

#define PREFIX ".vmferry-"
#define SUFFIX ".part"

void temporaries_format(char ret_name[TEMPORARY_NAME_SIZE], const char *transfer_id, uint64_t number)
{
        (void)snprintf(ret_name, TEMPORARY_NAME_SIZE, PREFIX "%.32s-%" PRIu64 SUFFIX, transfer_id, number);
}

bool temporaries_is(const char *name, char *ret_id)
{
        size_t n_id, n_number;
        const char *id;

        if (!str_has_prefix(name, PREFIX))
                return false;
        id = name + strlen(PREFIX);
        n_id = strspn(id, "0123456789abcdef");
        if (n_id == 0 || n_id >= TEMPORARY_ID_SIZE || id[n_id] != '-')
                return false;
        n_number = strspn(id + n_id + 1, "0123456789");
        if (n_number == 0 || n_number > 20 || !str_eq(id + n_id + 1 + n_number, SUFFIX))
                return false;
        if (ret_id) {
                memcpy(ret_id, id, n_id);
                ret_id[n_id] = 0;
        }
        return true;
}

void temporaries_remove(int dir_fd, const char *transfer_id)
{
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dirent *de;
        DIR *d;

        d = fd >= 0 ? fdopendir(fd) : NULL;
        if (!d) {
                (void)fd_close(fd);
                return;
        }
        while ((de = readdir(d))) {
                char id[TEMPORARY_ID_SIZE];

                if (temporaries_is(de->d_name, id) && str_eq(id, transfer_id))
                        (void)unlinkat(dir_fd, de->d_name, 0);
        }
        (void)closedir(d);
}

static void sweep_tree(int fd, const char *transfer_id)
{
        WalkItem item;
        WalkStep step;
        Walk *w;

        if (walk_new(fd, &w) < 0) {
                (void)fd_close(fd);
                return;
        }
        while ((step = walk_next(w, &item)) != WALK_END)
                if (step == WALK_OBJECT) {
                        char id[TEMPORARY_ID_SIZE];

                        if (temporaries_is(item.name, id) && str_eq(id, transfer_id))
                                (void)unlinkat(item.dir_fd, item.name, 0);
                }
        (void)walk_free(w);
}

static bool has_mark(int dir_fd, const char *transfer_id)
{
        char mark[TEMPORARY_NAME_SIZE];

        temporaries_format(mark, transfer_id, 0);
        return dir_fd >= 0 && faccessat(dir_fd, mark, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
}

void temporaries_sweep(const char *path, const char *name, bool is_tree, const char *transfer_id)
{
        _cleanup_free_ char *last = NULL;
        _cleanup_close_ int parent = fs_open_parent(path, &last);
        _cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        bool is_root = str_eq(name, "") || has_mark(parent, transfer_id);
        int root;

        if (parent >= 0)
                temporaries_remove(parent, transfer_id);
        if (dir < 0)
                return;
        temporaries_remove(dir, transfer_id);
        if (!is_tree || (!is_root && !name))
                return;
        /* The directory may be / or a home: what was there before is not looked through. */
        root = openat(dir, is_root ? "." : name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (root >= 0)
                sweep_tree(root, transfer_id);
}
