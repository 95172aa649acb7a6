/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The content of one source, read once from its start or from where a resume goes on: holes are found and
 * not read, all is digested, and a change under the reader is noticed. Regular files are read at their
 * place, the rest as a stream.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "proto/digest.h"

typedef struct Content {
        int fd;
        bool is_stream; /* of unknown length, until end of file */
        bool is_socket, is_sparse;
        uint64_t number;   /* of its entry */
        uint64_t base;     /* where a caller's descriptor stood */
        uint64_t size;     /* of a regular file, as found; of a stream, so far */
        uint64_t offset;   /* what lies before was handed out, or is a hole */
        uint64_t hashed;   /* the digest's place; behind `offset` after a hole */
        uint64_t data_end; /* of a sparse file: where the next hole begins */
        struct stat st;
        Digest *digest; /* borrowed */
        /* a resume: digests that the receiver has, still to compare */
        uint64_t *blocks;
        size_t n_blocks, n_agreed;
        uint64_t block_size;
        bool is_resumed; /* its first bytes are read even if they are a hole: they tell where it goes on */
} Content;

/* Takes fd; st is its fstat(2). is_stream: length unknown even though it may be a regular file (procfs). */
void content_init(Content *c, int fd, const struct stat *st, bool is_stream, uint64_t base, uint64_t number,
                  Digest *digest);
void content_done(Content *c);
/* The receiver has `size` bytes with these digests (copied out of the wire's order). 0, -ENOMEM. */
int content_resume(Content *c, uint64_t size, const uint8_t *untrusted_blocks, size_t n_blocks);
/* > 0: bytes of *ret_offset; 0: the end, c->size and the digest are final; -EAGAIN: c->fd is not readable
 * yet; -EINPROGRESS: a slice of a hole or of the resumed part was digested, go on soon; -ESTALE: the source
 * has changed; else what read(2) said. */
ssize_t content_read(Content *c, uint8_t *buf, size_t n, uint64_t *ret_offset);
