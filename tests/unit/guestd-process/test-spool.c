/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>

#include "base/base.h"
#include "guestd/spool.h"
#include "../suite.h"

static char dir[] = "/tmp/vmferry-test-spool-XXXXXX";
static int dir_fd;

static void setup(void)
{
        ck_assert_ptr_nonnull(mkdtemp(dir));
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void teardown(void)
{
        spool_remove(dir_fd, "out");
        (void)close(dir_fd);
        ck_assert_int_eq(rmdir(dir), 0);
}

/* Byte i of the whole output. */
static uint8_t byte_at(uint64_t i)
{
        return (uint8_t)(i * 31 + (i >> 8));
}

static void append(Spool *s, size_t n)
{
        _cleanup_free_ uint8_t *data = malloc(n);
        for (size_t i = 0; i < n; i++)
                data[i] = byte_at(s->end + i);
        spool_append(s, data, n);
}

/* Reads until there is none; every byte must be where it belongs, gaps told. */
static uint64_t drain(SpoolReader *r, uint64_t *offset, uint64_t *n_lost)
{
        uint8_t buf[5000];
        uint64_t n_read = 0;
        for (ssize_t n; (n = spool_reader_next(r, buf, sizeof(buf) - 1)) != 0;) {
                ck_assert_int_gt(n, 0);
                unsigned long long lost;
                buf[n] = 0;
                if (n > 10 && memcmp(buf, "\n[vmferry:", 10) == 0 &&
                    sscanf((char *)buf, "\n[vmferry: %llu bytes of output are lost]", &lost) == 1) {
                        *offset += lost;
                        *n_lost += lost;
                        continue;
                }
                for (ssize_t i = 0; i < n; i++)
                        ck_assert_uint_eq(buf[i], byte_at(*offset + (uint64_t)i));
                *offset += (uint64_t)n;
                n_read += (uint64_t)n;
        }
        return n_read;
}

START_TEST(whole)
{
        Spool s;
        SpoolReader r;
        uint64_t offset = 0, n_lost = 0;
        spool_init(&s, dir_fd, "out", SPOOL_BYTES_MIN);
        spool_reader_init(&r, dir_fd, "out");
        ck_assert_uint_eq(drain(&r, &offset, &n_lost), 0);
        /* In step with the writer, over many rotations. */
        for (size_t i = 0; i < 200; i++) {
                append(&s, 1 + i * 97 % 4000);
                (void)drain(&r, &offset, &n_lost);
                ck_assert_uint_eq(offset, s.end);
        }
        ck_assert_uint_eq(n_lost, 0);
        ck_assert_uint_gt(spool_lost(dir_fd, "out"), 0);
        spool_reader_done(&r);
        /* From the start of what is left. */
        spool_reader_init(&r, dir_fd, "out");
        offset = n_lost = 0;
        uint64_t n = drain(&r, &offset, &n_lost);
        ck_assert_uint_eq(n_lost, spool_lost(dir_fd, "out"));
        ck_assert_uint_eq(offset, s.end);
        ck_assert_uint_le(n, SPOOL_BYTES_MIN);
        ck_assert_uint_ge(n, SPOOL_BYTES_MIN / SPOOL_SEGMENTS * (SPOOL_SEGMENTS - 2));
        spool_reader_done(&r);
        spool_done(&s);
}
END_TEST

START_TEST(overtaken)
{
        Spool s;
        SpoolReader r;
        uint64_t offset = 0, n_lost = 0;
        spool_init(&s, dir_fd, "out", SPOOL_BYTES_MIN);
        spool_reader_init(&r, dir_fd, "out");
        append(&s, 1000);
        (void)drain(&r, &offset, &n_lost);
        append(&s, SPOOL_BYTES_MIN * 3);
        (void)drain(&r, &offset, &n_lost);
        ck_assert_uint_eq(offset, s.end);
        ck_assert_uint_gt(n_lost, SPOOL_BYTES_MIN);
        append(&s, 10);
        ck_assert_uint_eq(drain(&r, &offset, &n_lost), 10);
        spool_reader_done(&r);
        spool_done(&s);
}
END_TEST

START_TEST(no_room)
{
        Spool s;
        SpoolReader r;
        uint64_t offset = 0, n_lost = 0;
        spool_init(&s, dir_fd, "out", SPOOL_BYTES_MIN);
        append(&s, 100);
        int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
        ck_assert_int_eq(dup3(full, s.fd, O_CLOEXEC), s.fd);
        (void)close(full);
        append(&s, 50); /* lost */
        append(&s, 25);
        spool_reader_init(&r, dir_fd, "out");
        ck_assert_uint_eq(drain(&r, &offset, &n_lost), 125);
        ck_assert_uint_eq(n_lost, 50);
        ck_assert_uint_eq(offset, 175);
        spool_reader_done(&r);
        spool_done(&s);
}
END_TEST

SUITE_AROUND("spool", setup, teardown,
             { whole },
             { overtaken },
             { no_room })
