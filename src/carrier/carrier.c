/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The pump. A turn writes a few frames, reads a few, offers what was kept, looks at the clock; poll(2) comes
 * in only when a turn moved nothing, or now and then under load, so that a frame costs one read(2) and one
 * write(2). What the session wants to say goes before bulk; bulk goes round the lanes, one frame each.
 */

#include "base/base.h"
#include "base/fs.h"
#include "carrier/carrier-private.h"

#define FRAMES_PER_TURN 16u         /* written, before reading gets its chance */
#define READ_PER_TURN (512u * 1024) /* and the other way round */
#define BUSY_TURNS 4u               /* without a look at the other descriptors */
#define BATCH_MAX 4096u             /* QEMU's reads and the guest's input buffers are that long */
/* For less room no frame is begun: it would cost as much as a full one. */
#define FILL_MIN (FRAME_BODY_MAX / 2)

int carrier_new(const CarrierConfig *config, Carrier **ret)
{
        Carrier *c = calloc(1, sizeof(*c));
        uint8_t *frame = malloc(BATCH_MAX + FRAME_MAX);
        int r = c && frame ? line_init(&c->line, config->port_fd, config->port_is_device) : -ENOMEM;

        if (r < 0) {
                if (!c || !frame)
                        (void)fd_close(config->port_fd);
                (void)session_free(config->session);
                free(frame);
                free(c);
                return r;
        }
        c->session = config->session;
        c->is_host = config->is_host;
        c->wake_fd = config->wake_fd;
        c->linger_usec = config->linger_usec;
        c->ops = config->ops;
        c->userdata = config->userdata;
        c->frame = frame;
        *ret = c;
        return 0;
}

static Lane *carrier_find(Carrier *c, uint32_t id)
{
        for (size_t i = 0; i < c->n_lanes; i++)
                if (c->lanes[i]->id == id && !c->lanes[i]->is_dead)
                        return c->lanes[i];
        return NULL;
}

size_t carrier_n_live(const Carrier *c)
{
        return c->n_lanes - c->n_dead;
}

/* The lane itself goes at the end of the turn: somebody may be walking over it. */
static void carrier_close(Carrier *c, Lane *l, WireError error, const char *text, bool local)
{
        if (l->is_dead)
                return;
        l->is_dead = true;
        c->n_dead++;
        c->idle_usec = c->now;
        l->ops->closed(l->userdata, error, text ?: "", local);
}

static void carrier_close_all(Carrier *c, const char *text)
{
        for (size_t i = 0; i < c->n_lanes; i++)
                carrier_close(c, c->lanes[i], WIRE_INTERRUPTED, text, true);
}

static void carrier_sweep(Carrier *c)
{
        size_t n = 0;

        if (c->n_dead == 0)
                return;
        for (size_t i = 0; i < c->n_lanes; i++) {
                if (c->lanes[i]->is_dead)
                        (void)lane_free(c->lanes[i]);
                else
                        c->lanes[n++] = c->lanes[i];
        }
        c->n_lanes = n;
        c->n_dead = 0;
}

Carrier *carrier_free(Carrier *c)
{
        if (!c)
                return NULL;
        carrier_close_all(c, "the connection was closed");
        carrier_sweep(c);
        line_done(&c->line);
        (void)session_free(c->session);
        free(c->frame);
        free(c);
        return NULL;
}

void carrier_end(Carrier *c, int result)
{
        if (c->phase == CARRIER_ENDED)
                return;
        c->phase = CARRIER_ENDED;
        c->result = result;
}

/* The session is no more, and the host has nothing to wait for then; the guest waits for the next, if the
 * port is there. */
void carrier_lose(Carrier *c, bool port_is_gone, const char *text)
{
        bool was_up = c->phase != CARRIER_GREETING;

        if (c->phase == CARRIER_ENDED)
                return;
        if (c->is_host || port_is_gone)
                carrier_end(c, -ECONNRESET);
        else
                c->phase = CARRIER_GREETING;
        carrier_close_all(c, text);
        c->idle_usec = c->now;
        if (was_up && c->ops->lost)
                c->ops->lost(c->userdata, text);
}

void carrier_forget_host(Carrier *c, const char *text)
{
        carrier_lose(c, false, text);
        session_open(c->session, c->now);
}

static void carrier_fail(Carrier *c, Lane *l, int r, WireError error, const char *text)
{
        if (l->is_dead)
                return;
        if (error == WIRE_OK)
                error = r == -EXFULL ? WIRE_PROTOCOL : wire_error_from_errno(-r);
        if (!text)
                text = r == -EXFULL ? "the peer sent more than it had credit for" : strerror(-r);
        (void)session_stream_reset(c->session, l->id, error, text);
        carrier_close(c, l, error, text, true);
}

