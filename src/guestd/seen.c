/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A ring of keys, newest over oldest. The file is the ring as it lies in memory, behind a header with the
 * format's name: one pwrite(2) a message, no journal. Where the ring's end is isn't stored: a record is its
 * number and its key, and the highest number is the newest.
 */

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/seen.h"
#include "proto/digest.h"

#define FORMAT "vmfseen1"
#define FORMAT_SIZE 8u
#define RECORD_SIZE 16u

struct Seen {
        uint64_t keys[SEEN_MAX]; /* 0: empty */
        uint64_t n_added;
        int fd;
};

static int open_in(const char *dir)
{
        _cleanup_free_ char *path = NULL;

        if (mkdir(dir, 0755) < 0 && errno != EEXIST)
                return -errno;
        if (asprintf(&path, "%s/seen", dir) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        return fd < 0 ? -errno : fd;
}

/* Takes what is sound; anything else is the same as an empty file. */
static void seen_load(Seen *s)
{
        uint8_t untrusted[64 * RECORD_SIZE], format[FORMAT_SIZE];

        if (pread(s->fd, format, sizeof(format), 0) != (ssize_t)sizeof(format) ||
            memcmp(format, FORMAT, FORMAT_SIZE) != 0) {
                if (ftruncate(s->fd, 0) < 0 || pwrite(s->fd, FORMAT, FORMAT_SIZE, 0) != (ssize_t)FORMAT_SIZE)
                        s->fd = fd_close(s->fd);
                return;
        }
        for (size_t slot = 0; slot < SEEN_MAX;) {
                ssize_t n = pread(s->fd, untrusted, sizeof(untrusted),
                                  (off_t)(FORMAT_SIZE + slot * RECORD_SIZE));
                if (n < (ssize_t)RECORD_SIZE)
                        return;
                for (size_t at = 0; at + RECORD_SIZE <= (size_t)n && slot < SEEN_MAX;
                     at += RECORD_SIZE, slot++) {
                        uint64_t number = load_le64(untrusted + at);
                        if (number == 0 || (number - 1) % SEEN_MAX != slot)
                                continue;
                        s->keys[slot] = load_le64(untrusted + at + 8);
                        s->n_added = MAX(s->n_added, number);
                }
        }
}

int seen_new(const char *const *dirs, Seen **ret)
{
        Seen *s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        s->fd = -EBADF;
        for (; *dirs && s->fd < 0; dirs++)
                s->fd = open_in(*dirs);
        if (s->fd >= 0)
                seen_load(s);
        else
                log_debug("Messages taken are remembered in memory only: %s", strerror(-s->fd));
        *ret = s;
        return 0;
}

Seen *seen_free(Seen *s)
{
        if (s)
                (void)fd_close(s->fd);
        free(s);
        return NULL;
}

uint64_t seen_key(const char *topic, uint64_t id, const void *payload, size_t n)
{
        uint64_t key = digest_of(payload ? payload : "", n, digest_of(topic, strlen(topic), id));
        return key ? key : 1;
}

bool seen_has(const Seen *s, uint64_t key)
{
        for (size_t i = 0; i < SEEN_MAX; i++)
                if (s->keys[i] == key)
                        return true;
        return false;
}

static void write_record(Seen *s, size_t slot, uint64_t number, uint64_t key)
{
        uint8_t record[RECORD_SIZE];

        if (s->fd < 0)
                return;
        store_le64(record, number);
        store_le64(record + 8, key);
        /* A full disk costs the memory beyond a restart, not the message. */
        if (pwrite(s->fd, record, sizeof(record), (off_t)(FORMAT_SIZE + slot * RECORD_SIZE)) < 0)
                log_debug("Cannot write down a message taken: %s", strerror(errno));
}

void seen_add(Seen *s, uint64_t key)
{
        size_t slot = s->n_added % SEEN_MAX;

        s->keys[slot] = key;
        s->n_added++;
        write_record(s, slot, s->n_added, key);
}

void seen_remove(Seen *s, uint64_t key)
{
        for (size_t i = 0; i < SEEN_MAX; i++)
                if (s->keys[i] == key) {
                        s->keys[i] = 0;
                        write_record(s, i, 0, 0);
                }
}
