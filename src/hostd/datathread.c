/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Commands go down through a queue and an eventfd that wakes the carrier's poll(2); news comes up as sources
 * of the default main context, which keeps their order. json_object counts its references without atomics,
 * so JSON is handed over whole or copied, never shared.
 */

#include "hostd/datathread.h"

#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/random.h>

#include "base/base.h"
#include "base/escape.h"
#include "carrier/carrier.h"

#define LINGER_USEC (2 * USEC_PER_SEC)
#define TEXT_MAX 1024u /* of what a guest says about a failure */

typedef enum CommandType { COMMAND_OPEN, COMMAND_RESET, COMMAND_STOP } CommandType;

typedef struct Command {
        CommandType type;
        uint64_t stream;
        json_object *params;
        int in_fd, out_fd;
        bool watched;
        WireError error;
        char *text;
} Command;

typedef enum NewsType {
        NEWS_UP,
        NEWS_OPENED,
        NEWS_REFUSED,
        NEWS_HALF,
        NEWS_CLOSED,
        NEWS_SILENT,
        NEWS_ENDED
} NewsType;

typedef struct News {
        NewsType type;
        DataThread *thread;
        uint64_t stream;
        json_object *json;
        int in_fd, out_fd;
        WireError error;
        char *text;
        bool local;
        uint64_t n_in, n_out;
        int result;
} News;

struct DataThread {
        atomic_uint n_refs; /* the main thread's, the thread's own, one for each news under way */
        GAsyncQueue *commands;
        int wake_fd;
        _Atomic uint64_t n_sent, n_received, n_resyncs, n_dropped;

        /* main thread */
        const DataThreadOps *ops; /* NULL: detached */
        void *userdata;

        /* the thread */
        Carrier *carrier;
        GHashTable *streams; /* ThreadStream by id */
};

typedef struct ThreadStream {
        uint64_t id;
        DataThread *thread;
        uint32_t carrier_id;
} ThreadStream;

static void command_free(void *p)
{
        Command *c = p;

        json_object_put(c->params);
        (void)fd_close(c->in_fd);
        if (c->out_fd != c->in_fd)
                (void)fd_close(c->out_fd);
        free(c->text);
        g_free(c);
}

static void datathread_unref(DataThread *t)
{
        if (atomic_fetch_sub(&t->n_refs, 1) > 1)
                return;
        g_async_queue_unref(t->commands); /* frees what nobody took */
        (void)fd_close(t->wake_fd);
        g_free(t);
}

/* --- news, from the thread to the main thread --- */

static void news_free(void *p)
{
        News *n = p;

        json_object_put(n->json);
        (void)fd_close(n->in_fd);
        if (n->out_fd != n->in_fd)
                (void)fd_close(n->out_fd);
        free(n->text);
        datathread_unref(n->thread);
        g_free(n);
}

/* The thread has taken its last command: the others come back. */
static void datathread_refuse_rest(DataThread *t)
{
        Command *c;

        while (t->ops && (c = g_async_queue_try_pop(t->commands))) {
                if (c->type == COMMAND_OPEN) {
                        int in_fd = TAKE_FD(c->in_fd), out_fd = TAKE_FD(c->out_fd);

                        t->ops->refused(t->userdata, c->stream, TAKE(c->params), in_fd, out_fd);
                }
                command_free(c);
        }
}

static int on_news(void *p)
{
        News *n = p;
        DataThread *t = n->thread;
        int in_fd, out_fd;

        if (!t->ops)
                return G_SOURCE_REMOVE;
        switch (n->type) {
        case NEWS_UP:
                t->ops->up(t->userdata);
                break;
        case NEWS_OPENED:
                t->ops->opened(t->userdata, n->stream, n->json);
                break;
        case NEWS_REFUSED:
                in_fd = TAKE_FD(n->in_fd);
                out_fd = TAKE_FD(n->out_fd);
                t->ops->refused(t->userdata, n->stream, TAKE(n->json), in_fd, out_fd);
                break;
        case NEWS_HALF:
                t->ops->half(t->userdata, n->stream);
                break;
        case NEWS_CLOSED:
                t->ops->closed(t->userdata, n->stream, n->error, n->text ?: "", n->local, n->n_in, n->n_out);
                break;
        case NEWS_SILENT:
                t->ops->silent(t->userdata);
                break;
        case NEWS_ENDED:
                datathread_refuse_rest(t);
                if (t->ops)
                        t->ops->ended(t->userdata, n->result);
                break;
        }
        return G_SOURCE_REMOVE;
}

static News *news_new(DataThread *t, NewsType type, uint64_t stream)
{
        News *n = g_new0(News, 1);

        *n = (News){ .type = type, .thread = t, .stream = stream, .in_fd = -EBADF, .out_fd = -EBADF };
        atomic_fetch_add(&t->n_refs, 1);
        return n;
}