/* Both halves may have ended now. */
static void carrier_settle(Carrier *c, Lane *l)
{
        if (l->is_dead)
                return;
        lane_tell_end(l);
        if (lane_is_over(l))
                carrier_close(c, l, WIRE_OK, NULL, true);
}

static int carrier_add(Carrier *c, uint32_t id, const EndpointOps *ops, void *userdata)
{
        Lane *l;

        if (c->n_lanes == STREAMS_MAX)
                carrier_sweep(c);
        if (c->n_lanes == STREAMS_MAX)
                return -ENOBUFS;
        l = lane_new(id, ops, userdata);
        if (!l)
                return -ENOMEM;
        c->lanes[c->n_lanes++] = l;
        return 0;
}

static void carrier_accept(Carrier *c, const SessionEvent *e)
{
        _cleanup_free_ char *text = NULL;
        const EndpointOps *ops = NULL;
        json_object *reply = NULL;
        void *stream = NULL;
        WireError error = WIRE_UNSUPPORTED;

        if (c->phase == CARRIER_LEAVING || c->phase == CARRIER_LEFT)
                error = WIRE_INTERRUPTED;
        else if (c->ops->open)
                error = c->ops->open(c->userdata, e->message->json, &ops, &stream, &reply, &text);
        if (error != WIRE_OK) {
                (void)session_stream_reset(c->session, e->id, error,
                                           text ?: "no stream can be opened here now");
                return;
        }
        if (carrier_add(c, e->id, ops, stream) < 0 || session_stream_accept(c->session, e->id, reply) < 0) {
                Lane *l = carrier_find(c, e->id);

                (void)session_stream_reset(c->session, e->id, WIRE_LIMITS_EXCEEDED,
                                           "too many streams are open");
                if (l)
                        carrier_close(c, l, WIRE_LIMITS_EXCEEDED, "too many streams are open", true);
                else
                        ops->closed(stream, WIRE_LIMITS_EXCEEDED, "too many streams are open", true);
        }
        json_object_put(reply);
}

static void carrier_data(Carrier *c, const SessionEvent *e)
{
        Lane *l = carrier_find(c, e->id);
        WireError error = WIRE_OK;
        const char *text = NULL;
        size_t taken = e->n_data;
        int r = 0;

        if (l)
                r = lane_drain(l, e->data, e->n_data, &taken, &error, &text);
        if (r < 0)
                carrier_fail(c, l, r, error, text);
        else
                session_stream_taken(c->session, e->id, taken);
}

static void carrier_stream_event(Carrier *c, const SessionEvent *e)
{
        Lane *l = carrier_find(c, e->id);
        const char *text = "";
        WireError error;

        if (!l)
                return;
        if (e->type == SESSION_EVENT_STREAM_OPENED) {
                if (l->ops->opened)
                        l->ops->opened(l->userdata, e->message->json);
        } else if (e->type == SESSION_EVENT_STREAM_EOF) {
                l->eof_received = true;
                carrier_settle(c, l);
        } else {
                error = message_get_error(e->message->json, &text);
                carrier_close(c, l, error == WIRE_OK ? WIRE_FAILED : error, text, false);
        }
}

static void carrier_greeted(Carrier *c)
{
        c->phase = CARRIER_CARRYING;
        c->idle_usec = c->now;
        c->n_pings = 0;
        c->ping_usec = c->now + CARRIER_PING_USEC;
        if (c->ops->up)
                c->ops->up(c->userdata);
}

static void carrier_event(Carrier *c, const SessionEvent *e)
{
        switch (e->type) {
        case SESSION_EVENT_UP:
                carrier_greeted(c);
                break;
        case SESSION_EVENT_DOWN:
                carrier_lose(c, false, e->text);
                break;
        case SESSION_EVENT_INCOMPATIBLE:
                carrier_end(c, -EPROTONOSUPPORT);
                break;
        case SESSION_EVENT_BYE:
                carrier_close_all(c, "the peer ended the connection");
                c->phase = CARRIER_LEFT;
                c->bye_usec = c->now + BYE_TIMEOUT_USEC;
                break;
        case SESSION_EVENT_BYE_ACK:
                carrier_end(c, 0);
                break;
        case SESSION_EVENT_STREAM_OPEN:
                carrier_accept(c, e);
                break;
        case SESSION_EVENT_STREAM_DATA:
                carrier_data(c, e);
                break;
        case SESSION_EVENT_STREAM_OPENED:
        case SESSION_EVENT_STREAM_EOF:
        case SESSION_EVENT_STREAM_RESET:
                carrier_stream_event(c, e);
                break;
        case SESSION_EVENT_STREAM_ROOM: /* every turn looks for room anyway */
        case SESSION_EVENT_HEARD:
        case SESSION_EVENT_PONG: /* it counts as heard */
        case SESSION_EVENT_REQUEST:
        case SESSION_EVENT_REPLY:
        case SESSION_EVENT_NOTIFY:
                break;
        }
}

