/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Drivers and applications of the pair. Each message carries a number that counts within its session and a
 * payload made from it; each stream byte follows from stream, direction and offset. A byte out of place
 * aborts with the seed.
 */

#include "pair.h"

#include <stdio.h>

#include "base/base.h"

#define READS_PER_TURN 64u
#define BACKLOG_MAX (128u * 1024)
#define PATIENCE_USEC (300u * 1000)

#define pair_check(p, expression)                                                                           \
        do {                                                                                                \
                if (!(expression)) {                                                                        \
                        fprintf(stderr, "%s:%d: seed %llu: %s\n", __FILE__, __LINE__,                       \
                                (unsigned long long)(p)->seed, #expression);                                \
                        abort();                                                                            \
                }                                                                                           \
        } while (0)

uint64_t pair_random(Pair *p, uint64_t below)
{
        p->random ^= p->random << 13;
        p->random ^= p->random >> 7;
        p->random ^= p->random << 17;
        return p->random % below;
}

static void on_random(void *userdata, void *buf, size_t n)
{
        for (size_t i = 0; i < n; i++)
                ((uint8_t *)buf)[i] = (uint8_t)pair_random(userdata, 256);
}

void link_put(Link *l, const void *data, size_t n)
{
        size_t at = (size_t)(l->data - l->space);

        /* New memory costs far more than moving what is left. */
        if (at + l->n + n > l->allocated && 2 * (l->n + n) <= l->allocated) {
                memmove(l->space, l->data, l->n);
                l->data = l->space;
        } else if (at + l->n + n > l->allocated) {
                size_t allocated = 2 * (l->n + n);
                uint8_t *space = malloc(allocated);

                if (!space)
                        abort();
                if (l->n > 0)
                        memcpy(space, l->data, l->n);
                free(l->space);
                l->space = l->data = space;
                l->allocated = allocated;
        }
        if (n > 0)
                memcpy(l->data + l->n, data, n);
        l->n += n;
}

void link_remove(Link *l, size_t at, size_t n)
{
        if (at == 0)
                l->data += n;
        else
                memmove(l->data + at, l->data + at + n, l->n - at - n);
        l->n -= n;
}

void link_done(Link *l)
{
        free(l->space);
        *l = (Link){ 0 };
}

static void side_forget(Side *side)
{
        side->n_messages_sent = side->n_messages_received = 0;
        side->open_request = 0;
        memset(side->streams, 0, sizeof(side->streams));
}

static void side_start(Pair *p, Side *side)
{
        SessionConfig config = { .role = side->role, .port = p->port, .random = on_random, .userdata = p };

        if (session_new(&config, &side->session) < 0)
                abort();
        side_forget(side);
        session_open(side->session, p->now_usec);
        side->is_waiting = true;
        side->asked_usec = p->now_usec;
}

void pair_init(Pair *p, SessionPort port, uint64_t seed)
{
        *p = (Pair){ .port = port,
                     .seed = seed,
                     .random = seed * 2654435761u + 88172645463325252u,
                     .now_usec = 1,
                     .turn_usec = 1000,
                     .stream_bytes = 200000 };
        p->host = (Side){ .pair = p, .role = SESSION_HOST, .port = port };
        p->guest = (Side){ .pair = p, .role = SESSION_GUEST, .port = port };
        side_start(p, &p->host);
        side_start(p, &p->guest);
}

void pair_done(Pair *p)
{
        (void)session_free(p->host.session);
        (void)session_free(p->guest.session);
        link_done(&p->host.out);
        link_done(&p->guest.out);
}

void pair_restart(Pair *p, Side *side)
{
        (void)session_free(side->session);
        side_start(p, side);
}

bool pair_is_up(const Pair *p)
{
        return session_is_up(p->host.session) && session_is_up(p->guest.session) &&
               session_epoch(p->host.session) == session_epoch(p->guest.session);
}

/* Bytes that depend on all three; a piece of at most PAYLOAD_MAX. The period is no multiple of anything else
 * here. */
static const uint8_t *content(SessionRole from, uint64_t id, uint64_t offset)
{
        enum { PERIOD = 65521 };
        static uint8_t table[PERIOD + PAYLOAD_MAX];

        if (table[1] == 0)
                for (size_t i = 0; i < sizeof(table); i++)
                        table[i] = (uint8_t)((i % PERIOD * 2654435761u) >> 13);
        return table + (offset + id * 977 + (from == SESSION_HOST ? 0 : 31)) % PERIOD;
}

static PairStream *find_stream(Side *side, uint32_t id)
{
        for (size_t i = 0; i < PAIR_STREAMS; i++)
                if (side->streams[i].id == id)
                        return &side->streams[i];
        return NULL;
}

/* The text and payload of message number n of its session. */
static json_object *message_new(Side *side, uint64_t n, uint8_t **ret_payload, size_t *ret_n)
{
        json_object *o = json_object_new_object();
        size_t n_payload = n % 7 == 3 ? PAYLOAD_MAX : n * 37 % 200;

        json_object_object_add(o, "n", json_object_new_int64((int64_t)n));
        json_object_object_add(o, "from", json_object_new_int((int)side->role));
        *ret_payload = malloc(n_payload + 1);
        memcpy(*ret_payload, content(side->role, n, 0), n_payload);
        *ret_n = n_payload;
        return o;
}

static void check_message(Side *side, SessionRole from, uint64_t n, const Message *m)
{
        pair_check(side->pair, message_int(m->json, "n", -1) == (int64_t)n);
        pair_check(side->pair, message_int(m->json, "from", -1) == (int64_t)from);
        pair_check(side->pair, m->n_payload == (n % 7 == 3 ? PAYLOAD_MAX : n * 37 % 200));
        pair_check(side->pair, memcmp(m->payload, content(from, n, 0), m->n_payload) == 0);
}

static void on_data(Side *side, const SessionEvent *e)
{
        PairStream *st = find_stream(side, e->id);
        SessionRole peer = side->role == SESSION_HOST ? SESSION_GUEST : SESSION_HOST;

        pair_check(side->pair, st && !st->peer_eof);
        pair_check(side->pair, memcmp(e->data, content(peer, e->id, st->n_received), e->n_data) == 0);
        st->n_received += e->n_data;
        st->n_untaken += e->n_data;
        side->n_bytes_received += e->n_data;
        pair_check(side->pair, st->n_untaken <= STREAM_CREDIT);
}

static void on_event(Side *side, const SessionEvent *e)
{
        Pair *p = side->pair;
        SessionRole peer = side->role == SESSION_HOST ? SESSION_GUEST : SESSION_HOST;
        PairStream *st;

        side->is_waiting = false;
        switch (e->type) {
        case SESSION_EVENT_UP:
                side->n_up++;
                side_forget(side);
                break;
        case SESSION_EVENT_DOWN:
                pair_check(p, e->text);
                side->n_down++;
                side_forget(side);
                break;
        case SESSION_EVENT_INCOMPATIBLE:
                side->n_incompatible++;
                break;
        case SESSION_EVENT_HEARD:
        case SESSION_EVENT_PONG:
        case SESSION_EVENT_STREAM_ROOM:
                break;
        case SESSION_EVENT_BYE:
                side->n_bye++;
                break;
        case SESSION_EVENT_BYE_ACK:
                side->n_bye_ack++;
                break;
        case SESSION_EVENT_REQUEST:
                check_message(side, peer, side->n_messages_received++, e->message);
                (void)session_reply(side->session, e->id, e->message->json, e->message->payload,
                                    e->message->n_payload);
                break;
        case SESSION_EVENT_REPLY:
                pair_check(p, e->id == side->open_request);
                check_message(side, side->role, side->open_tag, e->message);
                side->open_request = 0;
                side->n_replies++;
                break;
        case SESSION_EVENT_NOTIFY:
                check_message(side, peer, side->n_messages_received++, e->message);
                break;
        case SESSION_EVENT_STREAM_OPEN:
                st = find_stream(side, 0);
                if (!st) {
                        (void)session_stream_reset(side->session, e->id, WIRE_LIMITS_EXCEEDED, "enough");
                        break;
                }
                *st = (PairStream){ .id = e->id, .is_accepted = true };
                pair_check(p, session_stream_accept(side->session, e->id, NULL) == 0);
                break;
        case SESSION_EVENT_STREAM_OPENED:
                st = find_stream(side, e->id);
                pair_check(p, st && !st->is_accepted);
                st->is_accepted = true;
                break;
        case SESSION_EVENT_STREAM_DATA:
                on_data(side, e);
                break;
        case SESSION_EVENT_STREAM_EOF:
                st = find_stream(side, e->id);
                pair_check(p, st && !st->peer_eof && st->n_received == p->stream_bytes);
                st->peer_eof = true;
                break;
        case SESSION_EVENT_STREAM_RESET:
                st = find_stream(side, e->id);
                pair_check(p, st);
                *st = (PairStream){ 0 };
                break;
        }
}

static void side_talk(Side *side)
{
        _cleanup_free_ uint8_t *payload = NULL;
        uint64_t n = side->n_messages_sent;
        json_object *o;
        size_t n_payload;
        int r;

        if (side->pair->is_quiet || side->open_request || side->out.n > BACKLOG_MAX)
                return;
        o = message_new(side, n, &payload, &n_payload);
        if (n % 3 == 0)
                r = session_request(side->session, o, payload, n_payload, &side->open_request);
        else
                r = session_notify(side->session, o, payload, n_payload);
        json_object_put(o);
        if (r == 0) {
                side->open_tag = n;
                side->n_messages_sent++;
        }
}

static void side_stream(Side *side)
{
        Pair *p = side->pair;

        for (size_t i = 0; i < PAIR_STREAMS; i++) {
                PairStream *st = &side->streams[i];

                if (!st->id) {
                        json_object *o;

                        if (side->role == SESSION_GUEST || p->is_quiet)
                                continue;
                        o = json_object_new_object();
                        if (session_stream_open(side->session, o, &st->id) < 0)
                                st->id = 0;
                        json_object_put(o);
                        continue;
                }
                if (st->n_untaken > 0 && pair_random(p, 2)) {
                        size_t n = 1 + pair_random(p, st->n_untaken);

                        session_stream_taken(side->session, st->id, n);
                        st->n_untaken -= n;
                }
                if (st->is_accepted && !st->own_eof && st->n_sent == p->stream_bytes) {
                        pair_check(p, session_stream_eof(side->session, st->id) == 0);
                        st->own_eof = true;
                }
                if (st->own_eof && st->peer_eof && st->n_untaken == 0) {
                        pair_check(p, !session_stream_is_open(side->session, st->id));
                        *st = (PairStream){ 0 };
                        side->n_streams_done++;
                }
        }
}

static bool side_write_data(Side *side)
{
        static uint8_t frame[FRAME_MAX];
        Pair *p = side->pair;
        size_t first = pair_random(p, PAIR_STREAMS);

        for (size_t i = 0; i < PAIR_STREAMS; i++) {
                PairStream *st = &side->streams[(first + i) % PAIR_STREAMS];
                size_t n = st->id ? session_stream_room(side->session, st->id) : 0;

                n = MIN(n, p->stream_bytes - st->n_sent);
                if (n == 0)
                        continue;
                if (pair_random(p, 4) == 0)
                        n = 1 + pair_random(p, n);
                memcpy(frame + FRAME_HEADER_SIZE, content(side->role, st->id, st->n_sent), n);
                st->n_sent += n;
                link_put(&side->out, frame, session_stream_seal(side->session, st->id, frame, n));
                return true;
        }
        return false;
}

static void side_read(Side *side, Link *in)
{
        SessionEvent e;
        size_t n, room;
        uint8_t *buf;

        session_input_space(side->session, &buf, &room);
        pair_check(side->pair, room > 0);
        n = MIN(room, in->n);
        if (side->pair->chunk_max)
                n = MIN(n, side->pair->chunk_max);
        if (n > 0) {
                memcpy(buf, in->data, n);
                link_remove(in, 0, n);
                session_input_commit(side->session, n, side->pair->now_usec);
        }
        session_tick(side->session, side->pair->now_usec);
        while (session_next_event(side->session, &e) > 0)
                on_event(side, &e);
}

/* As the daemons do: the host asks again when it hears nothing; the guest only ever answers. */
static void side_watch(Side *side)
{
        uint64_t now = side->pair->now_usec;

        if (side->role != SESSION_HOST || now - side->asked_usec < PATIENCE_USEC)
                return;
        if (!session_is_up(side->session) || side->is_waiting) {
                session_rehello(side->session, now);
                side_forget(side);
        } else {
                (void)session_ping(side->session, now);
        }
        side->is_waiting = true;
        side->asked_usec = now;
}

static void side_turn(Side *side, Side *peer)
{
        unsigned n_reads = 0;
        const uint8_t *frame;
        size_t n;

        do {
                side_read(side, &peer->out);
        } while (peer->out.n > 0 && ++n_reads < READS_PER_TURN);
        side_watch(side);
        if (session_is_up(side->session)) {
                if (side->port == SESSION_CONTROL)
                        side_talk(side);
                else
                        side_stream(side);
        }
        while (session_output_next(side->session, &frame, &n))
                link_put(&side->out, frame, n);
        while (side->port == SESSION_DATA && side_write_data(side))
                ;
}

void pair_turn(Pair *p)
{
        p->now_usec += p->turn_usec;
        side_turn(&p->host, &p->guest);
        side_turn(&p->guest, &p->host);
}

bool pair_settle(Pair *p, uint64_t limit_usec)
{
        uint64_t end = p->now_usec + limit_usec;

        while (!pair_is_up(p) && p->now_usec < end)
                pair_turn(p);
        return pair_is_up(p);
}
