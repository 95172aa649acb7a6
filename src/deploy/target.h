/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The file system of a guest, however it is reached: through libguestfs, a mount, or the QEMU guest agent.
 * Paths are absolute in the guest. Every operation that fails leaves a sentence in `why`.
 */

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"

typedef struct Target Target;
typedef struct TargetOps {
        int (*is_there)(Target *t, const char *path); /* 1, 0, -errno; a link counts, wherever it leads */
        int (*is_same)(Target *t, const char *path, const void *data,
                       size_t n);                                  /* 1, 0 (absent too), -errno */
        int (*read)(Target *t, const char *path, char **ret);      /* text of at most 64 KiB */
        int (*read_link)(Target *t, const char *path, char **ret); /* 1, 0 (no link, or absent), -errno */
        int (*make_directory)(Target *t, const char *path);        /* one, root's, 0755 */
        int (*put)(Target *t, const char *path, const void *data, size_t n,
                   mode_t mode);                                  /* whole or not at all, root's */
        int (*link)(Target *t, const char *path, const char *to); /* a symlink, replaced */
        /* Gives path the SELinux label of another one. 1, 0: that has none, -errno. NULL: the guest's own
         * kernel does it. */
        int (*label)(Target *t, const char *path, const char *like);
} TargetOps;

struct Target {
        const TargetOps *ops;
        const volatile sig_atomic_t
                *interrupted; /* nonzero: stop at the next step; NULL: a signal ends us */
        char why[512];
};

int target_fail(Target *t, int error, const char *format, ...)
        _printf_(3, 4); /* fills `why`; returns error */
