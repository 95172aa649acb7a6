/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * libguestfs as it is at run time: half a gigabyte comes with it, and only one of the ways into a guest
 * needs it. So it is no dependency of the program..
 */

#include <guestfs.h>

#define GUESTFS_LIBRARY "libguestfs.so.0"
#define GUESTFS_FUNCTIONS(X)                                                                                \
        X(add_domain)                                                                                       \
        X(add_drive_opts)                                                                                   \
        X(chmod)                                                                                            \
        X(chown)                                                                                            \
        X(close)                                                                                            \
        X(create)                                                                                           \
        X(exists)                                                                                           \
        X(file_architecture)                                                                                \
        X(filesize)                                                                                         \
        X(inspect_get_arch)                                                                                 \
        X(inspect_get_mountpoints)                                                                          \
        X(inspect_get_type)                                                                                 \
        X(inspect_os)                                                                                       \
        X(is_symlink)                                                                                       \
        X(last_errno)                                                                                       \
        X(last_error)                                                                                       \
        X(launch)                                                                                           \
        X(lgetxattr)                                                                                        \
        X(list_devices)                                                                                     \
        X(list_filesystems)                                                                                 \
        X(list_partitions)                                                                                  \
        X(ln_sf)                                                                                            \
        X(lsetxattr)                                                                                        \
        X(lvs)                                                                                              \
        X(mkdir)                                                                                            \
        X(mount)                                                                                            \
        X(mount_ro)                                                                                         \
        X(read_file)                                                                                        \
        X(readlink)                                                                                         \
        X(rename)                                                                                           \
        X(rm_f)                                                                                             \
        X(set_error_handler)                                                                                \
        X(shutdown)                                                                                         \
        X(sync)                                                                                             \
        X(umount_all)                                                                                       \
        X(vfs_type)                                                                                         \
        X(write)

typedef struct GuestfsLibrary {
#define X(name) __typeof__(&guestfs_##name) name;
        GUESTFS_FUNCTIONS(X)
#undef X
} GuestfsLibrary;

/* NULL: it isn't there, or older than 1.26; *ret_why is a sentence. */
const GuestfsLibrary *guestfs_library(const char **ret_why);
