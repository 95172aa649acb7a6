/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/frame.h"

#include "base/base.h"
#include "../suite.h"

static FrameParser *parser;
static uint8_t buffer[FRAME_MAX];

static size_t make(uint8_t type, uint32_t seq, size_t n)
{
        FrameHeader h = {
                .type = type, .seq = seq, .length = (uint32_t)n, .session = 0x1122334455667788, .stream = 9
        };

        for (size_t i = 0; i < n; i++)
                buffer[FRAME_HEADER_SIZE + i] = (uint8_t)(i * 31 + seq);
        return frame_seal(buffer, &h);
}

static void feed(const void *data, size_t n)
{
        while (n > 0) {
                size_t room, piece;
                uint8_t *to;

                frame_parser_space(parser, &to, &room);
                ck_assert_uint_gt(room, 0);
                piece = MIN(n, room);
                memcpy(to, data, piece);
                frame_parser_commit(parser, piece);
                data = (const uint8_t *)data + piece;
                n -= piece;
        }
}

static void expect(uint8_t type, uint32_t seq, size_t n)
{
        Frame f;

        ck_assert_int_eq(frame_parser_next(parser, &f), 1);
        ck_assert_uint_eq(f.header.type, type);
        ck_assert_uint_eq(f.header.seq, seq);
        ck_assert_uint_eq(f.header.length, n);
        ck_assert_uint_eq(f.header.stream, 9);
        ck_assert(f.header.session == 0x1122334455667788);
        for (size_t i = 0; i < n; i++)
                ck_assert_uint_eq(f.body[i], (uint8_t)(i * 31 + seq));
}

static void expect_nothing(void)
{
        Frame f;

        ck_assert_int_eq(frame_parser_next(parser, &f), 0);
}

static void begin(void)
{
        parser = frame_parser_new();
        ck_assert_ptr_nonnull(parser);
}

static void end(void)
{
        parser = frame_parser_free(parser);
}

START_TEST(test_sizes)
{
        begin();
        for (size_t n = 0; n <= FRAME_BODY_MAX; n = n < 64               ? n + 1
                                                    : n < FRAME_BODY_MAX ? MIN(n * 3, FRAME_BODY_MAX)
                                                                         : n + 1) {
                ck_assert_uint_eq(make(FRAME_NOTIFY, (uint32_t)n, n), n + 48);
                feed(buffer, n + 48);
                expect(FRAME_NOTIFY, (uint32_t)n, n);
                make(FRAME_DATA, (uint32_t)n, n);
                feed(buffer, n + 48);
                expect(FRAME_DATA, (uint32_t)n, n);
        }
        expect_nothing();
        ck_assert_uint_eq(frame_parser_counters(parser)->n_resync, 0);
        ck_assert(!frame_parser_is_partial(parser));
        end();
}
END_TEST

/* Every prefix of a frame is only a prefix. */
START_TEST(test_prefixes)
{
        size_t n;

        begin();
        n = make(FRAME_NOTIFY, 1, 100);
        for (size_t i = 0; i < n; i++) {
                expect_nothing();
                ck_assert(frame_parser_is_partial(parser) == (i > 0));
                feed(buffer + i, 1);
        }
        expect(FRAME_NOTIFY, 1, 100);
        end();
}
END_TEST

/* Whatever byte of a frame is changed, it is not taken, and the next one is. In DATA the content is the
 * exception. */
START_TEST(test_every_flip)
{
        for (int bulk = 0; bulk < 2; bulk++) {
                size_t n = make(bulk ? FRAME_DATA : FRAME_NOTIFY, 1, 100);

                for (size_t i = 0; i < n; i++) {
                        if (bulk && i >= FRAME_HEADER_SIZE && i < FRAME_HEADER_SIZE + 100)
                                continue;
                        begin();
                        make(bulk ? FRAME_DATA : FRAME_NOTIFY, 1, 100);
                        buffer[i] ^= 0x10;
                        feed(buffer, n);
                        make(FRAME_NOTIFY, 2, 100);
                        feed(buffer, 148);
                        expect(FRAME_NOTIFY, 2, 100);
                        expect_nothing();
                        ck_assert_uint_eq(frame_parser_counters(parser)->n_resync, 1);
                        ck_assert_uint_eq(frame_parser_counters(parser)->n_bytes_skipped, n);
                        end();
                }
        }
}
END_TEST

