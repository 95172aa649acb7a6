/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Files that are whole but not yet under their names. They are made durable together and then renamed, so
 * that a name shows the old or the new content also behind a crash, and small files do not pay for a disk
 * flush each.
 */

#include "files/directory.h"

typedef struct Publish Publish;

typedef struct PublishConfig {
        const char *transfer_id;
        bool no_replace; /* a name that exists by then is an error: EEXIST */
        bool is_single;  /* one file: its own fsync(2), never syncfs(2) */
        int root_fd;     /* a directory of the destination's file system; borrowed */
        const AttributeRules *rules;
        const FailureSink *sink;
        /* A file or link got its name. */
        void (*published)(void *userdata, uint64_t number);
        /* Why no link may be made to an entry, by its tree path, when it is due: a static sentence without a
         * full stop; NULL: it may. */
        const char *(*link_refused)(void *userdata, const char *target);
} PublishConfig;

int publish_new(const PublishConfig *config, Publish **ret); /* config is borrowed. 0, -ENOMEM */
Publish *publish_free(Publish *p, bool discard); /* discard: also removes the temporaries of what waits */

/* A whole temporary (of its name and number in d), n_dirty bytes of which may not be on disk. Takes fd;
 * takes a reference to d. 0, -ENOMEM. May publish what waits. */
int publish_add(Publish *p, Directory *d, const char *name, uint64_t number, int fd, uint64_t n_dirty);
/* A hard link `name` in d to what has the tree path `target` and lies in the open directory target_fd: made
 * when all before it have their names. Takes target_fd. */
int publish_add_link(Publish *p, Directory *d, const char *name, uint64_t number, int target_fd,
                     const char *target);
void publish_commit(Publish *p);
/* Makes the last names durable. 0 or -errno. */
int publish_finish(Publish *p);
/* The smallest number that still waits, or UINT64_MAX. */
uint64_t publish_oldest(const Publish *p);
bool publish_syncs_directories(const Publish *p);
