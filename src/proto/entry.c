/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Records to bytes and back. The parser trusts no length: a body is gathered as it comes, at most
 * RECORD_BODY_MAX of it, and DATA is not gathered at all. Strings are counted and closed by a NUL: both are
 * checked.
 */

#include "proto/entry.h"

#include "base/base.h"
#include "proto/name.h"

#define ENTRY_FIXED 44u
#define XATTR_FIXED 8u

struct RecordParser {
        uint8_t header[RECORD_HEADER_SIZE + RECORD_DATA_PREFIX];
        size_t n_header;
        uint32_t length;
        uint8_t *body;
        size_t n_body, allocated;
        uint64_t data_entry, data_offset;
        uint32_t data_left;
        bool broken;
        EntryXattr xattrs[XATTRS_MAX];
};

RecordParser *record_parser_new(void)
{
        return calloc(1, sizeof(RecordParser));
}

RecordParser *record_parser_free(RecordParser *p)
{
        if (p)
                free(p->body);
        free(p);
        return NULL;
}

bool record_parser_is_idle(const RecordParser *p)
{
        return p->n_header == 0 && p->data_left == 0;
}

/* What is left of a body while it is read. */
typedef struct Cursor {
        const uint8_t *p;
        size_t n;
} Cursor;

static bool take_bytes(Cursor *c, size_t n, const uint8_t **ret)
{
        if (c->n < n)
                return false;
        *ret = c->p;
        c->p += n;
        c->n -= n;
        return true;
}

static bool take_u64(Cursor *c, uint64_t *ret)
{
        const uint8_t *p;

        if (!take_bytes(c, 8, &p))
                return false;
        *ret = load_le64(p);
        return true;
}

/* A string of n bytes and its NUL, no other NUL inside. */
static bool take_counted(Cursor *c, size_t n, const char **ret)
{
        const uint8_t *p;

        if (!take_bytes(c, n + 1, &p) || memchr(p, 0, n + 1) != p + n)
                return false;
        *ret = (const char *)p;
        return true;
}

static bool take_string(Cursor *c, const char **ret)
{
        const uint8_t *nul = memchr(c->p, 0, c->n);

        return nul && take_counted(c, (size_t)(nul - c->p), ret);
}

static bool take_error(Cursor *c, WireError *ret_error, const char **ret_text, const char **ret_path)
{
        const char *name;

        if (!take_string(c, &name) || !take_string(c, ret_text) || !take_string(c, ret_path))
                return false;
        *ret_error = name[0] ? wire_error_from_string(name) : WIRE_OK;
        return true;
}

static const char *parse_xattrs(RecordParser *p, Cursor *c, Entry *e)
{
        for (size_t i = 0; i < e->n_xattrs; i++) {
                EntryXattr *x = &p->xattrs[i];
                const uint8_t *fixed;
                size_t n_name;

                if (!take_bytes(c, XATTR_FIXED, &fixed))
                        return "an entry's attribute is cut short";
                n_name = load_le16(fixed);
                x->n_value = load_le32(fixed + 4);
                if (n_name == 0 || n_name > NAME_BYTES_MAX || x->n_value > XATTR_VALUE_MAX)
                        return "an entry's attribute is past its limit";
                if (!take_counted(c, n_name, &x->name) || !take_bytes(c, x->n_value, &x->value))
                        return "an entry's attribute is cut short";
        }
        e->xattrs = p->xattrs;
        return NULL;
}

