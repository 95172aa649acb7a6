/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Frames out of a byte stream that may begin, end or jump anywhere. The parser holds what its driver read
 * and looks at each byte once while all is well: a header is checked when its 40 bytes are there, a body
 * when its last byte is, and neither again. Only behind a lie, a header or seal that is wrong, does it step
 * back and search the same bytes.
 */

#include "proto/frame.h"

#include <assert.h>

#include "base/base.h"
#include "proto/digest.h"

/* Room for a whole frame to come in behind a part of one, so that moving is rare and reads are large. */
#define PARSER_SIZE ((size_t)4 * FRAME_MAX)

#define CHECK_OFFSET 32

/* Not text, no run, and it does not overlap itself: a search for it can't be led on by its own bytes. */
const uint8_t FRAME_MAGIC[8] = { 0xa3, 0x76, 0x6d, 0x66, 0xd1, 0x1f, 0x8c, 0x0e };

struct FrameParser {
        size_t start, end; /* what is held: data[start..end) */
        bool is_hunting;   /* the last byte passed over belonged to no frame */
        bool has_header;   /* the header at start is checked and stands in `header` */
        FrameHeader header;
        uint64_t check;
        FrameCounters counters;
        uint8_t data[PARSER_SIZE];
};

static size_t frame_size(const FrameHeader *h)
{
        return FRAME_HEADER_SIZE + (size_t)h->length + FRAME_SEAL_SIZE;
}

static uint64_t seal_of(const FrameHeader *h, const uint8_t *body, uint64_t check)
{
        return digest_of(body, frame_type_is_bulk(h->type) ? 0 : h->length, check);
}

size_t frame_seal(uint8_t *buf, const FrameHeader *h)
{
        uint8_t *body = buf + FRAME_HEADER_SIZE;
        uint64_t check;

        assert(h->length <= FRAME_BODY_MAX);
        memcpy(buf, FRAME_MAGIC, sizeof(FRAME_MAGIC));
        buf[8] = FRAME_VERSION;
        buf[9] = h->type;
        store_le16(buf + 10, h->flags);
        store_le32(buf + 12, h->stream);
        store_le32(buf + 16, h->seq);
        store_le32(buf + 20, h->length);
        store_le64(buf + 24, h->session);
        check = digest_of(buf, CHECK_OFFSET, FRAME_CHECK_SEED);
        store_le64(buf + CHECK_OFFSET, check);
        store_le64(body + h->length, seal_of(h, body, check));
        return frame_size(h);
}

/* Reads the FRAME_HEADER_SIZE bytes at p. Whether they are a header of ours. */
static bool header_parse(const uint8_t *p, FrameHeader *ret, uint64_t *ret_check)
{
        uint64_t check = load_le64(p + CHECK_OFFSET);

        if (memcmp(p, FRAME_MAGIC, sizeof(FRAME_MAGIC)) != 0 || p[8] != FRAME_VERSION ||
            load_le32(p + 20) > FRAME_BODY_MAX || digest_of(p, CHECK_OFFSET, FRAME_CHECK_SEED) != check)
                return false;
        *ret = (FrameHeader){
                .type = p[9],
                .flags = load_le16(p + 10),
                .stream = load_le32(p + 12),
                .seq = load_le32(p + 16),
                .length = load_le32(p + 20),
                .session = load_le64(p + 24),
        };
        *ret_check = check;
        return true;
}

static bool seal_is_right(const uint8_t *frame, const FrameHeader *h, uint64_t check)
{
        const uint8_t *body = frame + FRAME_HEADER_SIZE;

        return load_le64(body + h->length) == seal_of(h, body, check);
}

FrameParser *frame_parser_new(void)
{
        FrameParser *p = malloc(sizeof(*p));

        if (!p)
                return NULL;
        p->counters = (FrameCounters){ 0 };
        frame_parser_reset(p);
        return p;
}

FrameParser *frame_parser_free(FrameParser *p)
{
        free(p);
        return NULL;
}

void frame_parser_reset(FrameParser *p)
{
        p->start = p->end = 0;
        p->is_hunting = false;
        p->has_header = false;
}

