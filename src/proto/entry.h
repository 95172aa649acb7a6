/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Records of a transfer: what flows inside a stream whose OPEN said "push" or "pull". The sender
 * has the source, the receiver the destination; either may be the guest. Pure: bytes to struct and
 * back, every length judged.
 *
 * A record is u8 type, u8 flags, u16 0, u32 length, then `length` bytes (at most RECORD_BODY_MAX).
 * Integers are little-endian; every string ends with a NUL, the last of a record too.
 *
 * sender → receiver
 *   TOTALS    u64 bytes, u64 files (all entries but directories), u64 bytes without the holes;
 *             UINT64_MAX: unknown. First; again when more is known. Judged for space when it is
 *             known, before any content.
 *   ENTRY     one object, see struct Entry. Entries are numbered from 0 in the order they are sent.
 *             A directory's entries follow it, in strcmp(3) order of their names, and end with its
 *             LEAVE. The single object of a transfer has the empty path. With RECORD_FLAG_OFFER no
 *             content follows until the receiver's WANT for it; other entries may, and LEAVE.
 *             Contents come in the order of their entries. At most OFFERS_MAX offers have no WANT
 *             yet.
 *              0  u8 kind, u8 flags (RECORD_ENTRY_OWNER: uid to xattrs hold), u16 number of xattrs
 *              4  u32 mode
 *              8  u64 size
 *             16  i64 mtime's seconds, u32 its nanoseconds
 *             28  u32 uid, u32 gid
 *             36  u16 lengths of path, target, user and group, without their NULs
 *             44  path, target, user, group
 *             ..  each xattr: u16 length of its name, u16 0, u32 length of its value, name, value
 *   DATA      u64 entry, u64 offset, bytes: content of the file; offsets ascend, a hole is left out
 *   FILE_END  u64 entry, u64 size, u64 digest (XXH64 of the whole content, holes as zeros)
 *   LEAVE     a directory is complete: its times and mode can be set
 *   FAILED    u64 entry or UINT64_MAX, error name, text, path: could not be read, or with
 *             RECORD_FLAG_SKIPPED: is a device, socket or fifo. For a file that has an ENTRY it
 *             takes FILE_END's place.
 *   END       nothing follows
 * receiver → sender
 *   WANT      u64 entry, u8 what (WANT_ALL, WANT_REST, WANT_NONE), and for WANT_REST: u64 bytes
 *             that it has, then the XXH64 of each whole block of record_resume_block() of those:
 *             the sender goes on behind the last block that agrees with the source, and says where
 *             with its first DATA
 *   ACK       u64 entries settled (all below are committed or failed), u64 content bytes taken, u64
 *             files committed
 *   FAILED    as above, for what could not be written; the sender goes on with the next entry
 *   DONE      u64 files, u64 bytes, u64 failed, u64 digest (of a single file, else 0), error name,
 *             text and path of the first failure (all three empty: none). Last. Sent when
 *             everything is durable. The transfer is over only then.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/wire-error.h"

#define RECORD_HEADER_SIZE 8u
#define RECORD_DATA_PREFIX 16u /* entry and offset in front of DATA's bytes */
#define RESUME_BLOCK (256u * 1024)
#define RESUME_BLOCKS_MAX 16384u /* of larger files the blocks are larger */
#define SIZE_UNKNOWN UINT64_MAX

typedef enum RecordType {
        RECORD_TOTALS = 1,
        RECORD_ENTRY = 2,
        RECORD_DATA = 3,
        RECORD_FILE_END = 4,
        RECORD_LEAVE = 5,
        RECORD_FAILED = 6,
        RECORD_END = 7,
        RECORD_WANT = 16,
        RECORD_ACK = 17,
        RECORD_DONE = 18,
} RecordType;

#define RECORD_FLAG_OFFER 0x01u   /* ENTRY */
#define RECORD_FLAG_SKIPPED 0x01u /* FAILED: a note, not an error */
#define RECORD_ENTRY_OWNER 0x01u  /* in ENTRY's body */

typedef enum EntryKind {
        ENTRY_FILE = 1,
        ENTRY_DIRECTORY = 2,
        ENTRY_SYMLINK = 3,
        ENTRY_HARDLINK = 4
} EntryKind;
typedef enum WantWhat { WANT_ALL = 0, WANT_REST = 1, WANT_NONE = 2 } WantWhat;

typedef struct EntryXattr {
        const char *name; /* NUL-terminated */
        const uint8_t *value;
        uint32_t n_value;
} EntryXattr;

