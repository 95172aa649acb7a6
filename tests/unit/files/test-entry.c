/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records: each type there and back at every split, each limit at it and one past it, and bodies that lie
 * about themselves.
 */


#include "base/base.h"
#include "proto/entry.h"
#include "../suite.h"

static RecordBuffer b;
static RecordParser *parser;

static void setup(void)
{
        b = (RecordBuffer){};
        parser = record_parser_new();
        ck_assert_ptr_nonnull(parser);
}

static void teardown(void)
{
        record_buffer_done(&b);
        parser = record_parser_free(parser);
}

static Entry file(const char *path)
{
        return (Entry){ .kind = ENTRY_FILE,
                        .path = path,
                        .mode = 0644,
                        .size = 7,
                        .mtime_sec = -5,
                        .mtime_nsec = 999999999 };
}

/* Parses all of it in pieces of n; the last record that came out, with the check function called for each.
 */
static int parse(size_t n_piece, void (*check)(const Record *r, size_t i), WireError *ret_error)
{
        size_t n_records = 0;

        for (size_t o = 0; o < b.n;) {
                /* exact allocations: a read past the end is seen by ASan */
                size_t n = MIN(n_piece, b.n - o), at = 0;
                uint8_t *copy = malloc(n);

                memcpy(copy, b.data + o, n);
                while (at < n) {
                        const char *why = NULL;
                        size_t taken;
                        Record r;
                        int k = record_parser_next(parser, copy + at, n - at, &taken, &r, &why);

                        if (k < 0) {
                                ck_assert_ptr_nonnull(why);
                                if (ret_error)
                                        *ret_error = r.error;
                                free(copy);
                                return k;
                        }
                        at += taken;
                        if (k > 0 && check)
                                check(&r, n_records);
                        n_records += k > 0;
                        if (k == 0)
                                ck_assert_uint_eq(at, n);
                }
                o += n;
                free(copy);
        }
        return (int)n_records;
}

static void check_all(const Record *r, size_t i)
{
        switch (i) {
        case 0:
                ck_assert_int_eq(r->type, RECORD_TOTALS);
                ck_assert_uint_eq(r->n_bytes, 1);
                ck_assert_uint_eq(r->n_files, SIZE_UNKNOWN);
                ck_assert_uint_eq(r->size, 3);
                break;
        case 1:
                ck_assert_int_eq(r->type, RECORD_ENTRY);
                ck_assert_int_eq(r->object.kind, ENTRY_FILE);
                ck_assert_str_eq(r->object.path, "a/\xff b");
                ck_assert_uint_eq(r->object.mode, 07755);
                ck_assert_int_eq(r->object.mtime_sec, -5);
                ck_assert_uint_eq(r->object.mtime_nsec, 999999999);
                ck_assert(r->object.offer);
                ck_assert(r->object.has_owner);
                ck_assert_str_eq(r->object.user, "root");
                ck_assert_str_eq(r->object.group, "");
                ck_assert_uint_eq(r->object.n_xattrs, 2);
                ck_assert_str_eq(r->object.xattrs[0].name, "user.a");
                ck_assert_uint_eq(r->object.xattrs[0].n_value, 3);
                ck_assert_mem_eq(r->object.xattrs[0].value, "x\0y", 3);
                ck_assert_uint_eq(r->object.xattrs[1].n_value, 0);
                break;
        case 2:
                ck_assert_int_eq(r->type, RECORD_FILE_END);
                ck_assert_uint_eq(r->digest, 0x1122334455667788);
                break;
        case 3:
                ck_assert_int_eq(r->type, RECORD_LEAVE);
                break;
        case 4:
                ck_assert_int_eq(r->type, RECORD_FAILED);
                ck_assert_int_eq(r->error, WIRE_NO_SPACE);
                ck_assert_str_eq(r->text, "it is full");
                ck_assert_str_eq(r->path, "a/b");
                ck_assert_uint_eq(r->flags, RECORD_FLAG_SKIPPED);
                break;
        case 5:
                ck_assert_int_eq(r->type, RECORD_END);
                break;
        case 6:
                ck_assert_int_eq(r->type, RECORD_WANT);
                ck_assert_int_eq(r->want, WANT_NONE);
                break;
        case 7:
                ck_assert_int_eq(r->type, RECORD_WANT);
                ck_assert_int_eq(r->want, WANT_REST);
                ck_assert_uint_eq(r->size, 2 * RESUME_BLOCK + 5);
                ck_assert_uint_eq(r->n_blocks, 2);
                ck_assert_uint_eq(load_le64(r->blocks + 8), 8);
                break;
        case 8:
                ck_assert_int_eq(r->type, RECORD_ACK);
                ck_assert_uint_eq(r->entry, 1);
                ck_assert_uint_eq(r->size, 2);
                ck_assert_uint_eq(r->offset, 3);
                break;
        default:
                ck_assert_int_eq(r->type, RECORD_DONE);
                ck_assert_int_eq(r->error, WIRE_OK);
                ck_assert_str_eq(r->text, "");
                ck_assert_uint_eq(r->n_failed, 3);
        }
}