void frame_parser_space(FrameParser *p, uint8_t **ret_buf, size_t *ret_n)
{
        if (p->start == p->end) {
                /* an idle peer's parser stays within its first pages */
                p->start = p->end = 0;
        } else if (p->start > 0 && PARSER_SIZE - p->end < FRAME_MAX) {
                memmove(p->data, p->data + p->start, p->end - p->start);
                p->end -= p->start;
                p->start = 0;
        }
        *ret_buf = p->data + p->end;
        *ret_n = PARSER_SIZE - p->end;
}

void frame_parser_commit(FrameParser *p, size_t n)
{
        assert(n <= PARSER_SIZE - p->end);
        p->end += n;
}

/* Passes over n bytes that are no frame. */
static void parser_skip(FrameParser *p, size_t n)
{
        if (!p->is_hunting) {
                p->is_hunting = true;
                p->counters.n_resync++;
        }
        p->counters.n_bytes_skipped += n;
        p->start += n;
        p->has_header = false;
}

/* The first place from p->start + skip on where the magic, or as much of it as is there, begins. */
static size_t parser_find_magic(const FrameParser *p, size_t skip)
{
        const uint8_t *from = p->data + p->start + skip, *end = p->data + p->end;

        while (from < end) {
                from = memchr(from, FRAME_MAGIC[0], (size_t)(end - from));
                if (!from)
                        break;
                if (memcmp(from, FRAME_MAGIC, MIN((size_t)(end - from), sizeof(FRAME_MAGIC))) == 0)
                        return (size_t)(from - p->data);
                from++;
        }
        return p->end;
}

/* Goes on to the next place behind the first `at_least` bytes where a frame may begin. */
static void parser_hunt(FrameParser *p, size_t at_least)
{
        size_t at = parser_find_magic(p, at_least);

        if (at > p->start)
                parser_skip(p, at - p->start);
}

int frame_parser_next(FrameParser *p, Frame *ret)
{
        for (;;) {
                uint8_t *frame;
                size_t n;

                if (!p->has_header) {
                        parser_hunt(p, 0);
                        if (p->end - p->start < FRAME_HEADER_SIZE)
                                return 0;
                        if (!header_parse(p->data + p->start, &p->header, &p->check)) {
                                parser_hunt(p, 1);
                                continue;
                        }
                        p->has_header = true;
                }
                n = frame_size(&p->header);
                if (p->end - p->start < n)
                        return 0;
                frame = p->data + p->start;
                if (!seal_is_right(frame, &p->header, p->check)) {
                        parser_hunt(p, 1);
                        continue;
                }
                p->start += n;
                p->has_header = false;
                p->is_hunting = false;
                p->counters.n_frames++;
                *ret = (Frame){ .header = p->header, .body = frame + FRAME_HEADER_SIZE };
                return 1;
        }
}

bool frame_parser_is_partial(const FrameParser *p)
{
        return p->end > p->start;
}

/* Whether nothing but whole frames, and perhaps the beginning of one more, stand from `at` to the end. */
static bool parser_is_in_step(const FrameParser *p, size_t at)
{
        while (at < p->end) {
                const uint8_t *frame = p->data + at;
                size_t n = p->end - at;
                FrameHeader header;
                uint64_t check;

                if (n < FRAME_HEADER_SIZE)
                        return memcmp(frame, FRAME_MAGIC, MIN(n, sizeof(FRAME_MAGIC))) == 0;
                if (!header_parse(frame, &header, &check))
                        return false;
                if (n < frame_size(&header))
                        return true;
                if (!seal_is_right(frame, &header, check))
                        return false;
                at += frame_size(&header);
        }
        return true;
}

bool frame_parser_unstall(FrameParser *p)
{
        size_t skip = 1;

        if (!p->has_header || p->end - p->start >= frame_size(&p->header))
                return false;
        for (;;) {
                size_t at = parser_find_magic(p, skip);
                FrameHeader header;
                uint64_t check;

                if (p->end - at < FRAME_HEADER_SIZE)
                        return false;
                /* A handshake inside a file's content does not end where the peer fell silent: hence the
                 * second question. */
                if (header_parse(p->data + at, &header, &check) && frame_type_is_handshake(header.type) &&
                    p->end - at >= frame_size(&header) && seal_is_right(p->data + at, &header, check) &&
                    parser_is_in_step(p, at)) {
                        parser_skip(p, at - p->start);
                        return true;
                }
                skip = at - p->start + 1;
        }
}

const FrameCounters *frame_parser_counters(const FrameParser *p)
{
        return &p->counters;
}
