/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Reading. Long work without output (digesting a hole or what a receiver has already) is cut into slices, so
 * that the loop around it keeps turning. Descriptors of callers may block and are shared: those are asked by
 * poll(2) first, never made nonblocking.
 */

#include "files/content.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/base.h"
#include "proto/entry.h"

#define SLICE (8u * 1024 * 1024)
#define CHUNK (64u * 1024)

void content_init(Content *c, int fd, const struct stat *st, bool is_stream, uint64_t base, uint64_t number,
                  Digest *digest)
{
        *c = (Content){
                .fd = fd,
                .is_stream = is_stream,
                .is_socket = S_ISSOCK(st->st_mode),
                .number = number,
                .base = base,
                .st = *st,
                .digest = digest,
        };
        digest_reset(digest);
        if (is_stream)
                return;
        c->size = (uint64_t)st->st_size > base ? (uint64_t)st->st_size - base : 0;
        c->is_sparse = (uint64_t)st->st_blocks * 512 < (uint64_t)st->st_size;
        if (c->size > CHUNK)
                (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
}

void content_done(Content *c)
{
        (void)fd_close(c->fd);
        free(c->blocks);
        *c = (Content){ .fd = -EBADF };
}

int content_resume(Content *c, uint64_t size, const uint8_t *untrusted_blocks, size_t n_blocks)
{
        if (c->is_stream)
                return 0;
        c->block_size = record_resume_block(size);
        c->is_resumed = true;
        if (n_blocks == 0)
                return 0;
        c->blocks = reallocarray(NULL, n_blocks, sizeof *c->blocks);
        if (!c->blocks)
                return -ENOMEM;
        for (size_t i = 0; i < n_blocks; i++)
                c->blocks[i] = load_le64(untrusted_blocks + i * 8);
        c->n_blocks = n_blocks;
        return 0;
}

static ssize_t read_at(const Content *c, void *buf, size_t n, uint64_t offset)
{
        ssize_t k;

        do
                k = pread(c->fd, buf, n, (off_t)(c->base + offset));
        while (k < 0 && errno == EINTR);
        if (k == 0)
                return -ESTALE; /* it was longer */
        return k < 0 ? -errno : k;
}

/* Compares what the receiver has with the source, block by block, until the first that differs. */
static int compare_blocks(Content *c)
{
        Digest *d = digest_new();
        uint64_t done = 0;
        bool agreed = true;
        int r = 0;

        if (!d)
                return -ENOMEM;
        while (c->n_agreed < c->n_blocks && done < SLICE) {
                uint64_t start = c->n_agreed * c->block_size;

                agreed = start + c->block_size <= c->size;
                if (!agreed)
                        break;
                digest_reset(d);
                for (uint64_t o = 0; o < c->block_size;) {
                        static uint8_t chunk[CHUNK];
                        ssize_t k = read_at(c, chunk, (size_t)MIN(c->block_size - o, CHUNK), start + o);

                        if (k < 0) {
                                r = (int)k;
                                goto out;
                        }
                        digest_update(d, chunk, (size_t)k);
                        o += (uint64_t)k;
                }
                done += c->block_size;
                agreed = digest_value(d) == c->blocks[c->n_agreed];
                if (!agreed)
                        break;
                c->n_agreed++;
        }
        if (agreed && c->n_agreed < c->n_blocks)
                r = -EINPROGRESS;
out:
        (void)digest_free(d);
        return r;
}

/* What is skipped still belongs to the digest: a hole's zeros, or the resumed part, both read at no cost
 * worth naming. */
static int catch_up(Content *c)
{
        uint64_t end = MIN(c->offset, c->hashed + SLICE);
        bool is_prefix = c->hashed < c->n_agreed * c->block_size;

        while (c->hashed < end) {
                static uint8_t zeros[CHUNK]; /* not const: it would fill the binary */
                static uint8_t chunk[CHUNK];
                size_t n = (size_t)MIN(end - c->hashed, CHUNK);
                ssize_t k = (ssize_t)n;

                if (is_prefix) {
                        k = read_at(c, chunk, n, c->hashed);
                        if (k < 0)
                                return (int)k;
                }
                digest_update(c->digest, is_prefix ? chunk : zeros, (size_t)k);
                c->hashed += (uint64_t)k;
        }
        return c->hashed < c->offset ? -EINPROGRESS : 0;
}

/* Moves c->offset over a hole. */
static int skip_hole(Content *c)
{
        off_t at = (off_t)(c->base + c->offset), data, hole;

        if (c->is_resumed && c->offset == c->n_agreed * c->block_size) {
                c->data_end = MIN(c->size, c->offset + CHUNK);
                return 0;
        }
        data = lseek(c->fd, at, SEEK_DATA);
        if (data < 0) {
                if (errno == ENXIO) { /* nothing but a hole up to the end */
                        c->offset = c->size;
                        return 0;
                }
                c->is_sparse = false; /* the file system doesn't know holes */
                return 0;
        }
        hole = lseek(c->fd, data, SEEK_HOLE);
        if (hole < 0) {
                c->is_sparse = false;
                return 0;
        }
        c->offset = MIN((uint64_t)data - c->base, c->size);
        c->data_end = MIN((uint64_t)hole - c->base, c->size);
        return 0;
}

static int finish(const Content *c)
{
        struct stat st;

        if (fstat(c->fd, &st) < 0)
                return -errno;
        if (st.st_size != c->st.st_size || st.st_mtim.tv_sec != c->st.st_mtim.tv_sec ||
            st.st_mtim.tv_nsec != c->st.st_mtim.tv_nsec)
                return -ESTALE;
        return 0;
}

static ssize_t read_stream(Content *c, uint8_t *buf, size_t n, uint64_t *ret_offset)
{
        struct pollfd p = { .fd = c->fd, .events = POLLIN };
        ssize_t k;

        /* A FIFO that nobody has opened for writing yet reads as ended, but does not poll so. */
        if (!S_ISREG(c->st.st_mode) && poll(&p, 1, 0) == 0)
                return -EAGAIN;
        k = c->is_socket ? recv(c->fd, buf, n, MSG_DONTWAIT) : read(c->fd, buf, n);
        if (k < 0)
                return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
        if (k == 0)
                return 0;
        digest_update(c->digest, buf, (size_t)k);
        *ret_offset = c->offset;
        c->offset += (uint64_t)k;
        c->hashed = c->size = c->offset;
        return k;
}

ssize_t content_read(Content *c, uint8_t *buf, size_t n, uint64_t *ret_offset)
{
        ssize_t k;
        int r;

        if (c->is_stream)
                return read_stream(c, buf, n, ret_offset);
        if (c->blocks) {
                r = compare_blocks(c);
                if (r < 0)
                        return r;
                c->offset = c->data_end = c->n_agreed * c->block_size;
                free(TAKE(c->blocks));
        }
        for (;;) {
                if (c->hashed < c->offset) {
                        r = catch_up(c);
                        if (r < 0)
                                return r;
                }
                if (!c->is_sparse || c->offset < c->data_end || c->offset == c->size)
                        break;
                r = skip_hole(c);
                if (r < 0)
                        return r;
        }
        if (c->offset == c->size)
                return finish(c);

        n = (size_t)MIN(n, c->size - c->offset);
        if (c->is_sparse)
                n = (size_t)MIN(n, c->data_end - c->offset);
        k = read_at(c, buf, n, c->offset);
        if (k < 0)
                return k;
        digest_update(c->digest, buf, (size_t)k);
        *ret_offset = c->offset;
        c->offset += (uint64_t)k;
        c->hashed = c->offset;
        return k;
}
