/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A Sender between hostd's order and its pipes.
 */

#include "worker/push.h"

#include <stdio.h>

#include "base/base.h"
#include "files/sender.h"
#include "proto/entry.h"
#include "proto/message.h"
#include "proto/name.h"
#include "worker/link.h"
#include "worker/pump.h"
#include "worker/reports.h"

typedef struct Push {
        Sender *sender;
        SenderSource source;
        const char *why;
        uint64_t told_bytes, told_files;
        Reports reports;
} Push;

static ssize_t on_fill(void *userdata, uint8_t *buf, size_t n)
{
        Push *p = userdata;

        return sender_fill(p->sender, buf, n);
}

static ssize_t on_feed(void *userdata, const uint8_t *data, size_t n)
{
        Push *p = userdata;
        int r = sender_feed(p->sender, data, n, &p->why);

        return r < 0 ? r : (ssize_t)n;
}

static void on_wait(void *userdata, int *ret_read_fd, int *ret_write_fd)
{
        const Push *p = userdata;

        *ret_read_fd = sender_fd(p->sender);
}

static json_object *on_progress(void *userdata)
{
        Push *p = userdata;
        const SenderProgress *s = sender_progress(p->sender);
        json_object *o;

        if (s->n_bytes == p->told_bytes && s->n_files == p->told_files)
                return NULL;
        p->told_bytes = s->n_bytes;
        p->told_files = s->n_files;
        o = link_packet_new("progress");
        link_put_size(o, "bytes", s->n_bytes);
        link_put_size(o, "files", s->n_files);
        link_put_size(o, "total_bytes", p->source.n_bytes);
        link_put_size(o, "total_files", p->source.n_files);
        link_put_size(o, "sent", s->n_bytes_sent);
        return o;
}

static void on_tell(void *userdata)
{
        Push *p = userdata;

        reports_flush(&p->reports);
}

static void on_reported(void *userdata, WireError error, const char *text, const char *path)
{
        Push *p = userdata;

        reports_add(&p->reports, error, text, path);
}

static bool on_is_done(void *userdata)
{
        const Push *p = userdata;

        return sender_progress(p->sender)->done;
}

static const PumpOps ops = {
        .fill = on_fill,
        .feed = on_feed,
        .wait_on = on_wait,
        .progress = on_progress,
        .tell = on_tell,
        .is_done = on_is_done,
};

static void send_found(const SenderSource *s)
{
        json_object *o = link_packet_new("found");

        (void)json_object_object_add(o, "tree", json_object_new_boolean(s->is_tree));
        (void)json_object_object_add(o, "stream", json_object_new_boolean(s->is_stream));
        link_put_size(o, "bytes", s->n_bytes);
        link_put_size(o, "files", s->n_files);
        if (s->name[0] && name_is_utf8(s->name, strlen(s->name)))
                (void)json_object_object_add(o, "name", json_object_new_string(s->name));
        link_put_size(o, "inode", s->inode);
        (void)json_object_object_add(o, "mtime_sec", json_object_new_int64(s->mtime_sec));
        link_put_size(o, "mtime_nsec", s->mtime_nsec);
        link_send(o);
}

static void set_expected(json_object *order, SenderConfig *config)
{
        json_object *e = message_obj(order, "expect");
        int64_t size;

        config->expect_size = SIZE_UNKNOWN;
        if (!e)
                return;
        size = message_int(e, "size", -1);
        if (size < 0)
                return;
        config->expect_size = (uint64_t)size;
        config->expect_inode = (uint64_t)message_int(e, "inode", 0);
        config->expect_mtime_sec = message_int(e, "mtime_sec", 0);
        config->expect_mtime_nsec = (uint32_t)message_int(e, "mtime_nsec", 0);
}

static void report(const Push *p, int r)
{
        const SenderProgress *s = sender_progress(p->sender);
        LinkResult result = {
                .error = s->error,
                .text = s->text,
                .path = s->path,
                .n_bytes = s->n_bytes,
                .n_files = s->n_files,
                .n_failed = s->n_failed,
                .has_digest = !p->source.is_tree && s->done && s->error == WIRE_OK && s->digest != 0,
                .digest = s->digest,
        };

        if (r == -EBADMSG)
                result.error = WIRE_PROTOCOL, result.text = p->why;
        else if (r == -ECANCELED)
                result.error = WIRE_CANCELLED, result.text = "Cancelled";
        else if (r < 0)
                result.error = WIRE_INTERRUPTED, result.text = "The connection to the guest was lost";
        link_send_done(&result);
}

void push_run(json_object *order, int fd)
{
        SenderConfig config = {
                .path = message_str(order, "path", NULL),
                .fd = fd,
                .preserve = message_bool(order, "preserve", false),
                .negotiate = message_bool(order, "negotiate", false),
        };
        _cleanup_free_ char *text = NULL;
        Push p = { .why = "" };
        WireError error;
        int r = 0;

        if (fd < 0 && (!config.path || !name_is_absolute_path(config.path))) {
                link_send_done(&(LinkResult){ .error = WIRE_INVALID_PATH,
                                              .text = "A source is an absolute path without . and .." });
                return;
        }
        config.reported = on_reported;
        config.userdata = &p;
        set_expected(order, &config);
        error = sender_new(&config, &p.sender, &text);
        if (error != WIRE_OK) {
                link_send_done(&(LinkResult){ .error = error, .text = text, .path = config.path });
                return;
        }
        while (r >= 0 && sender_scan(p.sender, &p.source) > 0)
                r = pump_check();
        if (r >= 0) {
                p.reports.is_tree = p.source.is_tree;
                send_found(&p.source);
                r = pump_run(&ops, &p);
        }
        reports_flush(&p.reports);
        report(&p, r);
        (void)sender_free(p.sender);
}
