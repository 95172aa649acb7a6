/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Configuration files in the systemd manner: [Section], Key=value, '#' and ';' comments, a backslash
 * continues a line. Tells every line's number, and goes on behind a line that it cannot read. For both
 * daemons.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One assignment, in file order; section is "" before the first. key and value NULL: a section begins here.
 * Return 0 to go on, negative errno to stop. */
typedef int (*IniAssign)(void *userdata, const char *file, unsigned line, const char *section,
                         const char *key, const char *value);
/* A line that is none: why is a sentence. */
typedef void (*IniComplain)(void *userdata, const char *file, unsigned line, const char *why);

#define INI_FILE_MAX (1024u * 1024)

int ini_parse(const char *file, const char *text, size_t n, IniAssign assign, IniComplain complain,
              void *userdata);
/* 0, -errno of open or read, or what assign returned; -EFBIG past INI_FILE_MAX. */
int ini_read(const char *file, IniAssign assign, IniComplain complain, void *userdata);
/* NAME.conf and NAME.conf.d/ files of dirs (NULL-terminated, later ones override earlier ones by file name;
 * an empty file or a link to /dev/null masks), in order: paths, NULL-terminated, malloc'ed; free with
 * ini_files_free(). suffix ".conf" or ".action". */
int ini_list_files(const char *const *dirs, const char *suffix, char ***ret);
char **ini_files_free(char **files);

/* "yes true on 1", "no false off 0". 0, -EINVAL. */
int ini_bool(const char *value, bool *ret);
/* "5", "30s", "5min 20s", "2h", "100ms", "10us", "7d", "infinity"; a bare number is seconds. */
int ini_usec(const char *value, uint64_t *ret);
/* Decimal, with K, M, G, T (powers of 1024). */
int ini_size(const char *value, uint64_t *ret);
