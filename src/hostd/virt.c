/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The connection to libvirt. One thread makes all calls, from a queue; libvirt's own events come through
 * libvirt-glib on the main context (libvirt dispatches them there, except for the close callback, which may
 * come on either thread). Everything is handed over as news, a source of the main context each, so that
 * order is kept. Events of libvirt hold a reference to the Virt, and after virt_free() nobody is told any
 * more.
 */

#include <glib.h>
#include <json-c/json.h>
#include <libvirt-glib/libvirt-glib.h>
#include <libvirt/libvirt-qemu.h>
#include <libxml/parser.h>

#include "base/escape.h"
#include "hostd/domain-xml.h"
#include "hostd/log.h"
#include "hostd/virt-private.h"

#define LIST_CHUNK 64
/* A libvirtd that stands still is taken for lost after that many seconds times tries. */
#define KEEPALIVE_SEC 5
#define KEEPALIVE_TRIES 5
#define END_USEC                                                                                            \
        (1 * USEC_PER_SEC) /* for a call that is under way when we end; a frozen libvirtd takes longer */

typedef struct Task Task;
typedef struct News News;

struct Virt {
        gint n_refs;
        const VirtOps *ops; /* main thread; NULL: freed */
        void *userdata;
        GAsyncQueue *tasks;
        GThread *thread;
        GMutex lock;
        GCond ended;
        bool has_ended;

        /* The libvirt thread's. */
        char *uri, *control_channel, *data_channel;
        virConnectPtr conn;
        int callbacks[8];
        size_t n_callbacks;
        bool stop;
};

struct Task {
        void (*run)(Virt *v, Task *t);
        char *uuid, *control_channel, *data_channel;
        bool enable, dry_run;
        VirtChannelsDone done;
        void *userdata;
};

struct News {
        Virt *virt;
        void (*tell)(Virt *v, News *n);
        char *uuid, *text;
        WireError error;
        VirtEvent event;
        GPtrArray *domains;
        bool last;
        VirtChannels channels;
        VirtChannelsDone done;
        void *userdata;
};

static Virt *virt_ref(Virt *v)
{
        g_atomic_int_inc(&v->n_refs);
        return v;
}

static void virt_unref(void *p)
{
        Virt *v = p;

        if (!g_atomic_int_dec_and_test(&v->n_refs))
                return;
        g_async_queue_unref(v->tasks);
        g_mutex_clear(&v->lock);
        g_cond_clear(&v->ended);
        g_free(v->uri);
        g_free(v->control_channel);
        g_free(v->data_channel);
        g_free(v);
}

static void task_free(void *p)
{
        Task *t = p;

        g_free(t->uuid);
        g_free(t->control_channel);
        g_free(t->data_channel);
        g_free(t);
}

static void task_push(Virt *v, Task task)
{
        g_async_queue_push(v->tasks, g_memdup2(&task, sizeof(task)));
}

static void task_push_front(Virt *v, Task task)
{
        g_async_queue_push_front(v->tasks, g_memdup2(&task, sizeof(task)));
}

static void news_free(void *p)
{
        News *n = p;

        g_free(n->uuid);
        free(n->text);
        g_free(n->channels.text);
        g_free(n->channels.diff);
        if (n->domains)
                g_ptr_array_unref(n->domains);
        virt_unref(n->virt);
        g_free(n);
}

static gboolean news_arrive(gpointer userdata)
{
        News *n = userdata;

        if (n->virt->ops)
                n->tell(n->virt, n);
        return G_SOURCE_REMOVE;
}

static void news_post(Virt *v, News news)
{
        GSource *source = g_idle_source_new();
        News *n = g_memdup2(&news, sizeof(news));

        n->virt = virt_ref(v);
        g_source_set_priority(source, G_PRIORITY_DEFAULT);
        g_source_set_callback(source, news_arrive, n, news_free);
        g_source_attach(source, NULL);
        g_source_unref(source);
}

char *virt_error_text(void)
{
        const char *text = virGetLastErrorMessage();

        return escape_text(text, strlen(text), 400);
}

