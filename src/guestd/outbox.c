/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/outbox.h"

#include "base/escape.h"
#include "base/fs.h"
#include "guestd/log.h"
#include "proto/limits.h"
#include "proto/name.h"

#define OUTBOX_MAGIC "vmferry outbox 1\n"
#define OUTBOX_FILE_MAX (2 * OUTBOX_BYTES_MAX)
#define RECORD_HEADER 16u /* id (8), bytes of topic (4), bytes of payload (4); little-endian */

typedef struct Letter Letter;
struct Letter {
        Letter *next;
        uint64_t id;
        uint32_t request; /* while under_way */
        bool under_way;
        size_t n;
        uint8_t *payload;
        char topic[];
};

struct Outbox {
        const OutboxOps *ops;
        void *userdata;
        Loop *loop;
        LoopTimer *timer;
        char *path;
        unsigned n_max;
        Letter *first, **tail;
        size_t n, n_bytes, n_under_way, n_bytes_under_way;
        uint64_t last_id;
        bool is_host_here, is_wanted, is_paused, is_sending;
};

static size_t letter_bytes(const Letter *m)
{
        return sizeof(*m) + strlen(m->topic) + 1 + m->n;
}

static Letter *letter_free(Letter *m)
{
        if (m)
                free(m->payload);
        free(m);
        return NULL;
}

static int append(Outbox *o, const char *topic, const void *payload, size_t n, uint64_t id)
{
        Letter *m = calloc(1, sizeof(*m) + strlen(topic) + 1);
        if (!m || !(m->payload = malloc(n + 1))) {
                (void)letter_free(m);
                return -ENOMEM;
        }
        m->id = id;
        m->n = n;
        if (n)
                memcpy(m->payload, payload, n);
        memcpy(m->topic, topic, strlen(topic) + 1);
        *o->tail = m;
        o->tail = &m->next;
        o->n++;
        o->n_bytes += letter_bytes(m);
        o->last_id = MAX(o->last_id, id);
        return 0;
}

static void letter_settle(Outbox *o, Letter *m)
{
        if (!m->under_way)
                return;
        m->under_way = false;
        o->n_under_way--;
        o->n_bytes_under_way -= letter_bytes(m);
}

static void remove_at(Outbox *o, Letter **at)
{
        Letter *m = *at;
        letter_settle(o, m);
        *at = m->next;
        if (!*at)
                o->tail = at;
        o->n--;
        o->n_bytes -= letter_bytes(m);
        (void)letter_free(m);
}

static void pause_sending(Outbox *o)
{
        o->is_paused = true;
        loop_timer_set(o->timer, loop_now(o->loop) + OUTBOX_PAUSE_USEC);
}

static void send_more(Outbox *o)
{
        if (o->is_sending)
                return;
        o->is_sending = true;
        for (Letter *m = o->first; m && o->is_host_here && !o->is_paused; m = m->next) {
                if (m->under_way)
                        continue;
                if (o->n_under_way >= OUTBOX_WINDOW_MESSAGES ||
                    (o->n_under_way > 0 && o->n_bytes_under_way + letter_bytes(m) > OUTBOX_WINDOW_BYTES))
                        break;
                if (o->ops->send(o->userdata, m->topic, m->id, m->payload, m->n, &m->request) < 0) {
                        pause_sending(o);
                        break;
                }
                m->under_way = true;
                o->n_under_way++;
                o->n_bytes_under_way += letter_bytes(m);
        }
        o->is_sending = false;
}

static void on_time(void *userdata)
{
        Outbox *o = userdata;
        o->is_paused = false;
        send_more(o);
}

static bool has_room(const Outbox *o, size_t n)
{
        return o->n < o->n_max && o->n_bytes + n <= OUTBOX_BYTES_MAX;
}

/* What an earlier guestd has left. Its own file, yet a disk's word: a record that is none ends the reading.
 */
static void outbox_load(Outbox *o)
{
        _cleanup_free_ char *text = NULL;
        size_t n;
        if (fs_read_file(o->path, OUTBOX_FILE_MAX, &text, &n) < 0)
                return;
        (void)unlink(o->path);
        size_t at = strlen(OUTBOX_MAGIC);
        if (n < at || memcmp(text, OUTBOX_MAGIC, at) != 0)
                return;
        while (n - at >= RECORD_HEADER) {
                uint64_t id = load_le64(text + at);
                size_t n_topic = load_le32(text + at + 8), n_payload = load_le32(text + at + 12);
                char topic[TOPIC_MAX + 1];
                at += RECORD_HEADER;
                if (n_topic > TOPIC_MAX || n_payload > PAYLOAD_MAX || n - at < n_topic + n_payload ||
                    id <= o->last_id)
                        return;
                memcpy(topic, text + at, n_topic);
                topic[n_topic] = 0;
                if (!name_is_topic(topic) || append(o, topic, text + at + n_topic, n_payload, id) < 0)
                        return;
                at += n_topic + n_payload;
        }
}