static void carrier_events(Carrier *c)
{
        SessionEvent e;

        while (c->phase != CARRIER_ENDED && session_next_event(c->session, &e) > 0)
                carrier_event(c, &e);
}

static void carrier_read(Carrier *c)
{
        size_t n_read = 0, n;
        uint8_t *buf;
        ssize_t r;

        /* The session may have something to say without input: what it was asked to send had no room. */
        carrier_events(c);
        while (c->phase != CARRIER_ENDED && c->line.readable && n_read < READ_PER_TURN) {
                session_input_space(c->session, &buf, &n);
                r = line_read(&c->line, buf, n);
                if (r == 0)
                        return;
                if (r < 0) {
                        carrier_lose(c, true, "the connection to the port was lost");
                        return;
                }
                session_input_commit(c->session, (size_t)r, c->now);
                carrier_events(c);
                n_read += (size_t)r;
                /* What the peer may be waiting for goes first. */
                if (c->line.writable && session_output_pending(c->session))
                        return;
        }
}

/* Small frames travel together: each write(2) costs the guest an interrupt or an exit, whatever its size. */
static bool carrier_session_frame(Carrier *c)
{
        const uint8_t *frame;
        size_t n, n_batch = 0;

        while (n_batch < BATCH_MAX && session_output_next(c->session, &frame, &n) > 0) {
                if (n_batch == 0 && n >= BATCH_MAX) {
                        c->out = frame;
                        c->n_out = n;
                        return true;
                }
                memcpy(c->frame + n_batch, frame, n);
                n_batch += n;
        }
        c->out = c->frame;
        c->n_out = n_batch;
        return n_batch > 0;
}

/* Whether this lane may have the next frame of bulk. */
static bool carrier_may_fill(const Carrier *c, const Lane *l)
{
        return lane_wants_fill(l) && session_stream_room(c->session, l->id) >= FILL_MIN;
}

static bool carrier_bulk_frame(Carrier *c)
{
        size_t n_lanes = c->n_lanes, start = c->cursor;

        for (size_t i = 0; i < n_lanes; i++) {
                size_t at = (start + i) % n_lanes;
                Lane *l = c->lanes[at];
                WireError error = WIRE_OK;
                const char *text = NULL;
                ssize_t r;

                if (!carrier_may_fill(c, l))
                        continue;
                r = lane_fill(l, c->frame + FRAME_HEADER_SIZE, session_stream_room(c->session, l->id),
                              &error, &text);
                if (r == 0)
                        continue;
                c->cursor = at + 1;
                if (r > 0) {
                        c->n_out = session_stream_seal(c->session, l->id, c->frame, (size_t)r);
                        c->out = c->frame;
                        return true;
                }
                if (r == -ENODATA) {
                        l->fill_ended = l->eof_sent = true;
                        (void)session_stream_eof(c->session, l->id);
                        carrier_settle(c, l);
                } else
                        carrier_fail(c, l, (int)r, error, text);
                if (carrier_session_frame(c))
                        return true;
        }
        return false;
}

static void carrier_write(Carrier *c)
{
        for (unsigned i = 0; i < FRAMES_PER_TURN && c->line.writable; i++) {
                ssize_t r;

                if (c->n_out == 0 && !carrier_session_frame(c) && !carrier_bulk_frame(c))
                        return;
                r = line_write(&c->line, c->out, c->n_out);
                if (r < 0) {
                        carrier_lose(c, true, "the connection to the port was lost");
                        return;
                }
                c->out += r;
                c->n_out -= (size_t)r;
        }
}

static void carrier_drain(Carrier *c)
{
        for (size_t i = 0; i < c->n_lanes; i++) {
                Lane *l = c->lanes[i];
                WireError error = WIRE_OK;
                const char *text = NULL;
                size_t taken;
                int r;

                if (!lane_wants_drain(l))
                        continue;
                r = lane_drain_kept(l, &taken, &error, &text);
                if (r < 0) {
                        carrier_fail(c, l, r, error, text);
                        continue;
                }
                session_stream_taken(c->session, l->id, taken);
                carrier_settle(c, l);
        }
}