static void news_send(News *n)
{
        GSource *source = g_idle_source_new();

        g_source_set_priority(source, G_PRIORITY_DEFAULT);
        g_source_set_callback(source, on_news, n, news_free);
        (void)g_source_attach(source, NULL);
        g_source_unref(source);
}

/* --- the thread --- */

static void on_stream_opened(void *userdata, json_object *reply)
{
        ThreadStream *ts = userdata;
        News *n = news_new(ts->thread, NEWS_OPENED, ts->id);

        if (json_object_deep_copy(reply, &n->json, NULL) < 0)
                n->json = json_object_new_object();
        news_send(n);
}

static void on_stream_ended(void *userdata)
{
        ThreadStream *ts = userdata;

        news_send(news_new(ts->thread, NEWS_HALF, ts->id));
}

static void on_stream_closed(void *userdata, WireError error, const char *text, bool local, uint64_t n_in,
                             uint64_t n_out)
{
        ThreadStream *ts = userdata;
        News *n = news_new(ts->thread, NEWS_CLOSED, ts->id);

        n->error = error;
        n->text = local ? strdup(text) : escape_text(text, strlen(text), TEXT_MAX);
        n->local = local;
        n->n_in = n_in;
        n->n_out = n_out;
        news_send(n);
        (void)g_hash_table_remove(ts->thread->streams, &ts->id);
}

static void datathread_do_open(DataThread *t, Command *c)
{
        const EndpointOps *ops;
        ThreadStream *ts;
        void *endpoint;
        News *n;
        int r;

        /* Asked first: an endpoint would change the descriptors and end them. */
        if (carrier_keep(t->carrier) < 0) {
                n = news_new(t, NEWS_REFUSED, c->stream);
                n->json = TAKE(c->params);
                n->in_fd = TAKE_FD(c->in_fd);
                n->out_fd = TAKE_FD(c->out_fd);
                news_send(n);
                return;
        }
        ts = g_new0(ThreadStream, 1);
        *ts = (ThreadStream){ .id = c->stream, .thread = t };
        g_hash_table_insert(t->streams, &ts->id, ts);
        r = endpoint_fd_new(c->in_fd, c->out_fd, on_stream_opened, on_stream_closed, ts, &ops, &endpoint);
        c->in_fd = c->out_fd = -EBADF;
        if (r < 0) {
                on_stream_closed(ts, WIRE_LIMITS_EXCEEDED, "out of memory", true, 0, 0);
                return;
        }
        if (c->watched)
                endpoint_fd_watch(endpoint, on_stream_ended);
        r = carrier_open_stream(t->carrier, c->params, ops, endpoint, &ts->carrier_id);
        if (r == -ENOTCONN)
                ops->closed(endpoint, WIRE_INTERRUPTED, "the connection is about to end", true);
        else if (r == -ENOBUFS)
                ops->closed(endpoint, WIRE_LIMITS_EXCEEDED, "too many streams are open", true);
        else if (r < 0)
                ops->closed(endpoint, wire_error_from_errno(-r), strerror(-r), true);
}

static void datathread_do(DataThread *t, Command *c)
{
        ThreadStream *ts;

        switch (c->type) {
        case COMMAND_OPEN:
                datathread_do_open(t, c);
                break;
        case COMMAND_RESET:
                ts = g_hash_table_lookup(t->streams, &c->stream);
                if (ts)
                        (void)carrier_reset_stream(t->carrier, ts->carrier_id, c->error, c->text ?: "");
                break;
        case COMMAND_STOP:
                carrier_stop(t->carrier);
                break;
        }
}

static void on_turn(void *userdata, bool woken)
{
        DataThread *t = userdata;
        const SessionCounters *counters = carrier_counters(t->carrier);
        uint64_t unused;
        Command *c;

        atomic_store_explicit(&t->n_sent, counters->n_bytes_sent, memory_order_relaxed);
        atomic_store_explicit(&t->n_received, counters->n_bytes_received, memory_order_relaxed);
        atomic_store_explicit(&t->n_resyncs, counters->frames.n_resync, memory_order_relaxed);
        atomic_store_explicit(&t->n_dropped, counters->n_frames_dropped, memory_order_relaxed);
        if (!woken)
                return;
        (void)!read(t->wake_fd, &unused, sizeof(unused));
        while ((c = g_async_queue_try_pop(t->commands))) {
                datathread_do(t, c);
                command_free(c);
        }
}

static void on_up(void *userdata)
{
        news_send(news_new(userdata, NEWS_UP, 0));
}

