/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * guestd into the disks of a domain that doesn't run, or into an image: what a backend is for that, and the
 * work with one.
 */

#include "deploy/disks.h"
#include "deploy/program.h"

typedef struct ImageBackend {
        const char *name;
        /* Always a target, for its `why`; NULL: no memory. */
        Target *(*make)(void);
        /* Finds the one Linux on the disks, of the program's architecture, and makes it the target. 0,
         * -errno with t->why; close is called in either case. */
        int (*open)(Target *t, const Disks *d, const Program *p, bool read_only);
        int (*make_writable)(Target *t); /* 0, -errno with t->why */
        /* Writes everything out and takes everything back. 0, -errno with t->why. */
        int (*close)(Target *t);
        Target *(*free)(Target *t);
} ImageBackend;

const ImageBackend *image_backend(const char *name); /* NULL: there is none of that name */
/* name: an existing file, else a domain. The exit status; what happened was told. */
int image_run(const ImageBackend *b, const char *uri, const char *name, const Program *p, bool dry_run);
