/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Writing. Content goes from the peer's buffer straight into the file; what is skipped (holes, the part that
 * a resume found) is digested from the file itself, in slices. fdatasync(2) comes as often as costs a tenth
 * of the time, and behind so many bytes at the latest.
 */

#include "files/incoming.h"

#include <fcntl.h>
#include <poll.h>
#include <limits.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/temporaries.h"

#define SLICE (8u * 1024 * 1024)
#define CHUNK (64u * 1024)
#define FLUSH_BYTES (1024u * 1024)        /* start of write-back, without waiting for it */
#define SYNC_BYTES (2u * 1024 * 1024)     /* what a reset of the machine may cost */
#define SYNC_SHARE 10u                    /* one part of so many of the time may go into it */
#define SYNC_BYTES_MAX (8u * 1024 * 1024) /* but a slow disk makes it cost no more than this */

size_t entry_size(const Entry *e)
{
        size_t n = sizeof(Entry) + e->n_xattrs * sizeof(EntryXattr) + strlen(e->path) + strlen(e->user) +
                   strlen(e->group) + 3;

        for (size_t i = 0; i < e->n_xattrs; i++)
                n += strlen(e->xattrs[i].name) + 1 + e->xattrs[i].n_value;
        return n;
}

/* One block of memory with all that e points to. */
static Entry *copy_entry(const Entry *e)
{
        Entry *copy = malloc(entry_size(e));
        char *p;

        if (!copy)
                return NULL;
        *copy = *e;
        copy->target = NULL;
        copy->xattrs = (EntryXattr *)(copy + 1);
        p = (char *)(copy->xattrs + e->n_xattrs);
        copy->path = p;
        p = stpcpy(p, e->path) + 1;
        copy->user = p;
        p = stpcpy(p, e->user) + 1;
        copy->group = p;
        p = stpcpy(p, e->group) + 1;
        for (size_t i = 0; i < e->n_xattrs; i++) {
                EntryXattr *x = &copy->xattrs[i];

                x->name = p;
                p = stpcpy(p, e->xattrs[i].name) + 1;
                x->n_value = e->xattrs[i].n_value;
                x->value = (const uint8_t *)p;
                memcpy(p, e->xattrs[i].value, x->n_value);
                p += x->n_value;
        }
        return copy;
}

Incoming *incoming_new(Directory *d, const char *name, const Entry *e, uint64_t number,
                       const char *transfer_id, uint8_t *small)
{
        Incoming *in = calloc(1, sizeof *in);

        if (!in)
                return NULL;
        in->fd = -EBADF;
        in->e = copy_entry(e);
        in->name = strdup(name);
        in->small = e->size <= INCOMING_SMALL_MAX ? small : NULL;
        in->number = number;
        in->transfer_id = transfer_id;
        if (!in->small)
                in->digest = digest_new();
        if (!in->e || !in->name || (!in->small && !in->digest)) {
                (void)digest_free(in->digest);
                free(in->e);
                free(in->name);
                free(in);
                return NULL;
        }
        in->d = directory_ref(d);
        return in;
}

void incoming_use_sink(Incoming *in, int fd)
{
        struct stat st;

        in->fd = fd;
        in->is_sink = in->is_dense = true;
        if (fstat(fd, &st) < 0)
                return;
        in->is_socket = S_ISSOCK(st.st_mode);
        if (S_ISREG(st.st_mode) && !(fcntl(fd, F_GETFL) & O_APPEND)) {
                off_t at = lseek(fd, 0, SEEK_CUR);

                in->is_seekable = true;
                in->base = at > 0 ? (uint64_t)at : 0;
                in->is_dense = (uint64_t)st.st_size > in->base;
        }
}