static const char *parse_entry(RecordParser *p, uint8_t flags, Cursor *c, Record *r)
{
        Entry *e = &r->object;
        size_t n_path, n_target, n_user, n_group;
        const uint8_t *f;

        if (!take_bytes(c, ENTRY_FIXED, &f))
                return "an entry is cut short";
        if (f[0] < ENTRY_FILE || f[0] > ENTRY_HARDLINK)
                return "an entry is of no known kind";
        e->kind = f[0];
        e->offer = flags & RECORD_FLAG_OFFER;
        e->has_owner = f[1] & RECORD_ENTRY_OWNER;
        e->n_xattrs = load_le16(f + 2);
        e->mode = load_le32(f + 4);
        e->size = load_le64(f + 8);
        e->mtime_sec = (int64_t)load_le64(f + 16);
        e->mtime_nsec = load_le32(f + 24);
        e->uid = load_le32(f + 28);
        e->gid = load_le32(f + 32);
        n_path = load_le16(f + 36);
        n_target = load_le16(f + 38);
        n_user = load_le16(f + 40);
        n_group = load_le16(f + 42);

        if (e->n_xattrs > XATTRS_MAX || n_user > NAME_BYTES_MAX || n_group > NAME_BYTES_MAX ||
            e->mode > 07777 || e->mtime_nsec >= 1000000000 || (e->offer && e->kind != ENTRY_FILE))
                return "an entry is past its limits";
        r->error = WIRE_INVALID_PATH;
        if (!take_counted(c, n_path, &e->path) || !take_counted(c, n_target, &e->target))
                return "an entry's path is cut short, or has a NUL in it";
        if (n_path > 0 && !name_is_tree_path(e->path, n_path))
                return "an entry's path is no path beneath a destination";
        if (e->kind == ENTRY_SYMLINK && (n_target == 0 || n_target > PATH_BYTES_MAX))
                return "a symlink's target is empty or too long";
        if (e->kind == ENTRY_HARDLINK && (n_path == 0 || !name_is_tree_path(e->target, n_target)))
                return "a hard link's target is no path beneath a destination";
        r->error = WIRE_OK;
        if (n_target > 0 && (e->kind == ENTRY_FILE || e->kind == ENTRY_DIRECTORY))
                return "an entry that is no link has a target";
        if (!take_counted(c, n_user, &e->user) || !take_counted(c, n_group, &e->group))
                return "an entry is cut short";
        return parse_xattrs(p, c, e);
}

static const char *parse_want(Cursor *c, Record *r)
{
        const uint8_t *what;

        if (!take_u64(c, &r->entry) || !take_bytes(c, 1, &what) || *what > WANT_NONE)
                return "a WANT is malformed";
        r->want = *what;
        if (r->want != WANT_REST)
                return NULL;
        if (!take_u64(c, &r->size) || r->size > INT64_MAX)
                return "a WANT is malformed";
        r->n_blocks = (size_t)(r->size / record_resume_block(r->size));
        if (!take_bytes(c, r->n_blocks * 8, &r->blocks))
                return "a WANT has too few digests";
        return NULL;
}

static const char *parse_body(RecordParser *p, uint8_t flags, const uint8_t *body, size_t n, Record *r)
{
        Cursor c = { body, n };
        const char *why = NULL;
        bool ok = true;

        switch (r->type) {
        case RECORD_TOTALS:
                ok = take_u64(&c, &r->n_bytes) && take_u64(&c, &r->n_files) && take_u64(&c, &r->size);
                break;
        case RECORD_ENTRY:
                why = parse_entry(p, flags, &c, r);
                break;
        case RECORD_FILE_END:
                ok = take_u64(&c, &r->entry) && take_u64(&c, &r->size) && take_u64(&c, &r->digest);
                break;
        case RECORD_FAILED:
                ok = take_u64(&c, &r->entry) && take_error(&c, &r->error, &r->text, &r->path);
                break;
        case RECORD_WANT:
                why = parse_want(&c, r);
                break;
        case RECORD_ACK:
                ok = take_u64(&c, &r->entry) && take_u64(&c, &r->size) && take_u64(&c, &r->offset);
                break;
        case RECORD_DONE:
                ok = take_u64(&c, &r->n_files) && take_u64(&c, &r->n_bytes) && take_u64(&c, &r->n_failed) &&
                     take_u64(&c, &r->digest) && take_error(&c, &r->error, &r->text, &r->path);
                break;
        case RECORD_LEAVE:
        case RECORD_END:
        case RECORD_DATA: /* never gathered */
                break;
        }
        if (why)
                return why;
        if (!ok)
                return "a record is cut short";
        return c.n > 0 ? "a record is longer than its contents" : NULL;
}

static bool is_known_type(uint8_t type)
{
        return (type >= RECORD_TOTALS && type <= RECORD_END) || (type >= RECORD_WANT && type <= RECORD_DONE);
}

static int broken(RecordParser *p, Record *r, const char *why, const char **ret_why)
{
        p->broken = true;
        if (r->error == WIRE_OK || r->type != RECORD_ENTRY)
                r->error = WIRE_PROTOCOL;
        *ret_why = why;
        return -EBADMSG;
}

