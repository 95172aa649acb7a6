/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The data port of one guest: asks over the control port, connects, runs a thread, tries again. QEMU may
 * have left the guest's end deaf after a pause or a restore, and only a second connection cures that; but
 * connecting faster than ten times a second would overflow the device's control queue. Streams wait here
 * until a session is up, so that a connection that comes to nothing costs them nothing.
 */

#include "hostd/dataport.h"

#include <glib.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/datathread.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#define OPEN_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define CONNECT_GAP_USEC (100 * USEC_PER_MSEC) /* and growing, between two connections */
#define ATTEMPTS_MAX 3u
#define STOP_TIMEOUT_USEC                                                                                   \
        (2 * USEC_PER_SEC) /* a thread ends at once, unless a descriptor of somebody's blocks */

typedef enum DataportState {
        DATAPORT_CLOSED,
        DATAPORT_ASKING,     /* `data.open` is under way */
        DATAPORT_PAUSING,    /* the timer runs: then asks again */
        DATAPORT_CONNECTING, /* the thread runs, nobody has answered yet */
        DATAPORT_OPEN,
        DATAPORT_STOPPING, /* the thread was told to end */
} DataportState;

struct GuestStream {
        Dataport *port;
        uint64_t id;
        GuestStreamConfig config;
        bool is_given;   /* to the thread, which then owns params and descriptors */
        WireError error; /* why it was ended from this side; text is what its owner will be told */
        char *text;
};

struct Dataport {
        Guest *guest;
        DataportState state;
        GHashTable *streams; /* all, by id */
        GQueue waiting;      /* not given yet, in the order in which they came */
        GQueue ending; /* to be closed from the main loop, for `closed` never comes from within a call */
        guint ending_source;
        uint64_t next_id;
        uint64_t request;
        DataThread *thread;
        LoopTimer *timer;
        unsigned n_attempts;
        uint64_t connected_usec;
        char *stop_text;
        DataCounters counters; /* of threads that have ended */
        uint64_t n_reconnects;
};

static void dataport_kick(Dataport *p);

/* --- streams --- */

static void stream_free(GuestStream *s)
{
        if (s->config.params)
                json_object_put(s->config.params);
        if (s->config.out_fd != s->config.in_fd)
                (void)fd_close(s->config.out_fd);
        (void)fd_close(s->config.in_fd);
        free(s->text);
        g_free(s);
}

/* Tells the owner and forgets it. */
static void stream_close(GuestStream *s, WireError error, const char *text, uint64_t n_in, uint64_t n_out)
{
        Dataport *p = s->port;

        (void)g_queue_remove(&p->waiting, s);
        (void)g_queue_remove(&p->ending, s);
        (void)g_hash_table_steal(p->streams, &s->id);
        if (s->config.closed)
                s->config.closed(s->config.userdata, error, text, n_in, n_out);
        stream_free(s);
}

static int on_ending(void *userdata)
{
        Dataport *p = userdata;
        GuestStream *s;

        p->ending_source = 0;
        while (p->ending_source == 0 && (s = g_queue_pop_head(&p->ending)))
                stream_close(s, s->error, s->text, 0, 0);
        return G_SOURCE_REMOVE;
}

/* A stream that the thread does not have ends; soon, not now. */
static void stream_end(GuestStream *s, WireError error, const char *text)
{
        Dataport *p = s->port;

        if (s->error == WIRE_OK) {
                s->error = error;
                s->text = g_strdup(text);
        }
        (void)g_queue_remove(&p->waiting, s);
        g_queue_push_tail(&p->ending, s);
        if (p->ending_source == 0)
                p->ending_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_ending, p, NULL);
}

static void dataport_end_waiting(Dataport *p, WireError error, const char *text)
{
        GuestStream *s;

        while ((s = g_queue_peek_head(&p->waiting)))
                stream_end(s, error, text);
}

static void dataport_give_all(Dataport *p)
{
        GuestStream *s;

        while ((s = g_queue_pop_head(&p->waiting))) {
                int in_fd = TAKE_FD(s->config.in_fd), out_fd = TAKE_FD(s->config.out_fd);

                s->is_given = true;
                datathread_open(p->thread, s->id, TAKE(s->config.params), in_fd, out_fd, s->config.ended);
        }
}

/* --- news of the thread --- */