void incoming_done(Incoming *in, bool discard, const AttributeRules *rules, bool sync,
                   const FailureSink *sink)
{
        if (!in)
                return;
        if (!in->is_sink && in->fd >= 0) {
                char temporary[TEMPORARY_NAME_SIZE];

                temporaries_format(temporary, in->transfer_id, in->number);
                if (discard)
                        (void)unlinkat(in->d->fd, temporary, 0);
                else
                        (void)fdatasync(in->fd); /* kept for a resume, perhaps of another boot */
                (void)fd_close(in->fd);
        }
        (void)digest_free(in->digest);
        directory_unref(in->d, rules, sync, sink);
        free(in->blocks);
        free(in->name);
        free(in->e);
        free(in);
}

static int open_temporary(Incoming *in, mode_t mode)
{
        char temporary[TEMPORARY_NAME_SIZE];

        temporaries_format(temporary, in->transfer_id, in->number);
        for (int i = 0; i < 2; i++) {
                in->fd = openat(in->d->fd, temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                mode);
                if (in->fd >= 0)
                        return 0;
                if (errno != EEXIST || unlinkat(in->d->fd, temporary, 0) < 0)
                        break;
        }
        return -errno;
}

int incoming_resume(Incoming *in)
{
        char temporary[TEMPORARY_NAME_SIZE];
        struct stat st;
        int fd;

        if (in->small || in->is_sink)
                return -ENOENT;
        temporaries_format(temporary, in->transfer_id, in->number);
        fd = openat(in->d->fd, temporary, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return -ENOENT;
        /* Not ours: in a directory for everybody, somebody else may have laid it there, and would keep his
         * hand on it. */
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 || st.st_uid != geteuid() ||
            st.st_size < (off_t)RESUME_BLOCK) {
                (void)fd_close(fd);
                return -ENOENT; /* whatever it is, open_temporary() puts it away */
        }
        in->have = MIN((uint64_t)st.st_size, in->e->size);
        in->block_size = record_resume_block(in->have);
        in->blocks = reallocarray(NULL, in->have / in->block_size + 1, sizeof *in->blocks);
        if (!in->blocks) {
                (void)fd_close(fd);
                return -ENOENT;
        }
        in->fd = fd;
        in->is_resumed = true;
        return 0;
}

static uint8_t chunk[CHUNK];

int incoming_examine(Incoming *in)
{
        Digest *d = digest_new();
        uint64_t done = 0;
        int r = 0;

        if (!d)
                return -ENOMEM;
        while (in->n_blocks < in->have / in->block_size && done < SLICE) {
                digest_reset(d);
                for (uint64_t o = 0; o < in->block_size;) {
                        ssize_t k = pread(in->fd, chunk, (size_t)MIN(in->block_size - o, CHUNK),
                                          (off_t)in->hashed);

                        if (k <= 0) {
                                r = k < 0 ? -errno : -EIO;
                                goto out;
                        }
                        digest_update(d, chunk, (size_t)k);
                        digest_update(in->digest, chunk, (size_t)k);
                        in->hashed += (uint64_t)k;
                        o += (uint64_t)k;
                }
                in->blocks[in->n_blocks++] = digest_value(d);
                done += in->block_size;
        }
        in->is_examined = in->n_blocks == in->have / in->block_size;
        if (!in->is_examined)
                r = -EINPROGRESS;
out:
        (void)digest_free(d);
        return r;
}

bool incoming_keeps(Incoming *in)
{
        in->is_examined = true;
        if (in->n_blocks > 0)
                return true;
        in->is_resumed = false;
        in->fd = fd_close(in->fd);
        digest_reset(in->digest);
        in->hashed = 0;
        return false;
}

/* The digest comes up to `goal`, reading from the file what was skipped; past its end there are zeros. */
static int catch_up(Incoming *in, uint64_t goal)
{
        uint64_t slice_end = in->hashed + SLICE;

        while (in->hashed < goal) {
                size_t n = (size_t)MIN(goal - in->hashed, CHUNK);
                ssize_t k;

                if (in->hashed >= slice_end)
                        return -EINPROGRESS;
                k = in->is_sink ? 0 : pread(in->fd, chunk, n, (off_t)in->hashed);
                if (k < 0)
                        return -errno;
                if (k == 0) {
                        memset(chunk, 0, n);
                        k = (ssize_t)n;
                }
                digest_update(in->digest, chunk, (size_t)k);
                in->hashed += (uint64_t)k;
        }
        return 0;
}

