/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What ports do to bytes, done to a pair of sessions: split, delay, cut, flip, replay; and what hosts do to
 * processes. Each time the pair must be up again within two seconds of its clock, and never deliver a byte
 * that is not the right one.
 */

#include <stdio.h>

#include "base/base.h"
#include "pair.h"
#include "../unit/suite.h"

#define RECOVERY_USEC (2 * USEC_PER_SEC)

static uint64_t base_seed(void)
{
        const char *text = getenv("PAIR_SEED");

        return text ? strtoull(text, NULL, 0) : 1;
}

#define must(p, expression)                                                                                 \
        ck_assert_msg((expression), "seed %llu: %s", (unsigned long long)(p)->seed, #expression)

static void run(Pair *p, unsigned n_turns)
{
        for (unsigned i = 0; i < n_turns; i++)
                pair_turn(p);
}

START_TEST(test_splits_control)
{
        size_t chunks[] = { 1, 2, 3, 7, 39, 40, 41, 48, 63, 4095, 4096, 4097, 32767, 32768, 32769 };
        Pair p;

        pair_init(&p, SESSION_CONTROL, base_seed());
        p.turn_usec = 1; /* slow bytes are no reason for impatience here */
        p.chunk_max = _i < 64 ? (size_t)_i + 1 : chunks[(size_t)_i % ELEMENTSOF(chunks)];
        must(&p, pair_settle(&p, 600 * USEC_PER_SEC));
        for (unsigned i = 0; i < 100000 && (p.host.n_replies < 5 || p.guest.n_replies < 5); i++)
                pair_turn(&p);
        must(&p, p.host.n_replies >= 5 && p.guest.n_replies >= 5);
        must(&p, p.host.n_down == 0 && p.guest.n_down == 0);
        must(&p, p.host.n_up == 1 && p.guest.n_up == 1);
        pair_done(&p);
}
END_TEST

START_TEST(test_splits_data)
{
        static const size_t chunks[] = { 0, 40, 977, 4096, 32768, 40000 };
        Pair p;

        pair_init(&p, SESSION_DATA, base_seed() + (uint64_t)_i);
        p.turn_usec = 1;
        p.chunk_max = chunks[_i];
        p.stream_bytes = p.chunk_max == 40 ? 5000 : 200000;
        must(&p, pair_settle(&p, 600 * USEC_PER_SEC));
        for (unsigned i = 0; i < 400000 && p.host.n_streams_done < 20; i++)
                pair_turn(&p);
        must(&p, p.host.n_streams_done >= 20);
        must(&p, p.host.n_down == 0 && p.guest.n_down == 0);
        pair_done(&p);
}
END_TEST

START_TEST(test_orderly_end)
{
        Pair p;

        pair_init(&p, SESSION_DATA, base_seed() + (uint64_t)_i);
        must(&p, pair_settle(&p, RECOVERY_USEC));
        run(&p, 50);
        p.is_quiet = true;
        for (unsigned i = 0;
             i < 5000 && session_n_streams(p.host.session) + session_n_streams(p.guest.session); i++)
                pair_turn(&p);
        must(&p, session_n_streams(p.host.session) == 0 && session_n_streams(p.guest.session) == 0);
        must(&p, session_bye(p.host.session) == 0);
        run(&p, 5);
        must(&p, p.guest.n_bye == 1 && p.host.n_bye_ack == 1);
        must(&p, session_unacked_bytes(p.host.session) == 0 && session_unacked_bytes(p.guest.session) == 0);
        must(&p, session_is_up(p.host.session) && session_is_up(p.guest.session));
        pair_done(&p);
}
END_TEST

/* A piece of what is on its way is lost, in either direction. */
START_TEST(test_cut)
{
        for (unsigned n = 0; n < 30; n++) {
                Pair p;

                pair_init(&p, _i & 1 ? SESSION_DATA : SESSION_CONTROL,
                          base_seed() + (uint64_t)_i * 1000 + n);
                must(&p, pair_settle(&p, RECOVERY_USEC));
                run(&p, (unsigned)pair_random(&p, 60));
                for (unsigned i = 0; i < 3; i++) {
                        Link *l = pair_random(&p, 2) ? &p.host.out : &p.guest.out;

                        run(&p, 1);
                        if (l->n > 0) {
                                size_t at = pair_random(&p, l->n);

                                link_remove(l, at, 1 + pair_random(&p, l->n - at));
                        }
                }
                run(&p, 2000);
                must(&p, pair_settle(&p, RECOVERY_USEC));
                run(&p, 300);
                must(&p, pair_is_up(&p));
                pair_done(&p);
        }
}
END_TEST

/* Control frames are sealed whole: not one flipped bit gets through. */
START_TEST(test_flip)
{
        for (unsigned n = 0; n < 30; n++) {
                Pair p;

                pair_init(&p, SESSION_CONTROL, base_seed() + (uint64_t)_i * 1000 + n);
                for (unsigned i = 0; i < 500; i++) {
                        Link *l = pair_random(&p, 2) ? &p.host.out : &p.guest.out;

                        pair_turn(&p);
                        if (l->n > 0 && pair_random(&p, 10) == 0)
                                l->data[pair_random(&p, l->n)] ^= (uint8_t)(1u << pair_random(&p, 8));
                }
                must(&p, pair_settle(&p, RECOVERY_USEC));
                run(&p, 1000);
                must(&p, pair_is_up(&p));
                pair_done(&p);
        }
}
END_TEST

/* Half a MiB of anything between the frames. */
START_TEST(test_garbage)
{
        for (unsigned n = 0; n < 10; n++) {
                static uint8_t junk[512 * 1024];
                Pair p;

                pair_init(&p, _i & 1 ? SESSION_DATA : SESSION_CONTROL,
                          base_seed() + (uint64_t)_i * 1000 + n);
                run(&p, (unsigned)pair_random(&p, 20));
                for (size_t i = 0; i < sizeof(junk); i++)
                        junk[i] = pair_random(&p, 20) ? (uint8_t)pair_random(&p, 256) : FRAME_MAGIC[0];
                for (size_t i = 0; i + 8 < sizeof(junk); i += 4096)
                        memcpy(junk + i, FRAME_MAGIC, 8);
                link_put(pair_random(&p, 2) ? &p.host.out : &p.guest.out, junk, sizeof(junk));
                run(&p, 1000);
                must(&p, pair_settle(&p, RECOVERY_USEC));
                pair_done(&p);
        }
}
END_TEST

/* Old bytes come again, whole and in order, before and between the new ones: what restored guests and
 * sockets do. */
START_TEST(test_replay)
{
        for (unsigned n = 0; n < 10; n++) {
                Link old[2] = { 0 };
                Pair p;

                pair_init(&p, _i & 1 ? SESSION_DATA : SESSION_CONTROL,
                          base_seed() + (uint64_t)_i * 1000 + n);
                for (unsigned i = 0; i < 60; i++) {
                        pair_turn(&p);
                        link_put(&old[0], p.host.out.data, p.host.out.n);
                        link_put(&old[1], p.guest.out.data, p.guest.out.n);
                }
                pair_restart(&p, pair_random(&p, 2) ? &p.host : &p.guest);
                if (pair_random(&p, 2))
                        run(&p, (unsigned)pair_random(&p, 4));
                if (pair_random(&p, 3))
                        link_put(&p.host.out, old[0].data, old[0].n);
                if (pair_random(&p, 3))
                        link_put(&p.guest.out, old[1].data, old[1].n - pair_random(&p, old[1].n));
                run(&p, 1500);
                must(&p, pair_settle(&p, RECOVERY_USEC));
                run(&p, 500);
                must(&p, pair_is_up(&p));
                link_done(&old[0]);
                link_done(&old[1]);
                pair_done(&p);
        }
}
END_TEST

/* Either process is replaced at any time, with half of its last frame lost or not. */
START_TEST(test_restart)
{
        Pair p;

        pair_init(&p, _i & 1 ? SESSION_DATA : SESSION_CONTROL, base_seed() + (uint64_t)_i * 1000);
        for (unsigned n = 0; n < 60; n++) {
                Side *side = pair_random(&p, 2) ? &p.host : &p.guest;

                run(&p, (unsigned)pair_random(&p, 50));
                if (side->out.n > 0 && pair_random(&p, 2)) {
                        size_t at = pair_random(&p, side->out.n);

                        link_remove(&side->out, at, side->out.n - at);
                }
                pair_restart(&p, side);
                if (pair_random(&p, 4) == 0)
                        pair_restart(&p, side == &p.host ? &p.guest : &p.host);
                must(&p, pair_settle(&p, RECOVERY_USEC));
        }
        pair_done(&p);
}
END_TEST

/* A guest that opens its port over and over makes the host answer as often, not more: no echo between them.
 */
START_TEST(test_no_ping_pong)
{
        Pair p;

        pair_init(&p, SESSION_CONTROL, base_seed());
        p.is_quiet = true;
        must(&p, pair_settle(&p, RECOVERY_USEC));
        run(&p, 10);
        must(&p, p.host.n_up <= 2 && p.guest.n_up <= 2);
        run(&p, 1000);
        must(&p, p.host.n_up <= 2 && p.guest.n_up <= 2);
        pair_done(&p);
}
END_TEST

SUITE("pair",
      { test_splits_control, 79 },
      { test_splits_data, 6 },
      { test_orderly_end, 10 },
      { test_cut, 4 },
      { test_flip, 3 },
      { test_garbage, 2 },
      { test_replay, 4 },
      { test_restart, 4 },
      { test_no_ping_pong })