static void on_up(void *userdata)
{
        Dataport *p = userdata;

        if (p->state != DATAPORT_CONNECTING)
                return;
        p->state = DATAPORT_OPEN;
        p->n_attempts = 0;
        dataport_give_all(p);
}

static void on_opened(void *userdata, uint64_t stream, json_object *reply)
{
        Dataport *p = userdata;
        GuestStream *s = g_hash_table_lookup(p->streams, &stream);

        if (s && s->error == WIRE_OK && s->config.opened)
                s->config.opened(s->config.userdata, reply);
}

static void on_refused(void *userdata, uint64_t stream, json_object *params, int in_fd, int out_fd)
{
        Dataport *p = userdata;
        GuestStream *s = g_hash_table_lookup(p->streams, &stream);

        if (!s) {
                json_object_put(params);
                if (out_fd != in_fd)
                        (void)fd_close(out_fd);
                (void)fd_close(in_fd);
                return;
        }
        s->is_given = false;
        s->config.params = params;
        s->config.in_fd = in_fd;
        s->config.out_fd = out_fd;
        if (s->error != WIRE_OK)
                stream_end(s, s->error, s->text);
        else if (p->state == DATAPORT_STOPPING)
                stream_end(s, WIRE_INTERRUPTED, p->stop_text);
        else
                g_queue_push_tail(&p->waiting, s);
}

static void on_half(void *userdata, uint64_t stream)
{
        Dataport *p = userdata;
        GuestStream *s = g_hash_table_lookup(p->streams, &stream);

        if (s && s->error == WIRE_OK && s->config.ended)
                s->config.ended(s->config.userdata);
}

static void on_closed(void *userdata, uint64_t stream, WireError error, const char *text, bool local,
                      uint64_t n_in, uint64_t n_out)
{
        Dataport *p = userdata;
        GuestStream *s = g_hash_table_lookup(p->streams, &stream);
        g_autofree char *sentence = NULL;

        if (!s)
                return;
        if (s->error != WIRE_OK && error != WIRE_OK) {
                error = s->error;
                sentence = g_strdup(s->text);
        } else if (p->state == DATAPORT_STOPPING && error == WIRE_INTERRUPTED)
                sentence = g_strdup(p->stop_text);
        else if (error != WIRE_OK)
                sentence = g_strdup_printf("Guest %s: %s", guest_name(p->guest), text);
        stream_close(s, error, sentence ?: "", n_in, n_out);
}

static void on_silent(void *userdata)
{
        Dataport *p = userdata;
        g_autofree char *why = NULL;

        if (guest_domain(p->guest)->state != DOMAIN_RUNNING)
                return;
        why = g_strdup_printf("Guest %s has stopped answering on its data port", guest_name(p->guest));
        log_guest(LOG_WARNING, guest_uuid(p->guest), guest_name(p->guest), 0, "%s; connecting anew", why);
        p->n_reconnects++;
        dataport_reset(p, why);
}

static void dataport_drop_thread(Dataport *p)
{
        if (!p->thread)
                return;
        datathread_count(p->thread, &p->counters);
        p->thread = datathread_detach(p->thread);
}

static void dataport_pause(Dataport *p, uint64_t usec)
{
        p->state = DATAPORT_PAUSING;
        loop_timer_set(p->timer, fs_now_usec() + usec, 0);
}

/* One connection came to nothing. */
static void dataport_retry(Dataport *p, WireError error, const char *why)
{
        g_autofree char *text = NULL;

        p->state = DATAPORT_CLOSED;
        if (++p->n_attempts < ATTEMPTS_MAX) {
                p->n_reconnects++;
                dataport_pause(p, CONNECT_GAP_USEC << p->n_attempts);
                return;
        }
        text = g_strdup_printf("Guest %s: %s; tried %u times", guest_name(p->guest), why, p->n_attempts);
        p->n_attempts = 0;
        dataport_end_waiting(p, error, text);
}

static void on_ended(void *userdata, int result)
{
        Dataport *p = userdata;
        DataportState before = p->state;
        g_autofree char *text = NULL;

        dataport_drop_thread(p);
        loop_timer_set(p->timer, USEC_INFINITY, 0);
        p->state = DATAPORT_CLOSED;
        if (before != DATAPORT_CONNECTING) {
                dataport_kick(p);
                return;
        }
        if (result == -EPROTONOSUPPORT) {
                p->n_attempts = 0;
                text = g_strdup_printf("Guest %s speaks no version of the protocol that this host speaks",
                                       guest_name(p->guest));
                dataport_end_waiting(p, WIRE_INCOMPATIBLE, text);
        } else
                dataport_retry(
                        p, WIRE_INTERRUPTED,
                        result == -ETIMEDOUT
                                ? "nobody answered on the data port; another program may hold its socket"
                                : "the data port's socket was closed");
}

