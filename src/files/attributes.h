/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What an object has besides its content: mode, times, owner, extended attributes (POSIX ACLs are those
 * too). Read for an Entry on the sending side, set from one on the receiving side.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "proto/entry.h"

/* The storage behind an Entry's xattrs. */
typedef struct Attributes {
        EntryXattr xattrs[XATTRS_MAX];
        uint8_t *buffer;
        size_t n_buffer, allocated;
} Attributes;

void attributes_done(Attributes *a);
/* Fills mode, times and, with preserve, owner and xattrs of e; fd may be -1 (no xattrs: a symlink). Pointers
 * are valid until the next call. 0, -E2BIG (more or larger xattrs than the protocol carries), -ENOMEM. */
int attributes_read(Attributes *a, int fd, const struct stat *st, bool preserve, Entry *e);

typedef struct AttributeRules {
        bool preserve;
        uint32_t mode; /* for files, instead of theirs; UINT32_MAX: theirs */
        uid_t uid;     /* asked for by the caller; -1: not */
        gid_t gid;
        mode_t umask; /* the process's, to know what openat(2) will have made of a mode */
} AttributeRules;

/* The mode that the object is to have in the end. */
uint32_t attributes_mode(const AttributeRules *rules, const Entry *e);
/* Sets all of them on an open file or directory whose mode is `mode_now` (UINT32_MAX: not known). 0 or
 * -errno; what the file system cannot keep is no error, *ret_note then says so in a static sentence. */
int attributes_set(const AttributeRules *rules, int fd, const Entry *e, uint32_t mode_now,
                   const char **ret_note);
/* Only the extended attributes, without ACLs: for a directory that has yet to be filled. */
int attributes_set_xattrs(const AttributeRules *rules, int fd, const Entry *e, const char **ret_note);
/* The same for a symlink: owner and times. */
int attributes_set_symlink(const AttributeRules *rules, int dir_fd, const char *name, const Entry *e);
