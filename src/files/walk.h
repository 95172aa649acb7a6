/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A directory tree, depth first, each directory sorted by strcmp(3): the order of proto/entry.h. Follows no
 * symlink and never leaves the directory it was given. Holds one sorted directory per level, nothing else.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct Walk Walk;

typedef enum WalkStep {
        WALK_END,
        WALK_DIRECTORY, /* dir_fd is the directory itself; its objects follow, then its WALK_LEAVE */
        WALK_OBJECT,    /* `name` in dir_fd, of d_type `type` (DT_UNKNOWN: ask) and no directory */
        WALK_LEAVE,
        WALK_FAILED, /* `path` could not be entered or listed: error */
} WalkStep;

typedef struct WalkItem {
        const char *path; /* relative, "" for the root; valid until the next call, as are the others */
        const char *name;
        int dir_fd;
        unsigned char type;
        int error; /* errno; ELOOP: it lies deeper than TREE_DEPTH_MAX directories */
} WalkItem;

int walk_new(int root_fd, Walk **ret); /* takes root_fd. 0, -ENOMEM */
Walk *walk_free(Walk *w);
WalkStep walk_next(Walk *w, WalkItem *ret);
