/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Names of users and groups, both ways, from /etc/passwd and /etc/group. NSS is not asked: guestd is linked
 * statically, and both sides are to find the same. The last answers are remembered, for a tree has few
 * owners and many files.
 */

#include <stdbool.h>
#include <sys/types.h>

/* The name of an id, "" if it has none. Valid until the next call. */
const char *owner_user_name(uid_t uid);
const char *owner_group_name(gid_t gid);
bool owner_find_user(const char *name, uid_t *ret);
bool owner_find_group(const char *name, gid_t *ret);
/* "user:group", "user", ":group", numbers too; what is not named is -1. 0, -ENOENT (no such user or group),
 * -EINVAL. */
int owner_parse(const char *text, uid_t *ret_uid, gid_t *ret_gid);