WireError virt_error(void)
{
        switch (virGetLastErrorCode()) {
        case VIR_ERR_NO_DOMAIN:
                return WIRE_NO_SUCH_GUEST;
        case VIR_ERR_NO_SUPPORT:
        case VIR_ERR_CONFIG_UNSUPPORTED:
        case VIR_ERR_OPERATION_UNSUPPORTED:
                return WIRE_UNSUPPORTED;
        case VIR_ERR_OPERATION_DENIED:
        case VIR_ERR_ACCESS_DENIED:
        case VIR_ERR_AUTH_FAILED:
        case VIR_ERR_AUTH_CANCELLED:
                return WIRE_PERMISSION_DENIED;
        case VIR_ERR_OPERATION_TIMEOUT:
                return WIRE_TIMEOUT;
        default:
                return WIRE_FAILED;
        }
}

/* --- events --- */

static void tell_event(Virt *v, News *n)
{
        v->ops->event(v->userdata, n->uuid, n->event, n->text);
}

static void tell_closed(Virt *v, News *n)
{
        v->ops->closed(v->userdata, n->text);
}

static void post_event(Virt *v, virDomainPtr dom, VirtEvent event, const char *alias)
{
        char uuid[VIR_UUID_STRING_BUFLEN];

        if (virDomainGetUUIDString(dom, uuid) < 0)
                return;
        news_post(v, (News){ .tell = tell_event,
                             .uuid = g_strdup(uuid),
                             .event = event,
                             .text = alias ? strdup(alias) : NULL });
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *opaque)
{
        post_event(opaque, dom, event == VIR_DOMAIN_EVENT_RESUMED ? VIRT_EVENT_RESUMED : VIRT_EVENT_CHANGED,
                   NULL);
        return 0;
}

static void on_reboot(virConnectPtr conn, virDomainPtr dom, void *opaque)
{
        post_event(opaque, dom, VIRT_EVENT_REBOOTED, NULL);
}

static void on_device(virConnectPtr conn, virDomainPtr dom, const char *alias, void *opaque)
{
        post_event(opaque, dom, VIRT_EVENT_CHANGED, NULL);
}

static void on_monitor_event(virConnectPtr conn, virDomainPtr dom, const char *event, long long seconds,
                             unsigned micros, const char *details, void *opaque)
{
        json_object *o = details ? json_tokener_parse(details) : NULL, *id = NULL, *open = NULL;

        if (json_object_object_get_ex(o, "id", &id) && json_object_object_get_ex(o, "open", &open) &&
            json_object_is_type(id, json_type_string))
                post_event(opaque, dom,
                           json_object_get_boolean(open) ? VIRT_EVENT_PORT_OPENED : VIRT_EVENT_PORT_CLOSED,
                           json_object_get_string(id));
        json_object_put(o);
}

static void on_close(virConnectPtr conn, int reason, void *opaque)
{
        static const char *const reasons[] = {
                [VIR_CONNECT_CLOSE_REASON_ERROR] = "the connection failed",
                [VIR_CONNECT_CLOSE_REASON_EOF] = "libvirtd has ended",
                [VIR_CONNECT_CLOSE_REASON_KEEPALIVE] = "libvirtd does not answer",
                [VIR_CONNECT_CLOSE_REASON_CLIENT] = "the connection was closed",
        };

        news_post(opaque, (News){ .tell = tell_closed,
                                  .text = strdup(reason >= 0 && (size_t)reason < ELEMENTSOF(reasons)
                                                         ? reasons[reason]
                                                         : "unknown") });
}

static void on_error(void *userdata, virErrorPtr error)
{
        /* Errors are told where they are met; libvirt's own handler would print them as well. */
}

/* --- on the libvirt thread --- */

static void conn_subscribe(Virt *v, int id, virConnectDomainEventGenericCallback callback)
{
        int r = virConnectDomainEventRegisterAny(v->conn, NULL, id, callback, virt_ref(v), virt_unref);

        if (r >= 0)
                v->callbacks[v->n_callbacks++] = r;
        else
                virt_unref(v); /* libvirt calls the free function only for what it took */
}

static void conn_close(Virt *v)
{
        if (!v->conn)
                return;
        (void)virConnectUnregisterCloseCallback(v->conn, on_close);
        for (size_t i = 0; i < v->n_callbacks; i++)
                (void)virConnectDomainEventDeregisterAny(v->conn, v->callbacks[i]);
        v->n_callbacks = 0;
        (void)virConnectClose(v->conn);
        v->conn = NULL;
}

static void tell_opened(Virt *v, News *n)
{
        v->ops->opened(v->userdata, n->error, n->text);
}