int outbox_new(Loop *loop, unsigned n_max, const char *path, const OutboxOps *ops, void *userdata,
               Outbox **ret)
{
        _cleanup_(outbox_freep) Outbox *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        *o = (Outbox){ .loop = loop, .ops = ops, .userdata = userdata, .n_max = MAX(n_max, 1u) };
        o->tail = &o->first;
        int r = loop_add_timer(loop, on_time, o, &o->timer);
        if (r < 0)
                return r;
        if (path) {
                if (!(o->path = strdup(path)))
                        return -ENOMEM;
                outbox_load(o);
        }
        /* Ids count up over restarts, too, as long as the clock does. */
        o->last_id = MAX(o->last_id, fs_realtime_usec());
        *ret = TAKE(o);
        return 0;
}

Outbox *outbox_free(Outbox *o)
{
        if (!o)
                return NULL;
        while (o->first)
                remove_at(o, &o->first);
        (void)loop_timer_free(o->timer);
        free(o->path);
        free(o);
        return NULL;
}

int outbox_save(Outbox *o)
{
        if (!o->path || !o->first)
                return 0;
        size_t n = strlen(OUTBOX_MAGIC), at = n;
        for (Letter *m = o->first; m; m = m->next)
                n += RECORD_HEADER + strlen(m->topic) + m->n;
        _cleanup_free_ uint8_t *text = malloc(n);
        if (!text)
                return -ENOMEM;
        memcpy(text, OUTBOX_MAGIC, at);
        for (Letter *m = o->first; m; m = m->next) {
                size_t n_topic = strlen(m->topic);
                store_le64(text + at, m->id);
                store_le32(text + at + 8, (uint32_t)n_topic);
                store_le32(text + at + 12, (uint32_t)m->n);
                memcpy(text + at + RECORD_HEADER, m->topic, n_topic);
                memcpy(text + at + RECORD_HEADER + n_topic, m->payload, m->n);
                at += RECORD_HEADER + n_topic + m->n;
        }
        return fs_write_file_atomic(o->path, text, n, 0600);
}

int outbox_add(Outbox *o, const char *topic, const void *payload, size_t n, uint64_t *ret_id)
{
        if (n > PAYLOAD_MAX || strlen(topic) > TOPIC_MAX)
                return -E2BIG;
        if (!has_room(o, sizeof(Letter) + strlen(topic) + 1 + n)) {
                o->is_wanted = o->is_host_here;
                return o->is_host_here ? -EAGAIN : -ENOBUFS;
        }
        int r = append(o, topic, payload, n, o->last_id + 1);
        if (r < 0)
                return r;
        *ret_id = o->last_id;
        send_more(o);
        return 0;
}

void outbox_host_here(Outbox *o)
{
        for (Letter *m = o->first; m; m = m->next)
                letter_settle(o, m);
        o->is_host_here = true;
        o->is_paused = false;
        loop_timer_set(o->timer, USEC_INFINITY);
        send_more(o);
}

void outbox_host_away(Outbox *o)
{
        for (Letter *m = o->first; m; m = m->next)
                letter_settle(o, m);
        o->is_host_here = false;
        loop_timer_set(o->timer, USEC_INFINITY);
        if (o->is_wanted) { /* who waits for room is to hear that there will be none */
                o->is_wanted = false;
                o->ops->room(o->userdata);
        }
}

bool outbox_on_reply(Outbox *o, uint32_t request, WireError error, const char *text)
{
        Letter **at = &o->first;
        while (*at && !((*at)->under_way && (*at)->request == request))
                at = &(*at)->next;
        if (!*at)
                return false;
        if (error == WIRE_LIMITS_EXCEEDED || error == WIRE_NOT_READY) {
                letter_settle(o, *at);
                pause_sending(o);
                return true;
        }
        if (error != WIRE_OK) {
                _cleanup_free_ char *why = escape_text(text, strlen(text), 256);
                log_warning("message %llu to %s: the host refuses it: %s: %s", (unsigned long long)(*at)->id,
                            (*at)->topic, wire_error_to_string(error), why ?: "");
        }
        remove_at(o, at);
        send_more(o);
        if (o->is_wanted && has_room(o, sizeof(Letter) + TOPIC_MAX + 1 + PAYLOAD_MAX)) {
                o->is_wanted = false;
                o->ops->room(o->userdata);
        }
        return true;
}

void outbox_set_max(Outbox *o, unsigned n_max)
{
        o->n_max = MAX(n_max, 1u);
}

size_t outbox_n(const Outbox *o)
{
        return o->n;
}
