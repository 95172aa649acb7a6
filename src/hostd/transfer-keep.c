/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Transfers that outlive hostd, and those that wait in the queue before they begin. What is written down is
 * the request and what the source was; how far it came is found out from what lies at the destination.
 */

#include "hostd/transfer-private.h"

#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/fdstore.h"
#include "hostd/log.h"
#include "proto/message.h"
#include "proto/name.h"

static void put_str(json_object *o, const char *key, const char *value)
{
        if (value)
                json_object_object_add(o, key, json_object_new_string(value));
}

static void put_int(json_object *o, const char *key, int64_t value)
{
        json_object_object_add(o, key, json_object_new_int64(value));
}

static void put_bool(json_object *o, const char *key, bool value)
{
        json_object_object_add(o, key, json_object_new_boolean(value));
}

void transfer_fd_name(const Job *j, char ret[static 32])
{
        (void)snprintf(ret, 32, "job-%" PRIu32, j->id);
}

json_object *transfer_params_format(const Transfer *t)
{
        const Source *s = &t->source;
        json_object *o = json_object_new_object();

        put_str(o, "host_path", t->host_path);
        put_str(o, "guest_path", t->guest_path);
        put_str(o, "owner", t->owner);
        put_str(o, "overwrite", t->overwrite);
        if (t->options.mode != UINT32_MAX)
                put_int(o, "mode", t->options.mode);
        put_bool(o, "preserve", t->options.preserve);
        put_bool(o, "contents", t->options.contents);
        put_bool(o, "resume", t->options.resume);
        put_bool(o, "fd", t->has_fd);
        if (t->has_fd)
                put_int(o, "fd_offset", t->fd_offset);
        if (s->known) {
                json_object *source = json_object_new_object();
                put_bool(source, "tree", s->is_tree);
                put_str(source, "name", t->name);
                if (s->n_bytes <= INT64_MAX)
                        put_int(source, "bytes", (int64_t)s->n_bytes);
                put_int(source, "inode", (int64_t)s->inode);
                put_int(source, "mtime_sec", s->mtime_sec);
                put_int(source, "mtime_nsec", s->mtime_nsec);
                json_object_object_add(o, "source", source);
        }
        return o;
}

void transfer_keep(Transfer *t)
{
        const StoreItem *before = job_kept(t->job);
        char name[32];

        if (!t->options.resume || t->source.is_stream || (t->has_fd && !t->fd_is_file))
                return;
        if (t->has_fd && !before) {
                transfer_fd_name(t->job, name);
                if (fdstore_put(name, t->fd) < 0)
                        return; /* it will end with us */
        }
        (void)jobs_keep(t->jobs, t->job, transfer_params_format(t),
                        /* A queued one that has begun no longer expires, but keeps its place. */
                        &(JobKeep){ .is_queued = before && before->is_queued,
                                    .created_at = before ? before->created_at : fs_realtime_usec(),
                                    .key = before ? before->key : NULL });
}

static void source_parse(json_object *o, Source *ret)
{
        int64_t n_bytes = message_int(o, "bytes", -1);

        *ret = (Source){
                .known = true,
                .is_tree = message_bool(o, "tree", false),
                .n_bytes = n_bytes < 0 ? UINT64_MAX : (uint64_t)n_bytes,
                .inode = (uint64_t)message_int(o, "inode", 0),
                .mtime_sec = message_int(o, "mtime_sec", 0),
                .mtime_nsec = (uint32_t)message_int(o, "mtime_nsec", 0),
        };
}

int transfer_restore(Jobs *js, const StoreItem *item, Job **ret)
{
        json_object *o = item->params, *source = message_obj(o, "source");
        const char *host_path = message_str(o, "host_path", NULL),
                   *guest_path = message_str(o, "guest_path", "");
        int64_t mode = message_int(o, "mode", -1);
        bool has_fd = message_bool(o, "fd", false), is_push = item->kind == JOB_PUSH;
        const char *shown = host_path ? host_path : "";
        TransferOptions options = {
                .mode = mode < 0 || mode > 07777 ? UINT32_MAX : (uint32_t)mode,
                .owner = message_str(o, "owner", NULL),
                .overwrite = message_str(o, "overwrite", "replace"),
                .preserve = message_bool(o, "preserve", false),
                .contents = message_bool(o, "contents", false),
                .resume = message_bool(o, "resume", true),
                .detach = true,
        };
        Transfer *t;
        Job *j;

        if (!name_is_absolute_path(guest_path) ||
            (!has_fd && (!host_path || !name_is_absolute_path(host_path))))
                return -EINVAL;
        t = transfer_make(js, has_fd ? NULL : host_path, -1, guest_path, &options);
        if (!t)
                return -ENOMEM;
        t->n_attempts = item->is_queued && !source ? 0 : 1;
        if (source) {
                source_parse(source, &t->source);
                t->name = g_strdup(message_str(source, "name", NULL));
        }
        j = jobs_restore(js, item, is_push ? shown : guest_path, is_push ? guest_path : shown, &transfer_ops,
                         t);
        if (!j)
                return -EINVAL;
        t->job = j;
        if (has_fd) {
                char name[32];

                transfer_fd_name(j, name);
                t->has_fd = t->fd_is_file = true;
                t->fd_offset = message_int(o, "fd_offset", 0);
                t->fd = fdstore_take(name); /* without it, the next attempt says so */
        }
        *ret = j;
        return 0;
}

WireError transfer_queue(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *host_path,
                         const char *guest_path, const TransferOptions *options, Job **ret,
                         json_object **ret_params, char **ret_text)
{
        bool is_push = kind == JOB_PUSH;
        WireError error = transfer_check(g, host_path, guest_path, ret_text);
        Transfer *t;

        if (error != WIRE_OK)
                return error;
        t = transfer_make(js, host_path, -1, guest_path, options);
        if (!t) {
                *ret_text = g_strdup("No memory");
                return WIRE_FAILED;
        }
        t->job = jobs_add_queued(js, kind, g, caller, is_push ? host_path : guest_path,
                                 is_push ? guest_path : host_path, &transfer_ops, t);
        *ret = t->job;
        *ret_params = transfer_params_format(t);
        return WIRE_OK;
}

static void on_sweep_packet(void *userdata, json_object *o)
{
}

static void on_sweep_ended(void *userdata)
{
        Opener **opener = userdata;

        *opener = opener_free(*opener);
        g_free(opener);
}

void transfer_sweep(const Transfer *t)
{
        static const OpenerOps ops = { .packet = on_sweep_packet, .ended = on_sweep_ended };
        json_object *o;
        int in_fd = -EBADF, out_fd = -EBADF;

        if (!t->host_path || t->job->kind != JOB_PULL || t->n_attempts == 0)
                return;
        Opener **opener = g_new0(Opener *, 1);
        if (opener_new(-1, &ops, opener, opener, &in_fd, &out_fd) < 0) {
                g_free(opener);
                return;
        }
        (void)fd_close(in_fd);
        (void)fd_close(out_fd);
        o = json_object_new_object();
        put_str(o, "do", "sweep");
        opener_identify(o, t->job->caller);
        put_str(o, "path", t->host_path);
        put_str(o, "name", t->name);
        put_str(o, "transfer", t->job->wire_id);
        put_bool(o, "tree", t->source.is_tree);
        if (opener_send(*opener, o) < 0)
                on_sweep_ended(opener);
}
