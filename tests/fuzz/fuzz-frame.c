/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The frame parser, fed in pieces: the first byte says of what size. It must find each frame at most once,
 * stay within what it was given, and always have room.
 */

#include "fuzz.h"

#include "base/base.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        FrameParser *p = frame_parser_new();
        size_t piece, n_given = 0;
        uint64_t n_taken = 0;
        Frame f;

        if (!p || n < 1) {
                (void)frame_parser_free(p);
                return 0;
        }
        piece = data[0] + 1u;
        data++, n--;
        while (n > 0) {
                size_t room, m;
                uint8_t *to;

                frame_parser_space(p, &to, &room);
                if (room == 0)
                        abort();
                m = MIN(MIN(piece, n), room);
                memcpy(to, data, m);
                frame_parser_commit(p, m);
                data += m, n -= m, n_given += m;
                while (frame_parser_next(p, &f)) {
                        n_taken += f.header.length + 48u;
                        if (f.header.length > FRAME_BODY_MAX)
                                abort();
                        for (size_t i = 0; i < f.header.length; i += 64)
                                if (*(volatile const uint8_t *)(f.body + i) == 0)
                                        continue;
                }
                if (n % 3 == 0)
                        (void)frame_parser_unstall(p);
        }
        if (n_taken + frame_parser_counters(p)->n_bytes_skipped > n_given)
                abort();
        (void)frame_parser_free(p);
        return 0;
}