typedef struct Entry {
        EntryKind kind;
        bool offer;
        bool has_owner; /* uid, gid, user, group and xattrs were asked for (preserve) */
        uint32_t mode;  /* permission bits, 07777 */
        uint32_t uid, gid;
        int64_t mtime_sec;
        uint32_t mtime_nsec;
        uint64_t size;            /* of a file; SIZE_UNKNOWN for a stream */
        const char *path;         /* judged by name_is_tree_path(), or empty; not necessarily UTF-8 */
        const char *target;       /* symlink: as it is; hardlink: tree path of an earlier file */
        const char *user, *group; /* may be empty */
        size_t n_xattrs; /* POSIX ACLs are xattrs: system.posix_acl_access, system.posix_acl_default */
        EntryXattr *xattrs;
} Entry;

typedef struct Record {
        RecordType type;
        uint8_t flags;
        uint64_t entry, offset, size,
                digest; /* as the type has them; ACK: entry, size (bytes), offset (files) */
        uint64_t n_files, n_bytes, n_failed; /* TOTALS (and size: without the holes), DONE */
        WantWhat want;
        const uint8_t *blocks; /* WANT_REST: digests of the whole blocks, 8 bytes each */
        size_t n_blocks;
        const uint8_t *data; /* DATA */
        size_t n_data;
        WireError error;         /* FAILED, DONE */
        const char *text, *path; /* FAILED, DONE; NUL-terminated, untrusted text: escape before showing */
        Entry object;            /* ENTRY; strings point into the parsed bytes, xattrs into the parser */
} Record;

/*
 * The parser takes a stream in pieces of any size. DATA is handed out as it comes, in several records with
 * their own offsets, so that bulk is not gathered first; everything else is whole.
 */
typedef struct RecordParser RecordParser;
RecordParser *record_parser_new(void);
RecordParser *record_parser_free(RecordParser *p);
/* Looks at the n bytes; *ret_taken says how many were used. 1: a record (its pointers are valid until the
 * next call, and as long as the bytes given); 0: all taken, needs more; -EBADMSG: the peer broke the format,
 * *ret_why says how and ret->error by which name (WIRE_PROTOCOL, WIRE_INVALID_PATH). */
int record_parser_next(RecordParser *p, const uint8_t *untrusted_data, size_t n, size_t *ret_taken,
                       Record *ret, const char **ret_why);
/* Gives back the last n bytes of the DATA that was handed out last: they will be given again. */
void record_parser_unread(RecordParser *p, size_t n);
/* True between records: the stream may end here. */
bool record_parser_is_idle(const RecordParser *p);

/* Whole records, appended to a growing buffer. 0, -ENOMEM, -E2BIG (an attribute or a path is past its
 * limit). */
typedef struct RecordBuffer {
        uint8_t *data;
        size_t n, offset, allocated; /* offset: how much of n was taken away already */
} RecordBuffer;
void record_buffer_done(RecordBuffer *b);
size_t record_buffer_take(RecordBuffer *b, uint8_t *buf, size_t n); /* moves up to n bytes out */

int record_put_totals(RecordBuffer *b, uint64_t n_bytes, uint64_t n_files, uint64_t n_allocated);
int record_put_entry(RecordBuffer *b, const Entry *e);
int record_put_file_end(RecordBuffer *b, uint64_t entry, uint64_t size, uint64_t digest);
int record_put_leave(RecordBuffer *b);
int record_put_failed(RecordBuffer *b, uint64_t entry, bool skipped, WireError error, const char *text,
                      const char *path);
int record_put_end(RecordBuffer *b);
int record_put_want(RecordBuffer *b, uint64_t entry, WantWhat what, uint64_t size, const uint64_t *blocks,
                    size_t n_blocks);
int record_put_ack(RecordBuffer *b, uint64_t n_settled, uint64_t n_bytes, uint64_t n_files);
int record_put_done(RecordBuffer *b, uint64_t n_files, uint64_t n_bytes, uint64_t n_failed, uint64_t digest,
                    WireError error, const char *text, const char *path);
/* Bytes of one block of a resume of `size` bytes: RESUME_BLOCK, doubled until RESUME_BLOCKS_MAX are enough.
 */
uint64_t record_resume_block(uint64_t size);
/* The 24 bytes before a DATA record's content, for a sender that reads the file straight behind them. */
void record_format_data(uint8_t buf[RECORD_HEADER_SIZE + RECORD_DATA_PREFIX], uint64_t entry,
                        uint64_t offset, size_t n);