/* Copies up to n_want bytes of the input into the header's place. */
static void gather_header(RecordParser *p, const uint8_t **data, size_t *n, size_t n_want)
{
        size_t k = MIN(n_want - p->n_header, *n);

        memcpy(p->header + p->n_header, *data, k);
        p->n_header += k;
        *data += k;
        *n -= k;
}

static int gather_body(RecordParser *p, const uint8_t **data, size_t *n)
{
        size_t k = MIN(p->length - p->n_body, *n);

        if (k == 0)
                return 0;
        if (p->n_body + k > p->allocated) {
                /* Grows with what has come, not with what was announced. */
                size_t want = MIN(MAX((p->n_body + k) * 2, (size_t)1024), (size_t)RECORD_BODY_MAX);
                uint8_t *b = realloc(p->body, want);

                if (!b)
                        return -ENOMEM;
                p->body = b;
                p->allocated = want;
        }
        memcpy(p->body + p->n_body, *data, k);
        p->n_body += k;
        *data += k;
        *n -= k;
        return 0;
}

int record_parser_next(RecordParser *p, const uint8_t *untrusted_data, size_t n, size_t *ret_taken,
                       Record *ret, const char **ret_why)
{
        const uint8_t *data = untrusted_data, *body;
        size_t n_given = n;
        const char *why;
        uint8_t type;

        *ret = (Record){ .text = "", .path = "" };
        *ret_taken = 0;
        if (p->broken)
                return broken(p, ret, "the record stream is broken", ret_why);

        if (p->data_left == 0) {
                if (p->n_header < RECORD_HEADER_SIZE) {
                        gather_header(p, &data, &n, RECORD_HEADER_SIZE);
                        if (p->n_header < RECORD_HEADER_SIZE)
                                return *ret_taken = n_given, 0;
                        p->length = load_le32(p->header + 4);
                        p->n_body = 0;
                        if (!is_known_type(p->header[0]) || load_le16(p->header + 2) != 0)
                                return broken(p, ret, "a record is of no known type", ret_why);
                        if (p->length > RECORD_BODY_MAX)
                                return broken(p, ret, "a record is too long", ret_why);
                        if (p->header[0] == RECORD_DATA && p->length <= RECORD_DATA_PREFIX)
                                return broken(p, ret, "a DATA record has no content", ret_why);
                }
                if (p->header[0] == RECORD_DATA) {
                        gather_header(p, &data, &n, sizeof p->header);
                        if (p->n_header < sizeof p->header)
                                return *ret_taken = n_given, 0;
                        p->data_entry = load_le64(p->header + RECORD_HEADER_SIZE);
                        p->data_offset = load_le64(p->header + RECORD_HEADER_SIZE + 8);
                        p->data_left = p->length - RECORD_DATA_PREFIX;
                        if (p->data_offset > (uint64_t)INT64_MAX - p->data_left)
                                return broken(p, ret, "a DATA record's offset is past every file", ret_why);
                        p->n_header = 0;
                }
        }
        if (p->data_left > 0) {
                size_t k = MIN(n, p->data_left);

                *ret_taken = n_given - n + k;
                if (k == 0)
                        return 0;
                ret->type = RECORD_DATA;
                ret->entry = p->data_entry;
                ret->offset = p->data_offset;
                ret->data = data;
                ret->n_data = k;
                p->data_offset += k;
                p->data_left -= (uint32_t)k;
                return 1;
        }

        if (p->n_body == 0 && n >= p->length) {
                body = data;
                data += p->length;
                n -= p->length;
        } else {
                if (gather_body(p, &data, &n) < 0)
                        return broken(p, ret, "no memory for a record", ret_why);
                if (p->n_body < p->length)
                        return *ret_taken = n_given, 0;
                body = p->body;
        }
        type = p->header[0];
        ret->type = type;
        ret->flags = p->header[1];
        p->n_header = 0;
        p->n_body = 0;
        *ret_taken = n_given - n;
        why = parse_body(p, ret->flags, body, p->length, ret);
        return why ? broken(p, ret, why, ret_why) : 1;
}

void record_parser_unread(RecordParser *p, size_t n)
{
        p->data_offset -= n;
        p->data_left += (uint32_t)n;
}

