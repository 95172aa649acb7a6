/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Names of files that are not whole yet: .vmferry-<transfer id>-<entry>.part, beside their destination.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEMPORARY_NAME_SIZE 72 /* ".vmferry-" + 32 + "-" + 20 + ".part" + NUL */
#define TEMPORARY_ID_SIZE 33

void temporaries_format(char ret_name[TEMPORARY_NAME_SIZE], const char *transfer_id, uint64_t number);
/* ret_id may be NULL. */
bool temporaries_is(const char *name, char *ret_id);
/* Removes those of a transfer from an open directory. */
void temporaries_remove(int dir_fd, const char *transfer_id);
/* What is left of a transfer at its destination: beside the path, in it, and where it was a tree anywhere
 * beneath its root, which is the path if the transfer had made that directory, or `name` in it ("": the path
 * itself; NULL: there can be none in it). */
void temporaries_sweep(const char *path, const char *name, bool is_tree, const char *transfer_id);
