/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Which inodes with several names were met, and under which name first. Grows with such inodes only, and
 * forgets each when its last name was seen.
 */

#include <stdint.h>
#include <sys/stat.h>

typedef struct Links Links;

Links *links_new(void);
Links *links_free(Links *l);
/* The path under which the inode of st was met before, valid until the next call; NULL: it is new, and known
 * by `path` from now on (or, for want of memory, it is not: then it will be sent twice). */
const char *links_meet(Links *l, const struct stat *st, const char *path);