static bool carrier_has_work(const Carrier *c)
{
        bool writable = c->line.writable;

        if (c->line.readable || (writable && (c->n_out > 0 || session_output_pending(c->session))))
                return true;
        for (size_t i = 0; i < c->n_lanes; i++)
                if (lane_wants_drain(c->lanes[i]) || (writable && carrier_may_fill(c, c->lanes[i])))
                        return true;
        return false;
}

static int carrier_poll(Carrier *c, bool sleep)
{
        uint64_t deadline = carrier_deadline(c);
        size_t n = 0, n_fixed;
        int timeout = 0, r;

        line_poll(&c->line, c->n_out > 0 && !c->line.writable, &c->polls[n++]);
        if (c->wake_fd >= 0)
                c->polls[n++] = (struct pollfd){ .fd = c->wake_fd, .events = POLLIN };
        n_fixed = n;
        for (size_t i = 0; i < c->n_lanes; i++)
                n += lane_poll(c->lanes[i], &c->polls[n]);

        if (sleep && deadline == USEC_INFINITY)
                timeout = -1;
        else if (sleep && deadline > c->now)
                timeout = (int)((MIN(deadline - c->now, 3600 * USEC_PER_SEC) + USEC_PER_MSEC - 1) /
                                USEC_PER_MSEC);
        r = poll(c->polls, n, timeout);
        if (r < 0)
                return errno == EINTR ? 0 : -errno;
        if (r == 0)
                return 0;
        r = line_polled(&c->line, &c->polls[0]);
        if (r < 0) {
                carrier_lose(c, true, "the port was unplugged");
                return 0;
        }
        c->woken = n_fixed > 1 && c->polls[1].revents != 0;
        for (size_t i = 0, at = n_fixed; i < c->n_lanes; i++) {
                struct pollfd unused[2];
                size_t n_own = lane_poll(c->lanes[i], unused);

                for (size_t j = 0; j < n_own; j++)
                        lane_polled(c->lanes[i], &c->polls[at++]);
        }
        return 0;
}

int carrier_run(Carrier *c)
{
        unsigned n_busy = 0;
        int r;

        c->now = fs_now_usec();
        carrier_start_clock(c);
        session_open(c->session, c->now);
        while (c->phase != CARRIER_ENDED) {
                bool sleep;

                c->now = fs_now_usec();
                if (c->ops->turn)
                        c->ops->turn(c->userdata, c->woken);
                c->woken = false;
                carrier_write(c);
                carrier_read(c);
                carrier_drain(c);
                carrier_tick(c);
                carrier_sweep(c);
                if (c->phase == CARRIER_ENDED)
                        break;
                sleep = !carrier_has_work(c);
                if (!sleep && ++n_busy < BUSY_TURNS)
                        continue;
                n_busy = 0;
                r = carrier_poll(c, sleep);
                if (r < 0)
                        carrier_lose(c, true, strerror(-r));
        }
        carrier_close_all(c, "the connection was closed");
        carrier_sweep(c);
        return c->result;
}

void carrier_stop(Carrier *c)
{
        carrier_end(c, -ECANCELED);
}

int carrier_keep(Carrier *c)
{
        if (c->phase != CARRIER_GREETING && c->phase != CARRIER_CARRYING)
                return -ENOTCONN;
        c->idle_usec = c->now;
        return 0;
}

int carrier_open_stream(Carrier *c, json_object *params, const EndpointOps *ops, void *userdata,
                        uint32_t *ret_id)
{
        uint32_t id;
        int r;

        if (c->phase != CARRIER_CARRYING)
                return -ENOTCONN;
        r = session_stream_open(c->session, params, &id);
        if (r < 0)
                return r;
        r = carrier_add(c, id, ops, userdata);
        if (r < 0) {
                (void)session_stream_reset(c->session, id, WIRE_LIMITS_EXCEEDED, "no memory for the stream");
                return r;
        }
        *ret_id = id;
        return 0;
}

int carrier_reset_stream(Carrier *c, uint32_t id, WireError error, const char *text)
{
        Lane *l = carrier_find(c, id);

        if (!l)
                return -ENOENT;
        (void)session_stream_reset(c->session, id, error, text);
        carrier_close(c, l, error, text, true);
        return 0;
}

const SessionCounters *carrier_counters(const Carrier *c)
{
        return session_counters(c->session);
}