void record_buffer_done(RecordBuffer *b)
{
        free(b->data);
        *b = (RecordBuffer){};
}

size_t record_buffer_take(RecordBuffer *b, uint8_t *buf, size_t n)
{
        size_t k = MIN(n, b->n - b->offset);

        if (k > 0)
                memcpy(buf, b->data + b->offset, k);
        b->offset += k;
        if (b->offset == b->n)
                b->offset = b->n = 0;
        return k;
}

/* Room for one record's header and body; returns where the body goes. */
static uint8_t *reserve(RecordBuffer *b, RecordType type, uint8_t flags, size_t n_body)
{
        size_t need = RECORD_HEADER_SIZE + n_body;
        uint8_t *p;

        if (b->offset > 0 && b->offset >= b->n / 2) {
                memmove(b->data, b->data + b->offset, b->n - b->offset);
                b->n -= b->offset;
                b->offset = 0;
        }
        if (b->allocated - b->n < need) {
                size_t want = MAX(b->allocated * 2, MAX(b->n + need, (size_t)4096));

                p = realloc(b->data, want);
                if (!p)
                        return NULL;
                b->data = p;
                b->allocated = want;
        }
        p = b->data + b->n;
        b->n += need;
        p[0] = (uint8_t)type;
        p[1] = flags;
        store_le16(p + 2, 0);
        store_le32(p + 4, (uint32_t)n_body);
        return p + RECORD_HEADER_SIZE;
}

static int put_u64s(RecordBuffer *b, RecordType type, const uint64_t *values, size_t n)
{
        uint8_t *p = reserve(b, type, 0, n * 8);

        if (!p)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                store_le64(p + i * 8, values[i]);
        return 0;
}

static uint8_t *put_string(uint8_t *p, const char *s, size_t n)
{
        if (n > 0)
                memcpy(p, s, n);
        p[n] = 0;
        return p + n + 1;
}

int record_put_totals(RecordBuffer *b, uint64_t n_bytes, uint64_t n_files, uint64_t n_allocated)
{
        return put_u64s(b, RECORD_TOTALS, (const uint64_t[]){ n_bytes, n_files, n_allocated }, 3);
}

int record_put_entry(RecordBuffer *b, const Entry *e)
{
        size_t n_path = strlen(e->path), n_target = e->target ? strlen(e->target) : 0;
        size_t n_user = e->user ? strlen(e->user) : 0, n_group = e->group ? strlen(e->group) : 0;
        size_t n = ENTRY_FIXED + n_path + n_target + n_user + n_group + 4;
        uint8_t *p;

        if (n_path > PATH_BYTES_MAX || n_target > PATH_BYTES_MAX || n_user > NAME_BYTES_MAX ||
            n_group > NAME_BYTES_MAX || e->n_xattrs > XATTRS_MAX)
                return -E2BIG;
        for (size_t i = 0; i < e->n_xattrs; i++) {
                size_t n_name = strlen(e->xattrs[i].name);

                if (n_name > NAME_BYTES_MAX || e->xattrs[i].n_value > XATTR_VALUE_MAX)
                        return -E2BIG;
                n += XATTR_FIXED + n_name + 1 + e->xattrs[i].n_value;
        }
        if (n > RECORD_BODY_MAX)
                return -E2BIG;
        p = reserve(b, RECORD_ENTRY, e->offer ? RECORD_FLAG_OFFER : 0, n);
        if (!p)
                return -ENOMEM;
        p[0] = (uint8_t)e->kind;
        p[1] = e->has_owner ? RECORD_ENTRY_OWNER : 0;
        store_le16(p + 2, (uint16_t)e->n_xattrs);
        store_le32(p + 4, e->mode);
        store_le64(p + 8, e->size);
        store_le64(p + 16, (uint64_t)e->mtime_sec);
        store_le32(p + 24, e->mtime_nsec);
        store_le32(p + 28, e->uid);
        store_le32(p + 32, e->gid);
        store_le16(p + 36, (uint16_t)n_path);
        store_le16(p + 38, (uint16_t)n_target);
        store_le16(p + 40, (uint16_t)n_user);
        store_le16(p + 42, (uint16_t)n_group);
        p = put_string(p + ENTRY_FIXED, e->path, n_path);
        p = put_string(p, e->target, n_target);
        p = put_string(p, e->user, n_user);
        p = put_string(p, e->group, n_group);
        for (size_t i = 0; i < e->n_xattrs; i++) {
                const EntryXattr *x = &e->xattrs[i];
                size_t n_name = strlen(x->name);

                store_le16(p, (uint16_t)n_name);
                store_le16(p + 2, 0);
                store_le32(p + 4, x->n_value);
                p = put_string(p + XATTR_FIXED, x->name, n_name);
                if (x->n_value > 0)
                        memcpy(p, x->value, x->n_value);
                p += x->n_value;
        }
        return 0;
}