/* A frame that was cut anywhere takes the next one with it only until enough bytes are there to see it. */
START_TEST(test_every_cut)
{
        size_t n = make(FRAME_DATA, 1, 100);

        for (size_t cut = 0; cut < n; cut++) {
                begin();
                make(FRAME_DATA, 1, 100);
                feed(buffer, cut);
                for (uint32_t seq = 2; seq < 4; seq++) {
                        make(FRAME_NOTIFY, seq, 200);
                        feed(buffer, 248);
                }
                expect(FRAME_NOTIFY, 2, 200);
                expect(FRAME_NOTIFY, 3, 200);
                expect_nothing();
                end();
        }
}
END_TEST

START_TEST(test_length_is_judged)
{
        begin();
        make(FRAME_NOTIFY, 1, 10);
        store_le32(buffer + 20, 0xffffffff);
        feed(buffer, 58);
        make(FRAME_NOTIFY, 2, 10);
        feed(buffer, 58);
        expect(FRAME_NOTIFY, 2, 10);
        end();
}
END_TEST

START_TEST(test_unstall)
{
        size_t n;

        /* a big frame was cut, and a handshake frame is all that comes */
        begin();
        make(FRAME_DATA, 1, 30000);
        feed(buffer, 20000);
        n = make(FRAME_HELLO, 0, 50);
        feed(buffer, n);
        expect_nothing();
        ck_assert(frame_parser_unstall(parser));
        expect(FRAME_HELLO, 0, 50);
        expect_nothing();
        ck_assert(!frame_parser_is_partial(parser));
        end();

        /* nothing but a slow frame */
        begin();
        make(FRAME_DATA, 1, 30000);
        feed(buffer, 20000);
        expect_nothing();
        ck_assert(!frame_parser_unstall(parser));
        make(FRAME_DATA, 1, 30000);
        feed(buffer + 20000, 10048);
        expect(FRAME_DATA, 1, 30000);
        end();

        /* a file that has a handshake in it, and goes on */
        begin();
        make(FRAME_DATA, 1, 30000);
        feed(buffer, 20000);
        n = make(FRAME_HELLO, 0, 50);
        feed(buffer, n);
        feed("and so on", 9);
        expect_nothing();
        ck_assert(!frame_parser_unstall(parser));
        end();

        /* another kind of frame is no reason */
        begin();
        make(FRAME_DATA, 1, 30000);
        feed(buffer, 20000);
        n = make(FRAME_NOTIFY, 0, 50);
        feed(buffer, n);
        expect_nothing();
        ck_assert(!frame_parser_unstall(parser));
        end();
}
END_TEST

START_TEST(test_space)
{
        size_t room, n = make(FRAME_DATA, 1, FRAME_BODY_MAX);
        uint8_t *to;

        begin();
        /* frames that never end where the buffer does: there is always room for the guest's 4096-byte reads
         */
        for (unsigned i = 0; i < 1000; i++) {
                Frame f;

                frame_parser_space(parser, &to, &room);
                ck_assert_uint_ge(room, 4096);
                feed(buffer + i * 4000 % n, MIN((size_t)4000, n - i * 4000 % n));
                while (frame_parser_next(parser, &f))
                        ;
        }
        frame_parser_reset(parser);
        ck_assert(!frame_parser_is_partial(parser));
        end();
}
END_TEST

SUITE("frame",
      { test_sizes },
      { test_prefixes },
      { test_every_flip },
      { test_every_cut },
      { test_length_is_judged },
      { test_unstall },
      { test_space })
