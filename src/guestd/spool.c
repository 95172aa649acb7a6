/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/spool.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"

#define SEGMENT_NAME_MAX 64
#define OFFSET_DIGITS 16

static void segment_name(char ret[static SEGMENT_NAME_MAX], const char *name, uint64_t offset)
{
        (void)snprintf(ret, SEGMENT_NAME_MAX, "%s.%016llx", name, (unsigned long long)offset);
}

static bool segment_parse(const char *file, const char *name, uint64_t *ret)
{
        size_t n = strlen(name);
        if (!str_has_prefix(file, name) || file[n] != '.' || strlen(file + n + 1) != OFFSET_DIGITS ||
            strspn(file + n + 1, "0123456789abcdef") != OFFSET_DIGITS)
                return false;
        *ret = strtoull(file + n + 1, NULL, 16);
        return true;
}

/* The first segment that starts at `from` or behind it. 0, -ENOENT, -errno. */
static int segment_find(int dir_fd, const char *name, uint64_t from, uint64_t *ret)
{
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir) {
                int r = -errno;
                (void)fd_close(fd);
                return r;
        }
        bool found = false;
        uint64_t best = 0, offset;
        for (struct dirent *entry; (entry = readdir(dir));)
                if (segment_parse(entry->d_name, name, &offset) && offset >= from &&
                    (!found || offset < best)) {
                        best = offset;
                        found = true;
                }
        (void)closedir(dir);
        if (!found)
                return -ENOENT;
        *ret = best;
        return 0;
}

void spool_init(Spool *s, int dir_fd, const char *name, uint64_t n_max)
{
        *s = (Spool){ .dir_fd = dir_fd, .name = name, .fd = -EBADF, .n_max = MAX(n_max, SPOOL_BYTES_MIN) };
}

void spool_done(Spool *s)
{
        s->fd = fd_close(s->fd);
}

static void spool_drop_oldest(Spool *s)
{
        char file[SEGMENT_NAME_MAX];
        uint64_t next;
        segment_name(file, s->name, s->start);
        (void)unlinkat(s->dir_fd, file, 0);
        s->start = segment_find(s->dir_fd, s->name, s->start + 1, &next) == 0 ? next : s->end;
}

static int spool_rotate(Spool *s)
{
        char file[SEGMENT_NAME_MAX];
        segment_name(file, s->name, s->end);
        int fd = openat(s->dir_fd, file, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        (void)fd_close(s->fd);
        s->fd = fd;
        s->segment_start = s->end;
        return 0;
}

void spool_append(Spool *s, const void *data, size_t n)
{
        const uint8_t *p = data;
        uint64_t n_segment = s->n_max / SPOOL_SEGMENTS;
        while (n > 0) {
                if (s->fd < 0 || s->end - s->segment_start >= n_segment) {
                        if (spool_rotate(s) < 0)
                                break;
                        while (s->end - s->start > s->n_max - n_segment && s->start < s->segment_start)
                                spool_drop_oldest(s);
                }
                ssize_t k = write(s->fd, p, MIN((uint64_t)n, n_segment - (s->end - s->segment_start)));
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0 && (errno == ENOSPC || errno == EDQUOT) && s->start < s->segment_start) {
                        spool_drop_oldest(s);
                        continue;
                }
                if (k <= 0)
                        break;
                p += k;
                n -= (size_t)k;
                s->end += (size_t)k;
        }
        if (n > 0) { /* a gap: the next segment's name tells it */
                char file[SEGMENT_NAME_MAX];
                segment_name(file, s->name, s->segment_start);
                if (s->fd >= 0 && s->end == s->segment_start)
                        (void)unlinkat(s->dir_fd, file, 0);
                s->end += n;
                s->fd = fd_close(s->fd);
        }
}

uint64_t spool_lost(int dir_fd, const char *name)
{
        uint64_t start;
        return segment_find(dir_fd, name, 0, &start) == 0 ? start : 0;
}

void spool_remove(int dir_fd, const char *name)
{
        uint64_t offset;
        while (segment_find(dir_fd, name, 0, &offset) == 0) {
                char file[SEGMENT_NAME_MAX];
                segment_name(file, name, offset);
                if (unlinkat(dir_fd, file, 0) < 0)
                        return;
        }
}

void spool_reader_init(SpoolReader *r, int dir_fd, const char *name)
{
        *r = (SpoolReader){ .dir_fd = dir_fd, .name = name, .fd = -EBADF };
}

void spool_reader_done(SpoolReader *r)
{
        r->fd = fd_close(r->fd);
}

/* 1: there is another segment now; 0: none behind the present one; -errno. */
static int spool_reader_advance(SpoolReader *r)
{
        uint64_t from = r->fd >= 0 ? r->segment_start + 1 : r->offset, offset;
        int e = segment_find(r->dir_fd, r->name, from, &offset);
        if (e < 0)
                return e == -ENOENT ? 0 : e;
        char file[SEGMENT_NAME_MAX];
        segment_name(file, r->name, offset);
        int fd = openat(r->dir_fd, file, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 1 : -errno; /* it went meanwhile: look again */
        (void)fd_close(r->fd);
        r->fd = fd;
        r->segment_start = offset;
        r->n_gap += offset > r->offset ? offset - r->offset : 0;
        r->offset = offset;
        return 1;
}

ssize_t spool_reader_next(SpoolReader *r, void *buf, size_t n)
{
        for (;;) {
                if (r->n_gap > 0) {
                        int k = snprintf(buf, n, "\n[vmferry: %llu bytes of output are lost]\n",
                                         (unsigned long long)r->n_gap);
                        r->n_gap = 0;
                        return k;
                }
                ssize_t k = r->fd < 0 ? 0 : read(r->fd, buf, n);
                if (k < 0)
                        return -errno;
                if (k == 0) {
                        uint64_t next;
                        int e = r->fd < 0 ? 0
                                          : segment_find(r->dir_fd, r->name, r->segment_start + 1, &next);
                        if (e == -ENOENT)
                                return 0;
                        if (e < 0)
                                return e;
                        /* The writer leaves a segment before it begins the next: what is in it now is all of
                         * it. */
                        k = r->fd < 0 ? 0 : read(r->fd, buf, n);
                        if (k < 0)
                                return -errno;
                }
                if (k > 0) {
                        r->offset += (uint64_t)k;
                        return k;
                }
                int e = spool_reader_advance(r);
                if (e <= 0)
                        return e;
        }
}
