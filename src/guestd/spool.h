/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The kept output of a detached process: segments NAME.<offset, 16 hex digits> in its job's directory, the
 * oldest of which go when there is too much. The supervisor writes, any number of followers read, each a
 * process of its own. A reader sees every byte that is still there, once and in order, and a line that says
 * how many are gone where they are.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SPOOL_SEGMENTS 8 /* of a full spool: an eighth goes at a time */
#define SPOOL_BYTES_MIN (64u * 1024)

typedef struct Spool {
        int dir_fd; /* borrowed */
        const char *name;
        int fd;                             /* the segment being written; -EBADF: none yet */
        uint64_t start, end, segment_start; /* offsets in the whole output */
        uint64_t n_max;
} Spool;

void spool_init(Spool *s, int dir_fd, const char *name, uint64_t n_max);
void spool_done(Spool *s);
/* Never fails: what the file system has no room for is lost, and told as such. */
void spool_append(Spool *s, const void *data, size_t n);
/* Bytes that are lost from the start of what is kept; 0 if there is nothing. */
uint64_t spool_lost(int dir_fd, const char *name);
/* Removes all segments of the name. */
void spool_remove(int dir_fd, const char *name);

typedef struct SpoolReader {
        int dir_fd; /* borrowed */
        const char *name;
        int fd;
        uint64_t offset, segment_start;
        uint64_t n_gap; /* told next */
} SpoolReader;

void spool_reader_init(SpoolReader *r, int dir_fd, const char *name);
void spool_reader_done(SpoolReader *r);
/* > 0: bytes in buf (the told losses among them); 0: none at present; -errno. n is at least 80. */
ssize_t spool_reader_next(SpoolReader *r, void *buf, size_t n);
