/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The preflight of a destination. Symlinks on the way are the owner's and are followed; the name itself is
 * never followed any more once this has said which directory it is in.
 */

#include "files/place.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/temporaries.h"
#include "proto/name.h"

void place_done(Place *p)
{
        p->dir_fd = fd_close(p->dir_fd);
        free(p->name);
        p->name = NULL;
}

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

static bool is_single_name(const char *name)
{
        return name && !strchr(name, '/') && name_is_tree_path(name, strlen(name));
}

/* An interrupted tree left the temporary of its root beside it: then the directory at `path` is the object,
 * and not one that the object goes into. */
static bool is_resumed_root(const ReceiverConfig *config, int parent_fd)
{
        char temporary[TEMPORARY_NAME_SIZE];

        temporaries_format(temporary, config->transfer_id, 0);
        return config->resume && config->is_tree &&
               faccessat(parent_fd, temporary, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
}

/* What is in the tree goes into the directory at `path` itself. */
static bool is_contents(const ReceiverConfig *config)
{
        return config->is_tree && config->name && config->name[0] == 0;
}

static WireError find_directory(const ReceiverConfig *config, Place *p, char **ret_text)
{
        const char *path = config->path;
        size_t n = strlen(path);
        int error;

        p->dir_fd = fs_open_parent(path, &p->name);
        if (p->dir_fd >= 0 && is_resumed_root(config, p->dir_fd)) {
                p->is_ours = true;
                return WIRE_OK;
        }
        error = p->dir_fd < 0 ? -p->dir_fd : 0;
        place_done(p);
        p->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (p->dir_fd >= 0) {
                if (is_contents(config)) {
                        p->name = strdup("");
                } else {
                        if (!is_single_name(config->name))
                                return refuse(ret_text, WIRE_INVALID_PATH,
                                              "%s is a directory, and the source has no name that could be "
                                              "used in it",
                                              path);
                        p->name = strdup(config->name);
                }
                return p->name ? WIRE_OK : refuse(ret_text, WIRE_FAILED, "Out of memory");
        }
        if (errno == EACCES)
                return refuse_errno(ret_text, errno, "Cannot open", path);
        if (path[n - 1] == '/' &&
            !(errno == ENOENT && (is_contents(config) || (config->is_tree && config->slash_makes))))
                return errno == ENOTDIR ? refuse(ret_text, WIRE_EXISTS, "%s is no directory", path)
                                        : refuse_errno(ret_text, errno, "Cannot open the directory", path);
        if (error)
                return error == ENOTDIR
                               ? refuse(ret_text, WIRE_EXISTS,
                                        "A file is where the directory of %s should be", path)
                               : refuse_errno(ret_text, error, "Cannot open the directory of", path);
        p->dir_fd = fs_open_parent(path, &p->name);
        if (p->dir_fd < 0)
                return refuse_errno(ret_text, -p->dir_fd, "Cannot open the directory of", path);
        return WIRE_OK;
}

static WireError judge_existing(const ReceiverConfig *config, const Place *p, bool *ret_enters,
                                char **ret_text)
{
        struct stat st;

        *ret_enters = p->name[0] == 0;
        if (*ret_enters || fstatat(p->dir_fd, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return WIRE_OK;
        if (config->is_tree && !S_ISDIR(st.st_mode))
                return refuse(ret_text, WIRE_EXISTS, "A file is where the directory %s should be", p->name);
        if (!config->is_tree && S_ISDIR(st.st_mode))
                return refuse(ret_text, WIRE_EXISTS, "A directory is where the file %s should be", p->name);
        if (!config->is_tree && config->overwrite == OVERWRITE_FAIL && !config->resume)
                return refuse(ret_text, WIRE_EXISTS, "%s exists already", p->name);
        if (!config->is_tree && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
                return refuse(ret_text, WIRE_EXISTS,
                              "A device, pipe or socket is where the file %s should be", p->name);
        *ret_enters = S_ISDIR(st.st_mode);
        return WIRE_OK;
}

WireError place_find(const ReceiverConfig *config, Place *ret, char **ret_text)
{
        Place p = { .dir_fd = -EBADF };
        bool enters = false;
        WireError error;
        int r;

        if (!config->path || !name_is_absolute_path(config->path))
                return refuse(ret_text, WIRE_INVALID_PATH,
                              "A destination is an absolute path without . and ..");
        error = find_directory(config, &p, ret_text);
        if (error == WIRE_OK) {
                r = fs_is_beneath_roots(p.dir_fd, config->roots);
                if (r < 0)
                        error = refuse_errno(ret_text, -r, "Cannot tell where this is:", config->path);
                else if (r == 0)
                        error = refuse(ret_text, WIRE_PERMISSION_DENIED,
                                       "The guest's policy does not let %s be written", config->path);
        }
        if (error == WIRE_OK)
                error = judge_existing(config, &p, &enters, ret_text);
        if (error == WIRE_OK && faccessat(p.dir_fd, enters && p.name[0] ? p.name : ".", W_OK | X_OK, 0) < 0)
                error = refuse_errno(ret_text, errno, "Cannot write to the directory of", config->path);
        if (error != WIRE_OK) {
                place_done(&p);
                return error;
        }
        *ret = p;
        return WIRE_OK;
}
