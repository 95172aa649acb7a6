/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A note is a file named like the transfer, with "tree" or "file" and the path in it, and behind a NUL the
 * source's name, if it has one.
 */

#include "guestd/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/temporaries.h"
#include "guestd/config.h"
#include "guestd/log.h"
#include "proto/limits.h"
#include "proto/name.h"

#define NOTE_MAX (PATH_BYTES_MAX + NAME_BYTES_MAX + 8)
#define SWEPT_MAX 1024u /* at once; the rest at the next handshake */

static const char *const dirs[] = { STATE_DIR, RUNTIME_DIR };

static int open_dir(const char *parent, bool make)
{
        _cleanup_free_ char *path = NULL;
        int fd;

        if (asprintf(&path, "%s/partial", parent) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        if (make &&
            ((mkdir(parent, 0755) < 0 && errno != EEXIST) || (mkdir(path, 0700) < 0 && errno != EEXIST)))
                return -errno;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

void leftovers_note(const char *id, const char *path, const char *name, bool is_tree)
{
        _cleanup_free_ char *text = NULL;
        int n = -1;

        if (name_is_id(id) && name)
                n = asprintf(&text, "%s %s%c%s", is_tree ? "tree" : "file", path, 0, name);
        else if (name_is_id(id))
                n = asprintf(&text, "%s %s", is_tree ? "tree" : "file", path);
        if (n < 0) {
                text = NULL;
                return;
        }
        for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
                _cleanup_close_ int dir = open_dir(dirs[i], true);
                _cleanup_close_ int fd =
                        dir < 0 ? -EBADF
                                : openat(dir, id, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
                                         0600);
                if (fd >= 0 && fs_write_all(fd, text, (size_t)n) == 0)
                        return;
        }
        log_debug("Push %s is not noted: what it may leave stays", id);
}

void leftovers_drop(const char *id)
{
        for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
                _cleanup_close_ int dir = open_dir(dirs[i], false);
                if (dir >= 0 && name_is_id(id))
                        (void)unlinkat(dir, id, 0);
        }
}

static bool is_live(json_object *live, const char *id)
{
        for (size_t i = 0; i < json_object_array_length(live); i++)
                if (str_eq(json_object_get_string(json_object_array_get_idx(live, i)), id))
                        return true;
        return false;
}

static size_t find_dead(json_object *live, char (*ret)[TEMPORARY_ID_SIZE])
{
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
                int fd = open_dir(dirs[i], false);
                DIR *d = fd < 0 ? NULL : fdopendir(fd);

                if (!d) {
                        (void)fd_close(fd);
                        continue;
                }
                for (struct dirent *de; n < SWEPT_MAX && (de = readdir(d));)
                        if (name_is_id(de->d_name) && !is_live(live, de->d_name))
                                (void)snprintf(ret[n++], TEMPORARY_ID_SIZE, "%.32s", de->d_name);
                (void)closedir(d);
        }
        return n;
}

static void sweep(const char *id)
{
        char note[NOTE_MAX + 1];
        const char *name;

        for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
                _cleanup_close_ int dir = open_dir(dirs[i], false);
                _cleanup_close_ int fd =
                        dir < 0 ? -EBADF : openat(dir, id, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
                ssize_t n = fd < 0 ? -1 : read(fd, note, NOTE_MAX);

                if (n < 5)
                        continue;
                note[n] = 0;
                name = memchr(note, 0, (size_t)n);
                if (name)
                        name++;
                if (name_is_absolute_path(note + 5) && !(name && strchr(name, '/')))
                        temporaries_sweep(note + 5, name, str_has_prefix(note, "tree"), id);
        }
        leftovers_drop(id);
}

void leftovers_sweep(Loop *l, json_object *untrusted_live)
{
        static char dead[SWEPT_MAX][TEMPORARY_ID_SIZE];
        size_t n;

        if (!json_object_is_type(untrusted_live, json_type_array))
                return;
        n = find_dead(untrusted_live, dead);
        if (n == 0 || loop_fork(l, NULL, 0) != 0) /* no child: at the next handshake */
                return;
        for (size_t i = 0; i < n; i++)
                sweep(dead[i]);
        _exit(0);
}
