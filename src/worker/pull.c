/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A Receiver between hostd's order and its pipes. What was received stays for a resume unless hostd says
 * "cancel": a hostd that is gone, or a channel that is lost, will want to go on.
 */

#include "worker/pull.h"

#include "base/base.h"
#include "files/receiver.h"
#include "proto/entry.h"
#include "proto/message.h"
#include "worker/link.h"
#include "worker/pump.h"
#include "worker/reports.h"

typedef struct Pull {
        Receiver *receiver;
        bool is_tree;
        const char *why;
        uint64_t told_bytes, told_files;
        Reports reports;
} Pull;

static ssize_t on_fill(void *userdata, uint8_t *buf, size_t n)
{
        Pull *p = userdata;

        return receiver_fill(p->receiver, buf, n);
}

static ssize_t on_feed(void *userdata, const uint8_t *data, size_t n)
{
        Pull *p = userdata;

        return receiver_feed(p->receiver, data, n, &p->why);
}

static void on_wait(void *userdata, int *ret_read_fd, int *ret_write_fd)
{
        const Pull *p = userdata;

        *ret_write_fd = receiver_fd(p->receiver);
}

static json_object *on_progress(void *userdata)
{
        Pull *p = userdata;
        const ReceiverProgress *r = receiver_progress(p->receiver);
        json_object *o;

        if (r->n_bytes == p->told_bytes && r->n_files == p->told_files)
                return NULL;
        p->told_bytes = r->n_bytes;
        p->told_files = r->n_files;
        o = link_packet_new("progress");
        link_put_size(o, "bytes", r->n_bytes);
        link_put_size(o, "files", r->n_files);
        link_put_size(o, "total_bytes", r->total_bytes);
        link_put_size(o, "total_files", r->total_files);
        return o;
}

static void on_tell(void *userdata)
{
        Pull *p = userdata;

        reports_flush(&p->reports);
}

static void on_reported(void *userdata, WireError error, const char *text, const char *path)
{
        Pull *p = userdata;

        reports_add(&p->reports, error, text, path);
}

static bool on_is_done(void *userdata)
{
        const Pull *p = userdata;

        return receiver_progress(p->receiver)->done;
}

static const PumpOps ops = {
        .fill = on_fill,
        .feed = on_feed,
        .wait_on = on_wait,
        .progress = on_progress,
        .tell = on_tell,
        .is_done = on_is_done,
};

static void report(const Pull *p, int r)
{
        const ReceiverProgress *s = receiver_progress(p->receiver);
        LinkResult result = {
                .error = s->error,
                .text = s->text,
                .path = s->path,
                .n_bytes = s->n_bytes,
                .n_files = s->n_files,
                .n_failed = s->n_failed,
                .has_digest = !p->is_tree && s->done && s->error == WIRE_OK && s->digest != 0,
                .digest = s->digest,
        };

        if (r == -EBADMSG)
                result.text = p->why; /* the progress has the error's name */
        else if (r == -ECANCELED)
                result.error = WIRE_CANCELLED, result.text = "Cancelled";
        else if (r < 0)
                result.error = WIRE_INTERRUPTED, result.text = "The connection to the guest was lost";
        link_send_done(&result);
}

static ReceiverOverwrite parse_overwrite(const char *text)
{
        return str_eq(text, "fail")     ? OVERWRITE_FAIL
               : str_eq(text, "update") ? OVERWRITE_UPDATE
                                        : OVERWRITE_REPLACE;
}

/* Waits for what the guest said of the source. NULL: it never will. */
static json_object *receive_source(void)
{
        for (;;) {
                json_object *o;

                if (link_receive(true, &o) < 0)
                        return NULL;
                if (str_eq(message_str(o, "do", ""), "source"))
                        return o;
                if (str_eq(message_str(o, "do", ""), "cancel")) {
                        json_object_put(o);
                        link_send_done(&(LinkResult){ .error = WIRE_CANCELLED, .text = "Cancelled" });
                        return NULL;
                }
                json_object_put(o);
        }
}

void pull_run(json_object *order, int fd)
{
        ReceiverConfig config = {
                .path = message_str(order, "path", NULL),
                .fd = fd,
                .transfer_id = message_str(order, "transfer", ""),
                .preserve = message_bool(order, "preserve", false),
                .resume = message_bool(order, "resume", false),
                .overwrite = parse_overwrite(message_str(order, "overwrite", "replace")),
                .owner = message_str(order, "owner", NULL),
                .slash_makes = true,
        };
        int64_t mode = message_int(order, "mode", -1), n_bytes;
        json_object *source = receive_source();
        _cleanup_free_ char *text = NULL;
        Pull p = { .why = "" };
        WireError error;
        int r;

        if (!source) {
                (void)fd_close(fd);
                return;
        }
        n_bytes = message_int(source, "bytes", -1);
        config.name = message_str(source, "name", NULL);
        config.reported = on_reported;
        config.userdata = &p;
        config.is_tree = p.is_tree = p.reports.is_tree = message_bool(source, "tree", false);
        config.n_bytes = n_bytes < 0 ? SIZE_UNKNOWN : (uint64_t)n_bytes;
        config.mode = mode < 0 || mode > 07777 ? UINT32_MAX : (uint32_t)mode;
        config.keep_partial = message_bool(order, "keep", config.resume);
        error = receiver_new(&config, &p.receiver, &text);
        if (error != WIRE_OK) {
                link_send_done(&(LinkResult){ .error = error, .text = text, .path = config.path });
                json_object_put(source);
                return;
        }
        link_send(link_packet_new("opened"));
        r = pump_run(&ops, &p);
        if (r == 0 || r == -ECANCELED) /* hostd will know how it ended */
                receiver_give_up(p.receiver);
        reports_flush(&p.reports);
        report(&p, r);
        (void)receiver_free(p.receiver);
        json_object_put(source);
}
