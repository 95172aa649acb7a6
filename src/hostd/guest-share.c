/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A guest's share of the main thread. What nobody asked it for (requests, notes, garbage, handshakes) has a
 * price; a guest that has spent more than its rate is not read from for a while, and then QEMU holds back
 * what it writes. Answers that somebody waits for are free, so a busy guest is no flood. One moment says it
 * all: until when the guest has lived at the allowed rate.
 */

#include "base/fs.h"
#include "hostd/guest-private.h"
#include "hostd/log.h"

#define UNITS_PER_MESSAGE 4u /* a message is rarely more than one, and notes need their place */
#define UNITS_PER_SECOND_MIN 1000u
#define FRAMES_PER_UNIT 8u      /* of those that are only looked at: pings, answers to nothing, garbage */
#define BYTES_PER_UNIT 4096u    /* beside that */
#define SESSIONS_PER_SECOND 10u /* as often as anybody connects anew */
#define BURST_USEC (250 * USEC_PER_MSEC)
#define PAUSE_MIN_USEC (5 * USEC_PER_MSEC) /* several frames in one go rather than a wake-up for each */
#define LOG_PAUSE_USEC (60 * USEC_PER_SEC)

static uint64_t units_per_second = UNITS_PER_MESSAGE * 1000;

void guest_set_max_messages(uint32_t per_second)
{
        units_per_second = MAX((uint64_t)per_second * UNITS_PER_MESSAGE, UNITS_PER_SECOND_MIN);
}

void share_asked(Guest *g)
{
        g->share.n_units++;
}

void share_answered(Guest *g, size_t n_payload)
{
        g->share.n_free += 1 + n_payload / BYTES_PER_UNIT;
}

/* What this turn took, in microseconds at the allowed rate. */
static uint64_t price(GuestShare *s, const SessionCounters *c, size_t n_bytes)
{
        uint64_t n_frames = c->frames.n_frames + c->frames.n_resync;
        uint64_t n_units =
                s->n_units + (n_frames - s->n_frames) / FRAMES_PER_UNIT + n_bytes / BYTES_PER_UNIT;
        uint64_t n_sessions = c->n_sessions - s->n_sessions;

        n_units -= MIN(n_units, s->n_free);
        s->n_frames = n_frames;
        s->n_sessions = c->n_sessions;
        s->n_units = s->n_free = 0;
        return n_units * USEC_PER_SEC / units_per_second + n_sessions * USEC_PER_SEC / SESSIONS_PER_SECOND;
}

void share_charge(Guest *g, size_t n_bytes, uint64_t now)
{
        GuestShare *s = &g->share;
        uint64_t cost = price(s, session_counters(g->link.session), n_bytes);

        if (cost == 0)
                return;
        s->paid_until = MAX(s->paid_until, now > BURST_USEC ? now - BURST_USEC : 0) + cost;
        if (s->paid_until <= now || !g->link.channel)
                return;
        s->paused_until = MAX(s->paid_until, now + PAUSE_MIN_USEC);
        channel_hold(g->link.channel, true);
        g->counters.n_held_back++;
        if (s->logged_at > 0 && now < s->logged_at + LOG_PAUSE_USEC)
                return;
        s->logged_at = now;
        guest_log(g, LOG_NOTICE, "The guest sends more than its share, and is read from more slowly");
}

void share_forget(Guest *g)
{
        g->share.n_frames = g->share.n_sessions = g->share.n_units = g->share.n_free = 0;
}

void share_tick(Guest *g, uint64_t now)
{
        if (g->share.paused_until == 0 || now < g->share.paused_until)
                return;
        g->share.paused_until = 0;
        if (g->link.channel)
                channel_hold(g->link.channel, false);
}

uint64_t share_deadline(const Guest *g)
{
        return g->share.paused_until > 0 ? g->share.paused_until : USEC_INFINITY;
}