START_TEST(test_there_and_back)
{
        EntryXattr xattrs[] = { { "user.a", (const uint8_t *)"x\0y", 3 },
                                { "user.b", (const uint8_t *)"", 0 } };
        Entry e = file("a/\xff b");

        e.offer = e.has_owner = true;
        e.mode = 07755;
        e.user = "root";
        e.xattrs = xattrs;
        e.n_xattrs = 2;
        ck_assert_int_eq(record_put_totals(&b, 1, SIZE_UNKNOWN, 3), 0);
        ck_assert_int_eq(record_put_entry(&b, &e), 0);
        ck_assert_int_eq(record_put_file_end(&b, 1, 2, 0x1122334455667788), 0);
        ck_assert_int_eq(record_put_leave(&b), 0);
        ck_assert_int_eq(record_put_failed(&b, 1, true, WIRE_NO_SPACE, "it is full", "a/b"), 0);
        ck_assert_int_eq(record_put_end(&b), 0);
        ck_assert_int_eq(record_put_want(&b, 4, WANT_NONE, 0, NULL, 0), 0);
        ck_assert_int_eq(
                record_put_want(&b, 4, WANT_REST, 2 * RESUME_BLOCK + 5, (const uint64_t[]){ 7, 8 }, 2), 0);
        ck_assert_int_eq(record_put_ack(&b, 1, 2, 3), 0);
        ck_assert_int_eq(record_put_done(&b, 1, 2, 3, 4, WIRE_OK, "", ""), 0);
        for (size_t n = 1; n <= b.n; n++) {
                ck_assert_int_eq(parse(n, check_all, NULL), 10);
                ck_assert(record_parser_is_idle(parser));
        }
}
END_TEST

static uint64_t data_at;
static void check_data(const Record *r, size_t i)
{
        ck_assert_int_eq(r->type, RECORD_DATA);
        ck_assert_uint_eq(r->entry, 9);
        ck_assert_uint_eq(r->offset, 1000 + data_at);
        for (size_t k = 0; k < r->n_data; k++)
                ck_assert_uint_eq(r->data[k], (uint8_t)(data_at + k));
        data_at += r->n_data;
}

START_TEST(test_data)
{
        uint8_t buf[24 + 300];

        record_format_data(buf, 9, 1000, 300);
        for (int i = 0; i < 300; i++)
                buf[24 + i] = (uint8_t)i;
        b.data = buf;
        b.n = sizeof buf;
        for (size_t n = 1; n <= sizeof buf; n++) {
                data_at = 0;
                ck_assert_int_ge(parse(n, check_data, NULL), 1);
                ck_assert_uint_eq(data_at, 300);
        }
        b = (RecordBuffer){};
}
END_TEST

START_TEST(test_unread)
{
        uint8_t buf[24 + 10];
        const char *why;
        size_t taken;
        Record r;

        memset(buf, 'x', sizeof buf);
        record_format_data(buf, 1, 0, 10);
        ck_assert_int_eq(record_parser_next(parser, buf, sizeof buf, &taken, &r, &why), 1);
        ck_assert_uint_eq(taken, sizeof buf);
        record_parser_unread(parser, 4);
        ck_assert(!record_parser_is_idle(parser));
        ck_assert_int_eq(record_parser_next(parser, buf + 30, 4, &taken, &r, &why), 1);
        ck_assert_uint_eq(r.offset, 6);
        ck_assert_uint_eq(r.n_data, 4);
        ck_assert(record_parser_is_idle(parser));
}
END_TEST