/* Where the sender goes on in what we have; the rest of it is of no use. */
static int settle_resume(Incoming *in, uint64_t offset)
{
        uint64_t whole = in->n_blocks * in->block_size;

        if (offset > whole)
                return -EBADMSG;
        if (ftruncate(in->fd, (off_t)offset) < 0)
                return -errno;
        if (offset < whole) {
                digest_reset(in->digest);
                in->hashed = 0;
        }
        in->end = offset;
        in->is_resumed = false;
        return 0;
}

static int write_at(int fd, const uint8_t *data, size_t n, uint64_t offset)
{
        while (n > 0) {
                ssize_t k = pwrite(fd, data, n, (off_t)offset);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                data += k;
                n -= (size_t)k;
                offset += (uint64_t)k;
        }
        return 0;
}

/* How much of it a sink takes now. */
static ssize_t write_sink(Incoming *in, const uint8_t *data, size_t n, uint64_t offset)
{
        struct pollfd p = { .fd = in->fd, .events = POLLOUT };
        ssize_t k;

        if (in->is_seekable) {
                int r = write_at(in->fd, data, n, in->base + offset);

                return r < 0 ? r : (ssize_t)n;
        }
        if (in->is_socket)
                k = send(in->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        else {
                /* The description is the caller's too and stays as it is; PIPE_BUF bytes never block behind
                 * POLLOUT. */
                if (poll(&p, 1, 0) == 0)
                        return 0;
                k = write(in->fd, data, fcntl(in->fd, F_GETFL) & O_NONBLOCK ? n : MIN(n, (size_t)PIPE_BUF));
        }
        if (k < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        return k;
}

/* A hole on its way into a sink. 0: done; -EAGAIN: it is full; -EINPROGRESS */
static int fill_hole(Incoming *in, uint64_t goal)
{
        static uint8_t zeros[CHUNK]; /* not const: it would fill the binary */
        uint64_t slice_end = in->end + SLICE;

        while (in->is_dense && in->end < goal) {
                ssize_t k;

                if (in->end >= slice_end)
                        return -EINPROGRESS;
                k = write_sink(in, zeros, (size_t)MIN(goal - in->end, CHUNK), in->end);
                if (k <= 0)
                        return k < 0 ? (int)k : -EAGAIN;
                digest_update(in->digest, zeros, (size_t)k);
                in->end += (uint64_t)k;
                in->hashed = in->end;
        }
        return catch_up(in, goal);
}

static int pace(Incoming *in, size_t n)
{
        uint64_t now, start;

        in->n_unflushed += n;
        in->n_unsynced += n;
        if (in->n_unflushed < FLUSH_BYTES)
                return 0;
        (void)sync_file_range(in->fd, (off_t)(in->end - in->n_unflushed), (off_t)in->n_unflushed,
                              SYNC_FILE_RANGE_WRITE);
        in->n_unflushed = 0;
        if (in->n_unsynced < SYNC_BYTES)
                return 0;
        start = fs_now_usec();
        if (in->n_unsynced < SYNC_BYTES_MAX &&
            start - in->synced_usec < in->sync_cost_usec * (SYNC_SHARE - 1))
                return 0;
        if (fdatasync(in->fd) < 0)
                return -errno;
        now = fs_now_usec();
        in->sync_cost_usec = now - start;
        in->synced_usec = now;
        in->n_unsynced = 0;
        return 0;
}

/* Content that turned out not to be small and dense moves into the temporary. */
static int spill(Incoming *in)
{
        uint8_t *small = in->small;
        int r;

        in->small = NULL;
        in->digest = digest_new();
        if (!in->digest)
                return -ENOMEM;
        r = open_temporary(in, 0600);
        if (r < 0)
                return r;
        digest_update(in->digest, small, (size_t)in->end);
        in->hashed = in->end;
        return write_at(in->fd, small, (size_t)in->end, 0);
}

ssize_t incoming_write(Incoming *in, uint64_t offset, const uint8_t *data, size_t n)
{
        int r = 0;

        if (in->e->size != SIZE_UNKNOWN && (offset > in->e->size || n > in->e->size - offset))
                return -EBADMSG;
        if (in->is_resumed)
                r = settle_resume(in, offset);
        if (r < 0)
                return r;
        if (offset < in->end)
                return -EBADMSG;
        if (in->small && offset == in->end) { /* and it fits, for the size was announced */
                memcpy(in->small + offset, data, n);
                in->end += n;
                return (ssize_t)n;
        }
        if (in->small)
                r = spill(in);
        else if (in->fd < 0)
                r = open_temporary(in, 0600);
        if (r < 0)
                return r;
        if (in->hashed < offset) {
                /* A place that no file of this file system has is refused before its zeros are digested. */
                if (offset > in->end && !in->is_sink && ftruncate(in->fd, (off_t)offset) < 0)
                        return -errno;
                r = in->is_sink ? fill_hole(in, offset) : catch_up(in, offset);
                if (r == -EAGAIN)
                        return 0;
                if (r < 0)
                        return r;
        }
        if (in->is_sink) {
                ssize_t k = write_sink(in, data, n, offset);

                if (k < 0)
                        return k;
                digest_update(in->digest, data, (size_t)k);
                in->hashed = in->end = offset + (uint64_t)k;
                return k;
        }
        r = write_at(in->fd, data, n, offset);
        if (r < 0)
                return r;
        digest_update(in->digest, data, n);
        in->hashed = in->end = offset + n;
        r = pace(in, n);
        return r < 0 ? r : (ssize_t)n;
}

int incoming_finish(Incoming *in, uint64_t size, uint64_t digest)
{
        int r;

        if (in->e->size != SIZE_UNKNOWN && size != in->e->size)
                return -EILSEQ;
        if (in->is_resumed) {
                r = settle_resume(in, size);
                if (r < 0)
                        return r == -EBADMSG ? -EILSEQ : r;
        }
        if (size < in->end)
                return -EILSEQ;
        if (in->small && size == in->end)
                return digest_of(in->small, (size_t)size, 0) == digest ? 0 : -EILSEQ;
        if (in->small) {
                r = spill(in);
                if (r < 0)
                        return r;
        }
        if (in->fd < 0) {
                r = open_temporary(in, 0600);
                if (r < 0)
                        return r;
        }
        if (size > in->end && !in->is_sink && ftruncate(in->fd, (off_t)size) < 0)
                return -errno;
        if (in->hashed < size) {
                r = in->is_sink ? fill_hole(in, size) : catch_up(in, size);
                if (r < 0)
                        return r;
        }
        if (digest_value(in->digest) != digest)
                return -EILSEQ;
        if (size > in->end && in->is_sink && in->is_seekable && !in->is_dense &&
            ftruncate(in->fd, (off_t)(in->base + size)) < 0)
                return -errno;
        in->end = size;
        return 0;
}

int incoming_complete(Incoming *in, const AttributeRules *rules, const char **ret_note)
{
        uint32_t mode = attributes_mode(rules, in->e), mode_now = UINT32_MAX;
        int r;

        if (in->small) {
                bool plain = !in->e->has_owner && rules->uid == (uid_t)-1 && rules->gid == (gid_t)-1 &&
                             mode <= 0777;
                uint32_t create = plain ? mode | 0600 : 0600;

                r = open_temporary(in, create);
                if (r < 0)
                        return r;
                if (!in->d->has_acl)
                        mode_now = create & ~rules->umask;
                r = write_at(in->fd, in->small, (size_t)in->end, 0);
                if (r < 0)
                        return r;
        }
        return attributes_set(rules, in->fd, in->e, mode_now, ret_note);
}
