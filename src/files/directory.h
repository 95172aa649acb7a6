/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One directory of a destination while something is still to happen in it: the ones on the way down, and
 * those that were left but wait for files to get their names. When the last holder lets go of it, it gets
 * its own mode and times.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files/attributes.h"

/* Where failures of single entries go; error is a positive errno, what a static sentence without a full
 * stop. */
typedef struct FailureSink {
        void (*failed)(void *userdata, uint64_t number, const char *path, int error, const char *what);
        void *userdata;
} FailureSink;

typedef struct Directory {
        unsigned n_refs;
        struct Directory *parent;
        int fd; /* negative: could not be made; all beneath it fails */
        uint64_t number;
        bool is_created;  /* by this transfer, in this attempt or one before */
        bool keeps_own;   /* attributes: the source's are not for it */
        bool has_acl;     /* a default ACL decides about modes in it */
        bool is_touched;  /* a name in it changed since its last fsync(2) */
        bool is_complete; /* LEAVE came: attributes hold */
        Entry object;     /* for attributes_set(); pointers are our own */
        EntryXattr acls[2];
        char *strings;
        const char
                *stale_id; /* a resume: whose leftover temporaries go when all is done; borrowed, or NULL */
        const char *mark_id; /* it has a mark of this transfer; borrowed, or NULL */
        char *path;          /* tree path, "" for the root */
        char last[256];      /* name of the entry before: order and uniqueness */
} Directory;

/* Takes fd (negative: a failed one) and a reference to parent. NULL: no memory, fd is closed. */
Directory *directory_new(Directory *parent, int fd, uint64_t number, const char *path);
Directory *directory_ref(Directory *d);
/* Keeps what of an entry is set at the end. 0, -ENOMEM. */
int directory_keep(Directory *d, const Entry *e);
/* An attempt that is cut leaves a directory that it made without its attributes. The mark in it, a temporary
 * of number 0, says so to the next one; what is beneath needs none. transfer_id is borrowed. */
void directory_mark(Directory *d, const char *transfer_id);
bool directory_find_mark(Directory *d, const char *transfer_id);
void directory_unmark(Directory *d);
/* Lets go of one. The last one sets the attributes of a complete directory, and makes that durable if
 * `sync`. */
void directory_unref(Directory *d, const AttributeRules *rules, bool sync, const FailureSink *sink);
/* tree path of a name in it, malloc'ed */
char *directory_join(const Directory *d, const char *name);