START_TEST(test_bad_paths)
{
        static const char *const bad[] = { "/etc/passwd", "..", "../x", "a/../b", "a//b",
                                           "a/",          ".",  "./a",  "a/." };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Entry e = file(bad[i]);
                WireError error = WIRE_OK;

                teardown();
                setup();
                ck_assert_int_eq(record_put_entry(&b, &e), 0);
                ck_assert_int_eq(parse(b.n, NULL, &error), -EBADMSG);
                ck_assert_int_eq(error, WIRE_INVALID_PATH);
                /* it stays broken */
                ck_assert_int_eq(parse(b.n, NULL, &error), -EBADMSG);
        }
        /* a NUL inside */
        teardown();
        setup();
        Entry e = file("abc");
        WireError error = WIRE_OK;
        ck_assert_int_eq(record_put_entry(&b, &e), 0);
        b.data[8 + 44 + 1] = 0;
        ck_assert_int_eq(parse(b.n, NULL, &error), -EBADMSG);
        ck_assert_int_eq(error, WIRE_INVALID_PATH);
        /* a hard link to somewhere else */
        teardown();
        setup();
        e = (Entry){ .kind = ENTRY_HARDLINK, .path = "x", .target = "../../etc/shadow" };
        ck_assert_int_eq(record_put_entry(&b, &e), 0);
        ck_assert_int_eq(parse(b.n, NULL, &error), -EBADMSG);
        ck_assert_int_eq(error, WIRE_INVALID_PATH);
}
END_TEST

static int one(const void *head, size_t n_head, size_t n_body)
{
        uint8_t *p = calloc(1, 8 + n_body);
        int r;

        teardown();
        setup();
        memcpy(p, head, n_head);
        b.data = p;
        b.n = b.allocated = 8 + n_body;
        r = parse(SIZE_MAX, NULL, NULL);
        return r;
}

START_TEST(test_bad_records)
{
        ck_assert_int_eq(one("\0\0\0\0\0\0\0\0", 8, 0), -EBADMSG);   /* type 0 */
        ck_assert_int_eq(one("\x08\0\0\0\0\0\0\0", 8, 0), -EBADMSG); /* no such type */
        ck_assert_int_eq(one("\xff\0\0\0\0\0\0\0", 8, 0), -EBADMSG);
        ck_assert_int_eq(one("\x07\0\1\0\0\0\0\0", 8, 0), -EBADMSG);         /* reserved bits */
        ck_assert_int_eq(one("\x07\0\0\0\1\0\0\0", 8, 1), -EBADMSG);         /* END with a body */
        ck_assert_int_eq(one("\x05\0\0\0\0\0\0\0", 8, 0), 1);                /* LEAVE */
        ck_assert_int_eq(one("\x02\0\0\0\xff\xff\xff\xff", 8, 0), -EBADMSG); /* 4 GiB */
        ck_assert_int_eq(one("\x02\0\0\0\x01\x00\x04\x00", 8, 0), -EBADMSG); /* one past RECORD_BODY_MAX */
        ck_assert_int_eq(one("\x02\0\0\0\x00\x00\x04\x00", 8, 0), 0);        /* at it: waits */
        ck_assert_int_eq(one("\x03\0\0\0\x10\0\0\0", 8, 16), -EBADMSG);      /* DATA of nothing */
        ck_assert_int_eq(one("\x03\0\0\0\x11\0\0\0\1\1\1\1\1\1\1\1\xff\xff\xff\xff\xff\xff\xff\xff", 24, 17),
                         -EBADMSG);
        ck_assert_int_eq(one("\x01\0\0\0\x10\0\0\0", 8, 16), -EBADMSG);   /* TOTALS cut short */
        ck_assert_int_eq(one("\x02\0\0\0\x2b\0\0\0\1", 9, 43), -EBADMSG); /* ENTRY cut short */
        ck_assert_int_eq(one("\x02\0\0\0\x30\0\0\0\1", 9, 48), 1);        /* the smallest */
        ck_assert_int_eq(one("\x02\0\0\0\x30\0\0\0\5", 9, 48), -EBADMSG); /* of no kind */
        ck_assert_int_eq(one("\x02\0\0\0\x30\0\0\0\1\0\1", 11, 48),
                         -EBADMSG); /* an xattr that is not there */
        ck_assert_int_eq(one("\x02\0\0\0\x30\0\0\0\1\0\x41", 11, 48), -EBADMSG); /* XATTRS_MAX + 1 */
        ck_assert_int_eq(one("\x02\0\0\0\x30\0\0\0\3", 9, 48), -EBADMSG);        /* a symlink to nothing */
        ck_assert_int_eq(one("\x02\1\0\0\x30\0\0\0\2", 9, 48), -EBADMSG);        /* a directory on offer */
        ck_assert_int_eq(one("\x06\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0x", 17, 10),
                         -EBADMSG); /* strings without end */
        ck_assert_int_eq(one("\x10\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\3", 17, 9), -EBADMSG);
        ck_assert_int_eq(
                one("\x10\0\0\0\x11\0\0\0\0\0\0\0\0\0\0\0\1\xff\xff\xff\xff\xff\xff\xff\x7f", 25, 17),
                -EBADMSG);
}
END_TEST

