/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What is on connected disks: partitions, logical volumes, whole-disk file systems, and what each holds.
 */

#include "deploy/nbd.h"

#define VOLUMES_MAX 64u
#define GROUPS_MAX 8u

typedef struct Volume {
        char device[128];
        char type[32]; /* as blkid(8) calls it; empty: nothing is known of it */
        char uuid[64], label[64], part_uuid[64];
        char table[16]; /* kind of partition table, of a disk whose partitions the kernel does not show */
        unsigned disk, partition; /* 0-based; 0: the whole disk, or a logical volume */
} Volume;

typedef struct Volumes {
        Volume volumes[VOLUMES_MAX];
        unsigned n;
        char groups[GROUPS_MAX][64]; /* of LVM, that were activated */
        unsigned n_groups;
        char lvm_config[512]; /* these disks, and nothing else of this host */
} Volumes;

/* Volume groups are activated. 0, -errno with t->why; call volumes_done in either case. */
int volumes_find(Volumes *v, Target *t, const Nbd *disks, unsigned n_disks);
/* Deactivates them. 0, -errno with t->why. */
int volumes_done(Volumes *v, Target *t);
/* As an fstab names it: UUID=, LABEL=, PARTUUID=, /dev/mapper/…, /dev/GROUP/NAME, /dev/vda2. NULL: none. */
const Volume *volumes_lookup(const Volumes *v, const char *source);
