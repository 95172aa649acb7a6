/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Users and groups of this guest, by name or number. Reads /etc/passwd and /etc/group itself: a static glibc
 * has no NSS. What is not there is asked of getent(1) and id(1), which may block: only users_find_slow()
 * does that, and only children call it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/base.h"

typedef struct User {
        char *name, *home, *shell; /* never NULL after success */
        uid_t uid;
        gid_t gid;
        gid_t *groups; /* supplementary ones, gid included */
        size_t n_groups;
} User;

void user_done(User *u);
/* untrusted_name: a name, or decimal digits. 0; -ENOENT; -EINVAL: no name at all; -errno. */
int users_find(const char *untrusted_name, User *ret);
int users_find_uid(uid_t uid, User *ret);
int users_find_slow(const char *untrusted_name, User *ret);
int users_find_group(const char *name, gid_t *ret);
/* For tests: another root than "/" for the two files. NULL: back. */
void users_set_files(const char *passwd, const char *group);

/* The environment of a login: HOME USER LOGNAME SHELL PATH, LANG and TZ if guestd has them, TERM with a tty;
 * then `extra` (NAME=value), which wins. NULL-terminated, malloc'ed, free with users_environment_free().
 * NULL: no memory. */
char **users_environment(const User *u, bool tty, char *const *extra);
char **users_environment_free(char **env);
