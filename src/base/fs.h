/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * File-system calls that stay where they were told: open beneath a directory without following a symlink,
 * publish a file in one step.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Opens a relative path beneath dir_fd: openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
 * RESOLVE_NO_MAGICLINKS, or component by component with O_NOFOLLOW where the kernel or a seccomp filter has
 * no openat2. Fd, or negative errno. */
int fs_open_beneath(int dir_fd, const char *path, int flags, mode_t mode);
/* The directory that holds the last component of an absolute path (symlinks on the way are followed, as the
 * caller may expect of own paths); the last component goes to *ret_name, malloc'ed. Fd (O_PATH-free,
 * O_DIRECTORY), or negative errno. */
int fs_open_parent(const char *path, char **ret_name);
/* 1 or 0: whether the open directory or file lies beneath one of roots (absolute; resolved by
 * /proc/self/fd); or -errno. NULL roots: 1. */
int fs_is_beneath_roots(int fd, const char *const *roots);
int fs_write_all(int fd, const void *data, size_t n); /* 0, -errno; restarts on EINTR */
/* Until n bytes or the end: 0 and how many there were, -errno; restarts on EINTR. */
int fs_read_all(int fd, void *buf, size_t n, size_t *ret_n);
int fs_read_file(const char *path, size_t max, char **ret, size_t *ret_n); /* NUL-terminated; -EFBIG */
/* Writes a small file whole or not at all: temporary, fsync, rename, fsync of the directory. */
int fs_write_file_atomic(const char *path, const void *data, size_t n, mode_t mode);
uint64_t fs_now_usec(void);      /* CLOCK_MONOTONIC */
uint64_t fs_realtime_usec(void); /* µs since the epoch */
