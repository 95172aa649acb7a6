/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Behind the format's name, records: id (8 bytes), length of the topic (4), of the payload (4), the two of
 * them; little-endian. A record without a topic says that the message of that id is gone.
 */
#include "guestd/outbox-file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>

#include "base/fs.h"
#include "proto/limits.h"
#include "proto/name.h"

#define MAGIC "vmferry outbox 1\n"
#define MAGIC_BYTES (sizeof(MAGIC) - 1)
#define HEADER_BYTES 16u

size_t outbox_file_bytes(const char *topic, size_t n)
{
        return HEADER_BYTES + strlen(topic) + n;
}

void outbox_file_load(const char *path, const OutboxFileOps *ops, void *userdata)
{
        _cleanup_free_ char *untrusted = NULL;
        size_t n, at = MAGIC_BYTES;
        if (fs_read_file(path, OUTBOX_FILE_BYTES_MAX, &untrusted, &n) < 0 || n < at ||
            memcmp(untrusted, MAGIC, at) != 0)
                return;
        while (n - at >= HEADER_BYTES) {
                uint64_t id = load_le64(untrusted + at);
                size_t n_topic = load_le32(untrusted + at + 8), n_payload = load_le32(untrusted + at + 12);
                char topic[TOPIC_MAX + 1];
                at += HEADER_BYTES;
                if (n_topic > TOPIC_MAX || n_payload > PAYLOAD_MAX || n - at < n_topic + n_payload)
                        return;
                if (n_topic == 0 && n_payload == 0) {
                        ops->gone(userdata, id);
                        continue;
                }
                memcpy(topic, untrusted + at, n_topic);
                topic[n_topic] = 0;
                if (!name_is_topic(topic) ||
                    ops->letter(userdata, id, topic, untrusted + at + n_topic, n_payload) < 0)
                        return;
                at += n_topic + n_payload;
        }
}

/* All of it, or none: half a record would hide what comes behind it. */
static int file_write(OutboxFile *f, const struct iovec *parts, int n_parts)
{
        size_t n = 0;
        for (int i = 0; i < n_parts; i++)
                n += parts[i].iov_len;
        if (f->fd < 0)
                return -EBADF;
        if (f->n + n > OUTBOX_FILE_BYTES_MAX)
                return -EFBIG;
        ssize_t k;
        do
                k = writev(f->fd, parts, n_parts);
        while (k < 0 && errno == EINTR);
        if (k == (ssize_t)n) {
                f->n += n;
                return 0;
        }
        int r = k < 0 ? -errno : -ENOSPC;
        if (k > 0 && ftruncate(f->fd, (off_t)f->n) < 0)
                f->fd = fd_close(f->fd);
        return r;
}

static char *fresh_path(const char *path)
{
        char *fresh = NULL;
        return asprintf(&fresh, "%s.new", path) < 0 ? NULL : fresh;
}

int outbox_file_create(const char *path, OutboxFile *ret)
{
        _cleanup_free_ char *fresh = fresh_path(path);
        if (!fresh)
                return -ENOMEM;
        (void)unlink(fresh);
        OutboxFile f = { .fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600) };
        if (f.fd < 0)
                return -errno;
        int r = file_write(&f, &(struct iovec){ (char *)MAGIC, MAGIC_BYTES }, 1);
        if (r < 0)
                outbox_file_discard(&f, path);
        else
                *ret = f;
        return r;
}

int outbox_file_publish(OutboxFile *f, const char *path)
{
        _cleanup_free_ char *fresh = fresh_path(path);
        if (!fresh)
                return -ENOMEM;
        return rename(fresh, path) < 0 ? -errno : 0;
}

void outbox_file_discard(OutboxFile *f, const char *path)
{
        _cleanup_free_ char *fresh = fresh_path(path);
        if (fresh)
                (void)unlink(fresh);
        outbox_file_close(f);
}

void outbox_file_close(OutboxFile *f)
{
        f->fd = fd_close(f->fd);
}

int outbox_file_add(OutboxFile *f, uint64_t id, const char *topic, const void *payload, size_t n)
{
        uint8_t header[HEADER_BYTES];
        size_t n_topic = strlen(topic);
        store_le64(header, id);
        store_le32(header + 8, (uint32_t)n_topic);
        store_le32(header + 12, (uint32_t)n);
        const struct iovec parts[] = { { header, sizeof(header) },
                                       { (char *)topic, n_topic },
                                       { (void *)payload, n } };
        return file_write(f, parts, ELEMENTSOF(parts));
}

int outbox_file_remove(OutboxFile *f, uint64_t id)
{
        return outbox_file_add(f, id, "", NULL, 0);
}

int outbox_file_clear(OutboxFile *f)
{
        if (f->fd < 0)
                return -EBADF;
        if (ftruncate(f->fd, (off_t)MAGIC_BYTES) < 0)
                return -errno;
        f->n = MAGIC_BYTES;
        return 0;
}
