/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A guest's file system that is mounted here. Its links lead where they lead in the guest: a path is
 * resolved with the tree as its root (openat2(2), Linux 5.6), so that nothing in it can point at a file of
 * the host.
 */

#include "deploy/target.h"

typedef struct Tree {
        Target target; /* first */
        int fd;        /* of its root */
        uid_t uid;     /* whose root is: root's, in a guest */
        gid_t gid;
} Tree;

int tree_open(Tree *t, const char *path); /* 0, -errno */
void tree_done(Tree *t);
/* The first bytes of a regular file, however long it is: 0 and *ret_n, -errno. */
int tree_read_head(Tree *t, const char *path, void *buffer, size_t n, size_t *ret_n);
