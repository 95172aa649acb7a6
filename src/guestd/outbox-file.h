/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The outbox on disk: a log of the messages that came and of those that the host has. What was appended is
 * with the kernel when the call returns, so that it outlives this process however that ends; a power cut may
 * take the end of it. Whoever has the messages writes a new log when this one has grown (outbox.c).
 */

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

#define OUTBOX_FILE_BYTES_MAX (32u * 1024 * 1024)

typedef struct OutboxFile {
        int fd;     /* -EBADF: it cannot be written, and each call says so */
        uint64_t n; /* bytes */
} OutboxFile;

typedef struct OutboxFileOps {
        int (*letter)(void *userdata, uint64_t id, const char *topic, const void *payload, size_t n);
        void (*gone)(void *userdata, uint64_t id);
} OutboxFileOps;

/* What is in the file, in its order, up to the first thing that is nothing of the kind: whatever is there is
 * no error. */
void outbox_file_load(const char *path, const OutboxFileOps *ops, void *userdata);

/* A new one beside the path, which is at the path from outbox_file_publish() on. 0, -errno. */
int outbox_file_create(const char *path, OutboxFile *ret);
int outbox_file_publish(OutboxFile *f, const char *path);
void outbox_file_discard(OutboxFile *f, const char *path); /* one that is not published */
void outbox_file_close(OutboxFile *f);

/* 0; -errno: nothing of it is in the file. */
int outbox_file_add(OutboxFile *f, uint64_t id, const char *topic, const void *payload, size_t n);
int outbox_file_remove(OutboxFile *f, uint64_t id);
int outbox_file_clear(OutboxFile *f);
size_t outbox_file_bytes(const char *topic, size_t n); /* that a message has in the file */