int record_put_file_end(RecordBuffer *b, uint64_t entry, uint64_t size, uint64_t digest)
{
        return put_u64s(b, RECORD_FILE_END, (const uint64_t[]){ entry, size, digest }, 3);
}

int record_put_leave(RecordBuffer *b)
{
        return put_u64s(b, RECORD_LEAVE, NULL, 0);
}

/* `n_values` integers, then the three strings that say what went wrong; text is cut to fit. */
static int put_error(RecordBuffer *b, RecordType type, uint8_t flags, const uint64_t *values,
                     size_t n_values, WireError error, const char *text, const char *path)
{
        const char *name = error == WIRE_OK ? "" : wire_error_to_string(error);
        size_t n_name = strlen(name), n_text = strnlen(text, PATH_BYTES_MAX),
               n_path = strnlen(path, PATH_BYTES_MAX);
        uint8_t *p = reserve(b, type, flags, n_values * 8 + n_name + n_text + n_path + 3);

        if (!p)
                return -ENOMEM;
        for (size_t i = 0; i < n_values; i++)
                store_le64(p + i * 8, values[i]);
        p = put_string(p + n_values * 8, name, n_name);
        p = put_string(p, text, n_text);
        (void)put_string(p, path, n_path);
        return 0;
}

int record_put_failed(RecordBuffer *b, uint64_t entry, bool skipped, WireError error, const char *text,
                      const char *path)
{
        return put_error(b, RECORD_FAILED, skipped ? RECORD_FLAG_SKIPPED : 0, &entry, 1, error, text, path);
}

int record_put_end(RecordBuffer *b)
{
        return put_u64s(b, RECORD_END, NULL, 0);
}

int record_put_want(RecordBuffer *b, uint64_t entry, WantWhat what, uint64_t size, const uint64_t *blocks,
                    size_t n_blocks)
{
        bool rest = what == WANT_REST;
        uint8_t *p;

        if (rest && n_blocks > RESUME_BLOCKS_MAX)
                return -E2BIG;
        p = reserve(b, RECORD_WANT, 0, rest ? 17 + n_blocks * 8 : 9);
        if (!p)
                return -ENOMEM;
        store_le64(p, entry);
        p[8] = (uint8_t)what;
        if (rest) {
                store_le64(p + 9, size);
                for (size_t i = 0; i < n_blocks; i++)
                        store_le64(p + 17 + i * 8, blocks[i]);
        }
        return 0;
}

int record_put_ack(RecordBuffer *b, uint64_t n_settled, uint64_t n_bytes, uint64_t n_files)
{
        return put_u64s(b, RECORD_ACK, (const uint64_t[]){ n_settled, n_bytes, n_files }, 3);
}

int record_put_done(RecordBuffer *b, uint64_t n_files, uint64_t n_bytes, uint64_t n_failed, uint64_t digest,
                    WireError error, const char *text, const char *path)
{
        return put_error(b, RECORD_DONE, 0, (const uint64_t[]){ n_files, n_bytes, n_failed, digest }, 4,
                         error, text, path);
}

uint64_t record_resume_block(uint64_t size)
{
        uint64_t block = RESUME_BLOCK;

        while (size / block > RESUME_BLOCKS_MAX)
                block *= 2;
        return block;
}

void record_format_data(uint8_t buf[RECORD_HEADER_SIZE + RECORD_DATA_PREFIX], uint64_t entry,
                        uint64_t offset, size_t n)
{
        buf[0] = RECORD_DATA;
        buf[1] = 0;
        store_le16(buf + 2, 0);
        store_le32(buf + 4, (uint32_t)(n + RECORD_DATA_PREFIX));
        store_le64(buf + 8, entry);
        store_le64(buf + 16, offset);
}
