/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loaded once, never unloaded.
 */

#include <dlfcn.h>
#include <stddef.h>

#include "deploy/guestfs-library.h"

const GuestfsLibrary *guestfs_library(const char **ret_why)
{
        static GuestfsLibrary library;
        void *handle = dlopen(GUESTFS_LIBRARY, RTLD_NOW | RTLD_NODELETE);

        if (!handle) {
                *ret_why = "libguestfs is not installed (Debian: libguestfs0); --backend=nbd needs qemu-nbd "
                           "and root instead";
                return NULL;
        }
#define X(name)                                                                                             \
        *(void **)&library.name = dlsym(handle, "guestfs_" #name);                                          \
        if (!library.name) {                                                                                \
                *ret_why = "libguestfs is too old: it has no guestfs_" #name;                               \
                return NULL;                                                                                \
        }
        GUESTFS_FUNCTIONS(X)
#undef X
        return &library;
}