static const DataThreadOps thread_ops = {
        .up = on_up,
        .opened = on_opened,
        .refused = on_refused,
        .half = on_half,
        .closed = on_closed,
        .silent = on_silent,
        .ended = on_ended,
};

/* --- opening --- */

/* The fd, or negative errno. Never waits: QEMU's backlog is full (-EAGAIN) when somebody else is connected.
 */
static int data_socket_connect(const char *path)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -EBADF;
        size_t n = strlen(path);

        if (n >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        memcpy(sa.sun_path, path, n + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static void dataport_connect_failed(Dataport *p, const char *path, int error)
{
        g_autofree char *text = NULL;

        switch (error) {
        case EAGAIN:
                dataport_retry(p, WIRE_CHANNEL_BUSY, "another program holds the socket of the data channel");
                return;
        case ENOENT:
        case ECONNREFUSED:
                dataport_retry(p, WIRE_NOT_READY, "nothing listens on the socket of the data channel");
                return;
        case EACCES:
        case EPERM:
                text = g_strdup_printf("Guest %s: no permission to connect to %s", guest_name(p->guest),
                                       path);
                break;
        default:
                text = g_strdup_printf("Guest %s: cannot connect to %s: %s", guest_name(p->guest), path,
                                       g_strerror(error));
                break;
        }
        p->n_attempts = 0;
        dataport_end_waiting(p, wire_error_from_errno(error), text);
}

static void dataport_connect(Dataport *p)
{
        const char *path = guest_domain(p->guest)->data_socket;
        g_autofree char *text = NULL;
        int fd, r;

        p->state = DATAPORT_CLOSED;
        if (!path) {
                text = g_strdup_printf("Guest %s has no data channel; see `vmferry enable`",
                                       guest_name(p->guest));
                dataport_end_waiting(p, WIRE_NO_CHANNEL, text);
                return;
        }
        p->connected_usec = fs_now_usec();
        fd = data_socket_connect(path);
        if (fd < 0) {
                dataport_connect_failed(p, path, -fd);
                return;
        }
        r = datathread_start(fd, &thread_ops, p, &p->thread);
        if (r < 0) {
                text = g_strdup_printf("Guest %s: no thread for its data port: %s", guest_name(p->guest),
                                       g_strerror(-r));
                dataport_end_waiting(p, WIRE_LIMITS_EXCEEDED, text);
                return;
        }
        p->state = DATAPORT_CONNECTING;
}

static void on_asked(void *userdata, WireError error, const char *text, const Message *m)
{
        Dataport *p = userdata;

        p->request = 0;
        p->state = DATAPORT_CLOSED;
        /* Not the guest's own word: it was ready when it was first asked, and was paused or lost since. */
        if (!m &&
            (error == WIRE_NOT_READY || (error == WIRE_TIMEOUT && guest_state(p->guest) != GUEST_READY)))
                error = WIRE_INTERRUPTED;
        if (error != WIRE_OK) {
                p->n_attempts = 0;
                dataport_end_waiting(p, error, text);
                return;
        }
        /* Nobody waits for it any more: the guest closes its end by itself. */
        if (!g_queue_is_empty(&p->waiting))
                dataport_connect(p);
        else
                p->n_attempts = 0;
}

static void dataport_ask(Dataport *p)
{
        json_object *o = json_object_new_object();

        json_object_object_add(o, "method", json_object_new_string("data.open"));
        p->state = DATAPORT_ASKING;
        p->request = guest_request(p->guest, o, NULL, 0, OPEN_TIMEOUT_USEC, on_asked, p);
}

static void on_timer(void *userdata)
{
        Dataport *p = userdata;

        if (p->state == DATAPORT_PAUSING) {
                p->state = DATAPORT_CLOSED;
                if (g_queue_is_empty(&p->waiting))
                        p->n_attempts = 0;
                dataport_kick(p);
        } else if (p->state == DATAPORT_STOPPING) {
                GHashTableIter i;
                GuestStream *s;

                /* It hangs in somebody's descriptor. It will end when that does, and nobody will listen. */
                dataport_drop_thread(p);
                p->state = DATAPORT_CLOSED;
                g_hash_table_iter_init(&i, p->streams);
                while (g_hash_table_iter_next(&i, NULL, (void **)&s))
                        if (s->is_given) {
                                s->is_given = false;
                                stream_end(s, WIRE_INTERRUPTED, p->stop_text);
                        }
                dataport_kick(p);
        }
}

/* Does what is next for the streams that wait. */
static void dataport_kick(Dataport *p)
{
        uint64_t now;

        if (g_queue_is_empty(&p->waiting))
                return;
        switch (p->state) {
        case DATAPORT_CLOSED:
                now = fs_now_usec();
                if (p->connected_usec > 0 && now < p->connected_usec + CONNECT_GAP_USEC)
                        dataport_pause(p, p->connected_usec + CONNECT_GAP_USEC - now);
                else
                        dataport_ask(p);
                break;
        case DATAPORT_OPEN:
                dataport_give_all(p);
                break;
        case DATAPORT_ASKING:
        case DATAPORT_PAUSING:
        case DATAPORT_CONNECTING:
        case DATAPORT_STOPPING:
                break;
        }
}

/* --- the guest's side of this file --- */

Dataport *dataport_new(Guest *g)
{
        Dataport *p = g_new0(Dataport, 1);

        p->guest = g;
        p->streams = g_hash_table_new(g_int64_hash, g_int64_equal);
        g_queue_init(&p->waiting);
        g_queue_init(&p->ending);
        p->timer = loop_timer_new(loop_default(), on_timer, p);
        if (!p->timer)
                g_error("out of memory");
        return p;
}

Dataport *dataport_free(Dataport *p)
{
        GHashTableIter i;
        GuestStream *s;

        if (!p)
                return NULL;
        if (p->request)
                guest_cancel(p->guest, p->request);
        p->timer = loop_timer_free(p->timer);
        dataport_drop_thread(p);
        for (;;) {
                g_hash_table_iter_init(&i, p->streams);
                if (!g_hash_table_iter_next(&i, NULL, (void **)&s))
                        break;
                stream_close(s, s->error != WIRE_OK ? s->error : WIRE_INTERRUPTED,
                             s->text ?: "the guest is gone", 0, 0);
        }
        if (p->ending_source)
                (void)g_source_remove(p->ending_source);
        g_hash_table_unref(p->streams);
        g_free(p->stop_text);
        g_free(p);
        return NULL;
}

GuestStream *dataport_open_stream(Dataport *p, const GuestStreamConfig *config)
{
        GuestStream *s = g_new0(GuestStream, 1);

        *s = (GuestStream){ .port = p, .id = ++p->next_id, .config = *config };
        (void)g_hash_table_insert(p->streams, &s->id, s);
        g_queue_push_tail(&p->waiting, s);
        dataport_kick(p);
        return s;
}

void guest_stream_cancel(GuestStream *s, WireError error, const char *text)
{
        if (s->error != WIRE_OK)
                return;
        if (!s->is_given) {
                stream_end(s, error, text);
                return;
        }
        s->error = error;
        s->text = g_strdup(text);
        datathread_reset(s->port->thread, s->id, error, text);
}

void dataport_reset(Dataport *p, const char *why)
{
        if (p->request)
                guest_cancel(p->guest, p->request);
        p->request = 0;
        p->n_attempts = 0;
        loop_timer_set(p->timer, USEC_INFINITY, 0);
        dataport_end_waiting(p, WIRE_INTERRUPTED, why);
        if (!p->thread) {
                p->state = DATAPORT_CLOSED;
                return;
        }
        g_free(p->stop_text);
        p->stop_text = g_strdup(why);
        p->state = DATAPORT_STOPPING;
        datathread_stop(p->thread);
        loop_timer_set(p->timer, fs_now_usec() + STOP_TIMEOUT_USEC, 0);
}

void dataport_count(const Dataport *p, GuestCounters *c)
{
        DataCounters all = p->counters;

        if (p->thread)
                datathread_count(p->thread, &all);
        c->n_bytes_sent += all.n_bytes_sent;
        c->n_bytes_received += all.n_bytes_received;
        c->n_resyncs += all.n_resyncs;
        c->n_frames_dropped += all.n_frames_dropped;
        c->n_reconnects += p->n_reconnects;
}

size_t dataport_n_streams(const Dataport *p)
{
        return g_hash_table_size(p->streams);
}
