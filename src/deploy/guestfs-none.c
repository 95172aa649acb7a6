/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In place of guestfs-image.c where libguestfs's header was not there at build time.
 */

#include "deploy/guestfs-image.h"

static Target *none_make(void)
{
        return calloc(1, sizeof(Target));
}

static int none_open(Target *t, const Disks *d, const Program *p, bool read_only)
{
        return target_fail(t, -ENOTSUP, "this vmferry was built without libguestfs: try --backend=nbd");
}

static int none_act(Target *t)
{
        return 0;
}

static Target *none_free(Target *t)
{
        free(t);
        return NULL;
}

const ImageBackend guestfs_image_backend = { "libguestfs", none_make, none_open,
                                             none_act,     none_act,  none_free };
