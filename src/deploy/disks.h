/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The disks that are meant: one image, or those of a domain that doesn't run. What can be told without
 * opening them for writing is told here, the same for every backend.
 */

#include "deploy/domain.h"
#include "deploy/target.h"

#define DISKS_MAX 16u

typedef struct Disk {
        char *path;   /* absolute */
        char *format; /* as QEMU calls it */
} Disk;

typedef struct Disks {
        Disk disks[DISKS_MAX];
        unsigned n;
        unsigned n_remote;        /* of the domain, that are no file and no block device of this host */
        const char *uri, *domain; /* NULL for an image */
} Disks;

/* name: an existing file, else a domain. Disks that the domain may not write to are left out. 0, -errno with
 * t->why: there is none, it runs, it is in use, encrypted, corrupt, or cannot be written. */
int disks_find(Disks *d, Target *t, const char *uri, const char *name, bool read_only);
void disks_done(Disks *d);
/* Of a domain's XML: fills in disks, with the format that is said there (or NULL), and n_remote. 0;
 * -EBADMSG; -EPERM: a disk is encrypted; -E2BIG. */
int disks_parse(Disks *d, const char *untrusted_xml);