START_TEST(test_limits_of_put)
{
        static char path[PATH_BYTES_MAX + 2];
        static uint8_t value[XATTR_VALUE_MAX + 1];
        EntryXattr xattrs[XATTRS_MAX + 1];
        Entry e = file(path);

        for (size_t i = 0; i < PATH_BYTES_MAX; i++)
                path[i] = i % 200 == 199 ? '/' : 'p';
        ck_assert_int_eq(record_put_entry(&b, &e), 0);
        ck_assert_int_eq(parse(b.n, NULL, NULL), 1);
        path[PATH_BYTES_MAX] = 'p';
        ck_assert_int_eq(record_put_entry(&b, &e), -E2BIG);
        for (size_t i = 0; i < ELEMENTSOF(xattrs); i++)
                xattrs[i] = (EntryXattr){ "user.x", value, 1 };
        e = file("x");
        e.xattrs = xattrs;
        e.n_xattrs = XATTRS_MAX;
        b.n = b.offset = 0;
        ck_assert_int_eq(record_put_entry(&b, &e), 0);
        ck_assert_int_eq(parse(1000, NULL, NULL), 1);
        e.n_xattrs++;
        ck_assert_int_eq(record_put_entry(&b, &e), -E2BIG);
        e.n_xattrs = 1;
        xattrs[0].n_value = XATTR_VALUE_MAX;
        b.n = b.offset = 0;
        ck_assert_int_eq(record_put_entry(&b, &e), 0);
        ck_assert_int_eq(parse(b.n, NULL, NULL), 1);
        xattrs[0].n_value++;
        ck_assert_int_eq(record_put_entry(&b, &e), -E2BIG);
        for (size_t i = 0; i < 5; i++)
                xattrs[i].n_value = XATTR_VALUE_MAX;
        e.n_xattrs = 5; /* each fits, all together do not */
        ck_assert_int_eq(record_put_entry(&b, &e), -E2BIG);
}
END_TEST

START_TEST(test_resume_block)
{
        ck_assert_uint_eq(record_resume_block(0), RESUME_BLOCK);
        ck_assert_uint_eq(record_resume_block((uint64_t)RESUME_BLOCK * RESUME_BLOCKS_MAX), RESUME_BLOCK);
        ck_assert_uint_eq(record_resume_block((uint64_t)RESUME_BLOCK * (RESUME_BLOCKS_MAX + 1)),
                          2 * RESUME_BLOCK);
        for (uint64_t size = 1; size < INT64_MAX / 3; size *= 3)
                ck_assert_uint_le(size / record_resume_block(size), RESUME_BLOCKS_MAX);
}
END_TEST

START_TEST(test_buffer)
{
        uint8_t out[64];
        size_t n = 0;

        /* taken in small pieces while it is appended to: nothing is lost, nothing repeated, and it does not
         * grow */
        for (int i = 0; i < 10000; i++) {
                ck_assert_int_eq(record_put_leave(&b), 0);
                n += record_buffer_take(&b, out, 5);
                if (i % 3 == 0)
                        n += record_buffer_take(&b, out, sizeof out);
        }
        while (b.n > 0)
                n += record_buffer_take(&b, out, sizeof out);
        ck_assert_uint_eq(n, 80000);
        ck_assert_uint_le(b.allocated, 8192);
}
END_TEST

SUITE_AROUND("entry", setup, teardown,
             { test_there_and_back },
             { test_data },
             { test_unread },
             { test_bad_paths },
             { test_bad_records },
             { test_limits_of_put },
             { test_resume_block },
             { test_buffer })