static bool on_silent(void *userdata)
{
        news_send(news_new(userdata, NEWS_SILENT, 0));
        return false; /* a paused domain says nothing either: the main thread knows */
}

static const CarrierOps carrier_ops = {
        .up = on_up,
        .turn = on_turn,
        .silent = on_silent,
};

static void *datathread_main(void *userdata)
{
        DataThread *t = userdata;
        News *n;
        int r;

        r = carrier_run(t->carrier);
        on_turn(t, false);
        t->carrier = carrier_free(t->carrier);
        g_hash_table_unref(t->streams);
        n = news_new(t, NEWS_ENDED, 0);
        n->result = r;
        news_send(n);
        datathread_unref(t);
        return NULL;
}

static void session_random(void *userdata, void *buf, size_t n)
{
        uint8_t *p = buf;

        while (n > 0) {
                ssize_t r = getrandom(p, n, 0);

                if (r < 0)
                        continue; /* EINTR: the pool is ready once the host runs services */
                p += r;
                n -= (size_t)r;
        }
}

/* --- the main thread --- */

static int datathread_carrier(DataThread *t, int port_fd)
{
        SessionConfig session = { .role = SESSION_HOST, .port = SESSION_DATA, .random = session_random };
        CarrierConfig config = {
                .is_host = true,
                .port_fd = port_fd,
                .wake_fd = t->wake_fd,
                .linger_usec = LINGER_USEC,
                .ops = &carrier_ops,
                .userdata = t,
        };
        int r;

        r = session_new(&session, &config.session);
        if (r < 0) {
                (void)fd_close(port_fd);
                return r;
        }
        return carrier_new(&config, &t->carrier);
}

int datathread_start(int port_fd, const DataThreadOps *ops, void *userdata, DataThread **ret)
{
        int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), r;
        sigset_t all, before;
        GThread *thread;
        DataThread *t;

        if (wake_fd < 0) {
                r = -errno;
                (void)fd_close(port_fd);
                return r;
        }
        t = g_new0(DataThread, 1);
        t->n_refs = 1;
        t->commands = g_async_queue_new_full(command_free);
        t->wake_fd = wake_fd;
        t->ops = ops;
        t->userdata = userdata;
        r = datathread_carrier(t, port_fd);
        if (r < 0) {
                datathread_unref(t);
                return r;
        }
        t->streams = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);

        /* Signals are the main thread's. */
        t->n_refs = 2;
        sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        thread = g_thread_try_new("vmferry-data", datathread_main, t, NULL);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!thread) {
                t->carrier = carrier_free(t->carrier);
                g_hash_table_unref(t->streams);
                t->n_refs = 1;
                datathread_unref(t);
                return -EAGAIN;
        }
        g_thread_unref(thread); /* nobody joins it: its last news does */
        *ret = t;
        return 0;
}

static void datathread_command(DataThread *t, CommandType type, uint64_t stream, json_object *params,
                               int in_fd, int out_fd, bool watched, WireError error, const char *text)
{
        Command *c = g_new0(Command, 1);
        uint64_t one = 1;

        *c = (Command){
                .type = type,
                .stream = stream,
                .params = params,
                .in_fd = in_fd,
                .out_fd = out_fd,
                .watched = watched,
                .error = error,
                .text = text ? strdup(text) : NULL,
        };
        g_async_queue_push(t->commands, c);
        (void)!write(t->wake_fd, &one, sizeof(one));
}

DataThread *datathread_detach(DataThread *t)
{
        if (!t)
                return NULL;
        datathread_stop(t);
        t->ops = NULL;
        datathread_unref(t);
        return NULL;
}

void datathread_open(DataThread *t, uint64_t stream, json_object *params, int in_fd, int out_fd,
                     bool watched)
{
        datathread_command(t, COMMAND_OPEN, stream, params, in_fd, out_fd, watched, WIRE_OK, NULL);
}

void datathread_reset(DataThread *t, uint64_t stream, WireError error, const char *text)
{
        datathread_command(t, COMMAND_RESET, stream, NULL, -EBADF, -EBADF, false, error, text);
}

void datathread_stop(DataThread *t)
{
        datathread_command(t, COMMAND_STOP, 0, NULL, -EBADF, -EBADF, false, WIRE_OK, NULL);
}

void datathread_count(const DataThread *t, DataCounters *c)
{
        c->n_bytes_sent += atomic_load_explicit(&t->n_sent, memory_order_relaxed);
        c->n_bytes_received += atomic_load_explicit(&t->n_received, memory_order_relaxed);
        c->n_resyncs += atomic_load_explicit(&t->n_resyncs, memory_order_relaxed);
        c->n_frames_dropped += atomic_load_explicit(&t->n_dropped, memory_order_relaxed);
}
