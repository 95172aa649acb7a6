/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The frame: what one write(2) puts on a port. All integers little-endian.
 *
 *   0  u8[8] magic           FRAME_MAGIC
 *   8  u8    version         of the frame layout, 1
 *   9  u8    type            FrameType
 *  10  u16   flags           FRAME_MORE; unknown bits are ignored
 *  12  u32   stream          stream id on the data port, request id on the control port, else 0
 *  16  u32   seq             per port and direction, from 0 at each new session; 0 in handshake frames
 *  20  u32   length          of the body, 0..FRAME_BODY_MAX
 *  24  u64   session         0 in handshake frames
 *  32  u64   check           XXH64 of bytes 0..31, seed FRAME_CHECK_SEED
 *  40  body
 *  ..  u64   seal            XXH64 of the body with `check` as its seed; of an empty body in frames that
 *                            carry bulk (DATA)
 *
 * The port loses, repeats and splices bytes, but it does not flip them: the seal of a bulk frame proves that
 * its last byte belongs to its header, without reading the body. File contents have their own digest, end to
 * end.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

#define FRAME_VERSION 1
#define FRAME_CHECK_SEED 0x766d666572727931ULL /* "vmferry1" */
extern const uint8_t FRAME_MAGIC[8];           /* a3 76 6d 66 d1 1f 8c 0e */

typedef enum FrameType {
        /* handshake, both ports; session 0, JSON body */
        FRAME_HELLO_REQ = 1, /* guest → host: I have just opened the port */
        FRAME_HELLO = 2,     /* host → guest */
        FRAME_HELLO_ACK = 3, /* guest → host */
        FRAME_START = 4,     /* host → guest, the first frame of the session, seq 0 */
        /* both ports, in a session */
        FRAME_PING = 8, /* body: 8 bytes, echoed */
        FRAME_PONG = 9,
        FRAME_BYE = 10, /* nothing follows from me; answered by BYE_ACK when all before it was taken */
        FRAME_BYE_ACK = 11,
        /* control port */
        FRAME_REQUEST = 16, /* JSON, or JSON NUL payload; fragments have FRAME_MORE in all but the last */
        FRAME_REPLY = 17,
        FRAME_NOTIFY = 18,
        /* data port */
        FRAME_OPEN = 32,   /* host → guest: JSON parameters of a new stream; fragments as above */
        FRAME_OPENED = 33, /* guest → host: JSON */
        FRAME_DATA = 34,   /* bulk */
        FRAME_EOF = 35,    /* my half of the stream ends here */
        FRAME_RESET = 36,  /* both halves end at once; JSON {"error","message"}; may answer OPEN */
        FRAME_CREDIT = 37, /* u32: bytes of this stream that its reader has taken */
        FRAME_ACK = 38,    /* u64 bytes, u32 frames: DATA received on this port since the session began */
} FrameType;

#define FRAME_MORE 0x0001u

typedef struct FrameHeader {
        uint8_t type;
        uint16_t flags;
        uint32_t stream;
        uint32_t seq;
        uint32_t length;
        uint64_t session;
} FrameHeader;

static inline bool frame_type_is_bulk(uint8_t type)
{
        return type == FRAME_DATA;
}
static inline bool frame_type_is_handshake(uint8_t type)
{
        return type >= FRAME_HELLO_REQ && type <= FRAME_HELLO_ACK;
}

/*
 * Completes a frame in place: buf holds the body at buf + FRAME_HEADER_SIZE and has room for the seal behind
 * it. Returns the size of the whole frame. length is at most FRAME_BODY_MAX (our own promise, asserted).
 */
size_t frame_seal(uint8_t *buf, const FrameHeader *h);

/*
 * The parser: a fixed buffer, filled by its driver, emptied frame by frame. It hunts for the magic byte by
 * byte, never skips by an untrusted length, and after a bad check or seal looks again from the byte behind
 * the bad magic.
 */
typedef struct FrameParser FrameParser;

typedef struct Frame {
        FrameHeader header;
        const uint8_t *body; /* points into the parser, valid until the next call on it */
} Frame;

typedef struct FrameCounters {
        uint64_t n_frames;
        uint64_t n_resync;        /* times that it lost its place */
        uint64_t n_bytes_skipped; /* bytes that belonged to no frame */
} FrameCounters;

FrameParser *frame_parser_new(void); /* NULL: no memory */
FrameParser *frame_parser_free(FrameParser *p);
void frame_parser_reset(FrameParser *p);
/* Where the next bytes go, and how many fit: at least 1 after frame_parser_next() returned 0. */
void frame_parser_space(FrameParser *p, uint8_t **ret_buf, size_t *ret_n);
void frame_parser_commit(FrameParser *p, size_t n);
/* 1: a whole frame with right check and seal; 0: needs more bytes. Never fails. */
int frame_parser_next(FrameParser *p, Frame *ret);
/* True while it holds a part of a frame. */
bool frame_parser_is_partial(const FrameParser *p);
/*
 * For a part that has lain still for STALL_USEC: if it contains a whole handshake frame, the part was cut
 * short; gives it up, so that frame_parser_next() finds that frame. Returns whether it did.
 */
bool frame_parser_unstall(FrameParser *p);
const FrameCounters *frame_parser_counters(const FrameParser *p);
