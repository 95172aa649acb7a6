/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which disks a domain has, by its XML.
 */


#include "deploy/disks.h"
#include "../suite.h"

#define FILE_DISK "<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'/></disk>"
#define BLOCK_DISK "<disk type='block'><source dev='/dev/b'/></disk>"
#define CDROM "<disk type='file' device='cdrom'><source file='/c'/></disk>"
#define READ_ONLY "<disk type='file'><source file='/r'/><readonly/></disk>"
#define NETWORK "<disk type='network'><source protocol='rbd' name='p/i'/></disk>"
#define VOLUME "<disk type='volume' device='disk'><source pool='p' volume='v'/></disk>"
#define DRAWER "<disk type='file' device='disk'/>"
#define ENCRYPTED "<disk type='file'><source file='/e'><encryption format='luks'/></source></disk>"
#define DOMAIN(disks) "<domain><devices>" disks "</devices></domain>"

static const struct {
        const char *xml;
        int result;
        unsigned n, n_remote;
} cases[] = {
        { DOMAIN(FILE_DISK BLOCK_DISK), 0, 2, 0 },
        { DOMAIN(CDROM READ_ONLY DRAWER), 0, 0, 0 },
        { DOMAIN(NETWORK FILE_DISK VOLUME), 0, 1, 2 },
        { DOMAIN(ENCRYPTED), -EPERM, 0, 0 },
        { DOMAIN("<disk><source file='/e'/><encryption format='luks'/></disk>"), -EPERM, 0, 0 },
        { DOMAIN(""), 0, 0, 0 },
        { "<domain/>", 0, 0, 0 },
        { "<domain><devices>" FILE_DISK, -EBADMSG, 0, 0 },
        { "", -EBADMSG, 0, 0 },
        { DOMAIN(FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK
                         FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK),
          0, DISKS_MAX, 0 },
        { DOMAIN(FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK
                         FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK FILE_DISK),
          -E2BIG, DISKS_MAX, 0 },
};

static void empty(Disks *d)
{
        for (unsigned i = 0; i < d->n; i++) {
                free(d->disks[i].path);
                free(d->disks[i].format);
        }
}

START_TEST(test_table)
{
        Disks d = {};

        ck_assert_int_eq(disks_parse(&d, cases[_i].xml), cases[_i].result);
        ck_assert_uint_eq(d.n, cases[_i].n);
        ck_assert_uint_eq(d.n_remote, cases[_i].n_remote);
        empty(&d);
}
END_TEST

START_TEST(test_values)
{
        Disks d = {};

        ck_assert_int_eq(disks_parse(&d, DOMAIN(FILE_DISK BLOCK_DISK)), 0);
        ck_assert_str_eq(d.disks[0].path, "/a");
        ck_assert_str_eq(d.disks[0].format, "qcow2");
        ck_assert_str_eq(d.disks[1].path, "/dev/b");
        ck_assert_ptr_null(d.disks[1].format);
        empty(&d);
}
END_TEST

SUITE("disks-xml",
      { test_table, ELEMENTSOF(cases) },
      { test_values })