static void task_connect(Virt *v, Task *t)
{
        int r;

        conn_close(v);
        v->conn = virConnectOpen(v->uri);
        if (!v->conn) {
                news_post(v, (News){ .tell = tell_opened, .error = WIRE_FAILED, .text = virt_error_text() });
                return;
        }
        /* Not every driver has keepalive, a close callback and each event. */
        (void)virConnectSetKeepAlive(v->conn, KEEPALIVE_SEC, KEEPALIVE_TRIES);
        /* Without a reference: conn_close() ends it, and a driver that has none takes it and never frees it.
         */
        (void)virConnectRegisterCloseCallback(v->conn, on_close, v, NULL);
        conn_subscribe(v, VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle));
        conn_subscribe(v, VIR_DOMAIN_EVENT_ID_REBOOT, VIR_DOMAIN_EVENT_CALLBACK(on_reboot));
        conn_subscribe(v, VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, VIR_DOMAIN_EVENT_CALLBACK(on_device));
        conn_subscribe(v, VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, VIR_DOMAIN_EVENT_CALLBACK(on_device));
        r = virConnectDomainQemuMonitorEventRegister(v->conn, NULL, "VSERPORT_CHANGE", on_monitor_event,
                                                     virt_ref(v), virt_unref, 0);
        if (r < 0)
                virt_unref(v);
        news_post(v, (News){ .tell = tell_opened, .error = WIRE_OK });
}

static DomainState state_from_libvirt(int state)
{
        switch (state) {
        case VIR_DOMAIN_SHUTOFF:
                return DOMAIN_OFF;
        case VIR_DOMAIN_PAUSED:
        case VIR_DOMAIN_PMSUSPENDED:
        case VIR_DOMAIN_CRASHED:
                return DOMAIN_PAUSED;
        default:
                return DOMAIN_RUNNING;
        }
}

/* NULL: it is gone, or cannot be told; a domain that is not understood must not look like one that is off.
 */
static Domain *domain_read(const Virt *v, virDomainPtr dom)
{
        _cleanup_(domain_freep) Domain *d = domain_new();
        char uuid[VIR_UUID_STRING_BUFLEN];
        int state, reason;

        if (virDomainGetUUIDString(dom, uuid) < 0 || virDomainGetState(dom, &state, &reason, 0) < 0)
                return NULL;
        d->uuid = g_strdup(uuid);
        d->name = g_strdup(virDomainGetName(dom));
        d->id = (int)virDomainGetID(dom);
        d->state = d->id < 0 ? DOMAIN_OFF : state_from_libvirt(state);
        if (d->state == DOMAIN_OFF)
                d->id = -1;
        else {
                _cleanup_free_ char *xml = virDomainGetXMLDesc(dom, 0);

                if (xml)
                        domain_xml_read_channels(d, xml, v->control_channel, v->data_channel);
                else if (virt_error() == WIRE_NO_SUCH_GUEST || virConnectIsAlive(v->conn) != 1)
                        return NULL;
                else
                        d->channel_reason = g_strdup("libvirt does not tell its XML");
        }
        return TAKE(d);
}

static void tell_listed(Virt *v, News *n)
{
        v->ops->listed(v->userdata, (Domain *const *)n->domains->pdata, n->domains->len, n->last);
}

static void domain_free_void(void *p)
{
        domain_free(p);
}

static void task_list(Virt *v, Task *t)
{
        GPtrArray *chunk = g_ptr_array_new_with_free_func(domain_free_void);
        virDomainPtr *list = NULL;
        int n = v->conn ? virConnectListAllDomains(v->conn, &list, 0) : -1;

        if (n < 0) {
                g_ptr_array_unref(chunk);
                if (v->conn)
                        news_post(v, (News){ .tell = tell_closed, .text = virt_error_text() });
                return;
        }
        for (int i = 0; i < n; i++) {
                Domain *d = domain_read(v, list[i]);

                if (d)
                        g_ptr_array_add(chunk, d);
                virt_domain_freep(&list[i]);
                if (chunk->len == LIST_CHUNK) {
                        news_post(v, (News){ .tell = tell_listed, .domains = chunk });
                        chunk = g_ptr_array_new_with_free_func(domain_free_void);
                }
        }
        free(list);
        news_post(v,
                  (News){ .tell = tell_listed, .domains = chunk, .last = virConnectIsAlive(v->conn) == 1 });
}

static void tell_refreshed(Virt *v, News *n)
{
        v->ops->refreshed(v->userdata, n->uuid, n->domains->len > 0 ? n->domains->pdata[0] : NULL);
}

