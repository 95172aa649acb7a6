/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The paths of cp, as people spell them and as hostd takes them: absolute, without empty components and ".".
 * What is wrong with a guest's path is for the one to say who is asked for it: ".." and relative paths stay.
 */

#include <stdbool.h>

/* GUEST:PATH, where no slash stands before the colon; the colon is the one before the first slash, or the
 * first one. Returns the path; *ret_guest is malloc'ed. NULL: a local path. */
const char *copy_path_split(const char *s, char **ret_guest);
/* A path of another machine, by its letters alone. A last "." leaves a slash at the end, and *ret_contents
 * true, as "/" does: what is in the directory is meant, not a directory of that name. malloc'ed; NULL: no
 * memory. */
char *copy_path_clean(const char *s, bool *ret_contents);
/* A path here, resolved up to the last component, which may be missing; a last "." or ".." is resolved too,
 * and the same as above. malloc'ed; NULL with errno. */
char *copy_path_resolve(const char *s, bool *ret_contents);
/* The last component of an absolute path; "" of "/". malloc'ed; NULL: no memory. */
char *copy_path_name(const char *path);
