/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What every file may lean on: scope-bound cleanup, moving out, checked arithmetic, little-endian loads and
 * stores. No I/O, no allocation policy, nothing with a name of its own.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_ __attribute__((unused))

#define DEFINE_CLEANUP(type, func)                                                                          \
        static inline void func##p(type *p)                                                                 \
        {                                                                                                   \
                if (*p)                                                                                     \
                        *p = func(*p);                                                                      \
        }                                                                                                   \
        struct func##_semicolon

/* Moves the value out of an lvalue and leaves an empty one behind. */
#define TAKE(x)                                                                                             \
        ({                                                                                                  \
                __typeof__(x) *take_p_ = &(x);                                                              \
                __typeof__(x) take_v_ = *take_p_;                                                           \
                *take_p_ = NULL;                                                                            \
                take_v_;                                                                                    \
        })
#define TAKE_FD(fd)                                                                                         \
        ({                                                                                                  \
                int *take_p_ = &(fd);                                                                       \
                int take_v_ = *take_p_;                                                                     \
                *take_p_ = -EBADF;                                                                          \
                take_v_;                                                                                    \
        })

/* A result that glibc wants looked at (with _FORTIFY_SOURCE), and that makes no difference here. */
#define IGNORE(x)                                                                                           \
        do {                                                                                                \
                if (x) {                                                                                    \
                }                                                                                           \
        } while (false)

#define ELEMENTSOF(x) (sizeof(x) / sizeof((x)[0]))
#undef MIN /* GLib and sys/param.h have them too */
#undef MAX
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define USEC_PER_MSEC 1000ULL
#define USEC_PER_SEC 1000000ULL
#define USEC_INFINITY UINT64_MAX

static inline void freep(void *p)
{
        free(*(void **)p);
}
#define _cleanup_free_ _cleanup_(freep)

/* Closes, keeps errno, and returns what an empty fd holds; a negative fd is no fd. */
static inline int fd_close(int fd)
{
        if (fd >= 0) {
                int saved = errno;
                (void)close(fd);
                errno = saved;
        }
        return -EBADF;
}
static inline void fd_closep(int *fd)
{
        *fd = fd_close(*fd);
}
#define _cleanup_close_ _cleanup_(fd_closep)

static inline bool str_eq(const char *a, const char *b)
{
        return (a && b) ? strcmp(a, b) == 0 : a == b;
}
static inline bool str_has_prefix(const char *s, const char *prefix)
{
        return strncmp(s, prefix, strlen(prefix)) == 0;
}

static inline bool size_add(size_t a, size_t b, size_t *ret)
{
        return !__builtin_add_overflow(a, b, ret);
}
static inline bool size_mul(size_t a, size_t b, size_t *ret)
{
        return !__builtin_mul_overflow(a, b, ret);
}
/* A time and a duration, either of which may be USEC_INFINITY, and so is what lies beyond. */
static inline uint64_t usec_add(uint64_t a, uint64_t b)
{
        uint64_t sum;

        return __builtin_add_overflow(a, b, &sum) ? USEC_INFINITY : sum;
}

static inline uint16_t load_le16(const void *p)
{
        const uint8_t *b = p;
        return (uint16_t)(b[0] | (uint16_t)b[1] << 8);
}
static inline uint32_t load_le32(const void *p)
{
        const uint8_t *b = p;
        return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t load_le64(const void *p)
{
        return load_le32(p) | (uint64_t)load_le32((const uint8_t *)p + 4) << 32;
}
static inline void store_le16(void *p, uint16_t v)
{
        uint8_t *b = p;
        b[0] = (uint8_t)v, b[1] = (uint8_t)(v >> 8);
}
static inline void store_le32(void *p, uint32_t v)
{
        store_le16(p, (uint16_t)v);
        store_le16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}
static inline void store_le64(void *p, uint64_t v)
{
        store_le32(p, (uint32_t)v);
        store_le32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}