static void task_refresh(Virt *v, Task *t)
{
        _cleanup_(virt_domain_freep) virDomainPtr dom = NULL;
        GPtrArray *one;
        Domain *d;

        if (!v->conn)
                return;
        dom = virDomainLookupByUUIDString(v->conn, t->uuid);
        d = dom ? domain_read(v, dom) : NULL;
        if (!d && virt_error() != WIRE_NO_SUCH_GUEST) {
                news_post(v, (News){ .tell = tell_closed, .text = virt_error_text() });
                return;
        }
        one = g_ptr_array_new_with_free_func(domain_free_void);
        if (d)
                g_ptr_array_add(one, d);
        news_post(v, (News){ .tell = tell_refreshed, .uuid = TAKE(t->uuid), .domains = one });
}

static void task_set_channels(Virt *v, Task *t)
{
        g_free(v->control_channel);
        g_free(v->data_channel);
        v->control_channel = TAKE(t->control_channel);
        v->data_channel = TAKE(t->data_channel);
}

static void tell_channels(Virt *v, News *n)
{
        n->done(n->userdata, n->channels.error, n->channels.text, n->channels.live, n->channels.diff);
}

static void task_enable_channels(Virt *v, Task *t)
{
        news_post(v, (News){ .tell = tell_channels,
                             .done = t->done,
                             .userdata = t->userdata,
                             .channels = virt_channels_apply(v->conn, t->uuid, t->enable, t->dry_run,
                                                             v->control_channel, v->data_channel) });
}

static void task_stop(Virt *v, Task *t)
{
        conn_close(v);
        v->stop = true;
}

static void *virt_thread(void *userdata)
{
        Virt *v = userdata;

        virSetErrorFunc(NULL, on_error);
        while (!v->stop) {
                Task *t = g_async_queue_pop(v->tasks);

                t->run(v, t);
                task_free(t);
        }
        g_mutex_lock(&v->lock);
        v->has_ended = true;
        g_cond_signal(&v->ended);
        g_mutex_unlock(&v->lock);
        virt_unref(v);
        return NULL;
}

/* --- on the main thread --- */

Virt *virt_new(const char *uri, const char *control_channel, const char *data_channel, const VirtOps *ops,
               void *userdata)
{
        static bool registered;
        Virt *v = g_new0(Virt, 1);

        if (!registered) {
                xmlInitParser(); /* before a second thread parses */
                gvir_event_register();
                registered = true;
        }
        *v = (Virt){
                .n_refs = 2,
                .ops = ops,
                .userdata = userdata,
                .tasks = g_async_queue_new_full(task_free),
                .uri = g_strdup(uri),
                .control_channel = g_strdup(control_channel),
                .data_channel = g_strdup(data_channel),
        };
        g_mutex_init(&v->lock);
        g_cond_init(&v->ended);
        v->thread = g_thread_new("libvirt", virt_thread, v);
        return v;
}

Virt *virt_free(Virt *v)
{
        gint64 until;
        bool has_ended;

        if (!v)
                return NULL;
        v->ops = NULL;
        task_push_front(v, (Task){ .run = task_stop });
        until = g_get_monotonic_time() + (gint64)END_USEC;
        g_mutex_lock(&v->lock);
        while (!v->has_ended && g_cond_wait_until(&v->ended, &v->lock, until))
                ;
        has_ended = v->has_ended;
        g_mutex_unlock(&v->lock);
        if (has_ended)
                (void)g_thread_join(v->thread);
        else
                g_thread_unref(v->thread);
        virt_unref(v);
        return NULL;
}

void virt_set_channels(Virt *v, const char *control_channel, const char *data_channel)
{
        task_push(v, (Task){ .run = task_set_channels,
                             .control_channel = g_strdup(control_channel),
                             .data_channel = g_strdup(data_channel) });
}

void virt_connect(Virt *v)
{
        task_push(v, (Task){ .run = task_connect });
}

void virt_list(Virt *v)
{
        task_push(v, (Task){ .run = task_list });
}

void virt_refresh(Virt *v, const char *uuid)
{
        task_push(v, (Task){ .run = task_refresh, .uuid = g_strdup(uuid) });
}

void virt_enable_channels(Virt *v, const char *uuid, bool enable, bool dry_run, VirtChannelsDone done,
                          void *userdata)
{
        task_push(v, (Task){ .run = task_enable_channels,
                             .uuid = g_strdup(uuid),
                             .enable = enable,
                             .dry_run = dry_run,
                             .done = done,
                             .userdata = userdata });
}
