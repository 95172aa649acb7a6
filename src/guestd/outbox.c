/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/outbox.h"

#include "base/escape.h"
#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/outbox-file.h"
#include "proto/limits.h"

/* So much of the file may be of messages that are gone, and as much again as those that aren't. */
#define FILE_SLACK (1024u * 1024)

typedef struct Letter Letter;
struct Letter {
        Letter *next;
        uint64_t id;
        uint32_t request; /* while under_way */
        bool under_way, is_filed;
        size_t n;
        uint8_t *payload;
        char topic[];
};

struct Outbox {
        const OutboxOps *ops;
        void *userdata;
        Loop *loop;
        LoopTimer *timer;
        char *path; /* NULL: without a file */
        OutboxFile file;
        uint64_t n_filed;    /* bytes of those in the file that are in the box, too */
        int file_error;      /* while it cannot be written */
        uint64_t rewrite_at; /* not before the file has that many bytes */
        unsigned n_max;
        Letter *first, **tail;
        size_t n, n_bytes, n_under_way, n_bytes_under_way;
        uint64_t last_id;
        bool is_host_here, is_wanted, is_paused, is_sending, is_file_lost;
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

/* NULL: no memory. */
static Letter *append(Outbox *o, const char *topic, const void *payload, size_t n, uint64_t id)
{
        Letter *m = calloc(1, sizeof(*m) + strlen(topic) + 1);
        if (!m || !(m->payload = malloc(n + 1)))
                return letter_free(m);
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
        return m;
}

static void letter_settle(Outbox *o, Letter *m)
{
        if (!m->under_way)
                return;
        m->under_way = false;
        o->n_under_way--;
        o->n_bytes_under_way -= letter_bytes(m);
}

static int rewrite_file(Outbox *o)
{
        OutboxFile fresh;
        int r = outbox_file_create(o->path, &fresh);
        if (r == 0) {
                for (Letter *m = o->first; m && r == 0; m = m->next)
                        r = outbox_file_add(&fresh, m->id, m->topic, m->payload, m->n);
                if (r == 0)
                        r = outbox_file_publish(&fresh, o->path);
                if (r < 0)
                        outbox_file_discard(&fresh, o->path);
        }
        o->rewrite_at = r < 0 ? o->file.n + FILE_SLACK : 0;
        if (r < 0)
                return o->file_error = r;
        o->is_file_lost = false;
        outbox_file_close(&o->file);
        o->file = fresh;
        o->n_filed = 0;
        for (Letter *m = o->first; m; m = m->next) {
                m->is_filed = true;
                o->n_filed += outbox_file_bytes(m->topic, m->n);
        }
        return 0;
}

static int file_letter(Outbox *o, Letter *m)
{
        if (o->is_file_lost && o->n == 1) /* the time to begin anew: there is nothing else to write */
                return rewrite_file(o);
        int r = o->file.fd < 0 ? o->file_error
                               : outbox_file_add(&o->file, m->id, m->topic, m->payload, m->n);
        if (r == 0) {
                m->is_filed = true;
                o->n_filed += outbox_file_bytes(m->topic, m->n);
        }
        return r;
}

static void tell_lost(Outbox *o, int error)
{
        if (!o->is_file_lost)
                log_warning("%s: %s: messages for the host are kept in memory only", o->path,
                            strerror(-error));
        o->is_file_lost = true;
}

static void unfile_letter(Outbox *o, Letter *m)
{
        if (!m->is_filed)
                return;
        o->n_filed -= outbox_file_bytes(m->topic, m->n);
        if (o->n_filed > 0 || o->file.n < FILE_SLACK || outbox_file_clear(&o->file) < 0)
                (void)outbox_file_remove(&o->file, m->id);
        if (o->file.n > 2 * o->n_filed + FILE_SLACK && o->file.n >= o->rewrite_at)
                (void)rewrite_file(o);
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
        unfile_letter(o, m);
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

static int on_filed_letter(void *userdata, uint64_t id, const char *topic, const void *payload, size_t n)
{
        Outbox *o = userdata;
        return id > o->last_id && append(o, topic, payload, n, id) ? 0 : -EBADMSG;
}

static void on_filed_end(void *userdata, uint64_t id)
{
        Outbox *o = userdata;
        for (Letter **at = &o->first; *at && (*at)->id <= id; at = &(*at)->next)
                if ((*at)->id == id) {
                        remove_at(o, at);
                        return;
                }
}

/* What an earlier guestd has left, however it ended. */
static void outbox_load(Outbox *o)
{
        static const OutboxFileOps ops = { on_filed_letter, on_filed_end };
        outbox_file_load(o->path, &ops, o);
        (void)rewrite_file(o); /* else the first message tells it */
}

int outbox_new(Loop *loop, unsigned n_max, const char *path, const OutboxOps *ops, void *userdata,
               Outbox **ret)
{
        _cleanup_(outbox_freep) Outbox *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        *o = (Outbox){ .loop = loop, .ops = ops, .userdata = userdata, .n_max = MAX(n_max, 1u) };
        o->file.fd = -EBADF;
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
        while (o->first) {
                Letter *m = o->first;
                o->first = m->next;
                (void)letter_free(m);
        }
        outbox_file_close(&o->file);
        (void)loop_timer_free(o->timer);
        free(o->path);
        free(o);
        return NULL;
}

int outbox_save(Outbox *o)
{
        if (!o->path)
                return 0;
        if (!o->first) {
                (void)unlink(o->path);
                return 0;
        }
        int r = rewrite_file(o);
        for (Letter *m = o->first; m && r < 0; m = m->next)
                if (!m->is_filed)
                        return r;
        return 0;
}

int outbox_add(Outbox *o, const char *topic, const void *payload, size_t n, uint64_t *ret_id)
{
        if (n > PAYLOAD_MAX || strlen(topic) > TOPIC_MAX)
                return -E2BIG;
        if (!has_room(o, sizeof(Letter) + strlen(topic) + 1 + n)) {
                o->is_wanted = o->is_host_here;
                return o->is_host_here ? -EAGAIN : -ENOBUFS;
        }
        Letter *m = append(o, topic, payload, n, o->last_id + 1);
        if (!m)
                return -ENOMEM;
        int r = o->path ? file_letter(o, m) : 0;
        if (r < 0) /* a message all the same: a guest whose disk is full has things to tell */
                tell_lost(o, r);
        *ret_id = m->id;
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
