/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What the host says is judged here before a Receiver or a Sender sees it: the verb, the id, the form of
 * paths and names. That a path lies beneath the policy's roots is theirs to enforce, on what they have open.
 */

#include "guestd/carry-transfer.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/base.h"
#include "base/escape.h"
#include "base/fs.h"
#include "files/receiver.h"
#include "files/sender.h"
#include "guestd/leftovers.h"
#include "proto/digest.h"
#include "proto/entry.h"
#include "proto/message.h"
#include "proto/name.h"

/* Of a tree, before the stream is accepted; the rest is counted beside other streams. */
#define SCAN_USEC (100 * USEC_PER_MSEC)
#define AUDIT_PATH_MAX 4096u

typedef struct Transfer {
        Receiver *receiver; /* push */
        Sender *sender;     /* pull */
        bool is_ended;      /* the peer says nothing more */
        char *id, *path;
        CarryAudit audit;
        void *userdata;
} Transfer;

static _printf_(1, 2) char *sentence(const char *format, ...)
{
        char *text = NULL;
        va_list args;

        va_start(args, format);
        if (vasprintf(&text, format, args) < 0)
                text = NULL;
        va_end(args);
        return text;
}

static Transfer *transfer_free(Transfer *t)
{
        if (!t)
                return NULL;
        (void)receiver_free(t->receiver);
        (void)sender_free(t->sender);
        free(t->id);
        free(t->path);
        free(t);
        return NULL;
}
DEFINE_CLEANUP(Transfer *, transfer_free);

static void transfer_audit(const Transfer *t, const char *verb, const char *result, const char *extra)
{
        _cleanup_free_ char *path = escape_text(t->path ?: "", strlen(t->path ?: ""), AUDIT_PATH_MAX);
        _cleanup_free_ char *details = NULL;

        if (asprintf(&details, "path=\"%s\"%s", path ?: "", extra) < 0)
                details = NULL;
        t->audit(t->userdata, verb, t->id ?: "", result, details ?: "");
}

/* --- endpoints --- */

static ssize_t push_fill(void *userdata, uint8_t *buf, size_t n, WireError *ret_error, const char **ret_text)
{
        Transfer *t = userdata;
        ssize_t r = receiver_fill(t->receiver, buf, n);

        /* Our half ends behind the host's, which knows then that nothing of the transfer is left here. */
        if (r == -ENODATA && receiver_progress(t->receiver)->done) {
                if (!t->is_ended)
                        return 0;
                receiver_give_up(t->receiver);
        }
        if (r != 0 || !t->is_ended)
                return r;
        *ret_error = WIRE_PROTOCOL;
        *ret_text = "the sender ended before its transfer did";
        return -EBADMSG;
}

static ssize_t push_drain(void *userdata, const uint8_t *data, size_t n, WireError *ret_error,
                          const char **ret_text)
{
        Transfer *t = userdata;
        ssize_t r = receiver_feed(t->receiver, data, n, ret_text);

        if (r < 0)
                *ret_error = receiver_progress(t->receiver)->error;
        return r;
}

static void push_wait_on(void *userdata, int *ret_fill_fd, int *ret_drain_fd)
{
        const Transfer *t = userdata;

        *ret_drain_fd = receiver_fd(t->receiver);
}

static void transfer_end(void *userdata)
{
        Transfer *t = userdata;

        t->is_ended = true;
}

static const char *transfer_result(WireError stream, WireError own)
{
        WireError error = stream != WIRE_OK ? stream : own;

        return error == WIRE_OK ? "ok" : wire_error_to_string(error);
}

static void push_closed(void *userdata, WireError error, const char *text, bool local)
{
        Transfer *t = userdata;
        const ReceiverProgress *p = receiver_progress(t->receiver);
        char digest[DIGEST_TEXT_SIZE], extra[160];

        /* What was only interrupted will be taken up again, even behind a DONE, which the host may not have
         * seen. */
        if (error != WIRE_INTERRUPTED)
                receiver_give_up(t->receiver);
        digest_format(p->digest, digest);
        (void)snprintf(extra, sizeof(extra), " bytes=%llu files=%llu failed=%llu digest=%s",
                       (unsigned long long)p->n_bytes, (unsigned long long)p->n_files,
                       (unsigned long long)p->n_failed, p->done && p->digest ? digest : "-");
        transfer_audit(t, "push", transfer_result(error, p->error), extra);
        if (error != WIRE_INTERRUPTED)
                leftovers_drop(t->id);
        (void)transfer_free(t);
}

static const EndpointOps push_ops = {
        .fill = push_fill,
        .drain = push_drain,
        .end = transfer_end,
        .wait_on = push_wait_on,
        .closed = push_closed,
};

static ssize_t pull_fill(void *userdata, uint8_t *buf, size_t n, WireError *ret_error, const char **ret_text)
{
        Transfer *t = userdata;
        ssize_t r = sender_fill(t->sender, buf, n);

        if (r != 0 || !t->is_ended)
                return r;
        *ret_error = WIRE_PROTOCOL;
        *ret_text = "the receiver ended before its transfer did";
        return -EBADMSG;
}

static ssize_t pull_drain(void *userdata, const uint8_t *data, size_t n, WireError *ret_error,
                          const char **ret_text)
{
        Transfer *t = userdata;
        int r = sender_feed(t->sender, data, n, ret_text);

        if (r < 0) {
                *ret_error = r == -EBADMSG ? WIRE_PROTOCOL : wire_error_from_errno(-r);
                return r;
        }
        return (ssize_t)n;
}

static void pull_wait_on(void *userdata, int *ret_fill_fd, int *ret_drain_fd)
{
        const Transfer *t = userdata;

        *ret_fill_fd = sender_fd(t->sender);
}

static void pull_closed(void *userdata, WireError error, const char *text, bool local)
{
        Transfer *t = userdata;
        const SenderProgress *p = sender_progress(t->sender);
        char digest[DIGEST_TEXT_SIZE], extra[160];

        digest_format(p->digest, digest);
        (void)snprintf(extra, sizeof(extra), " bytes=%llu files=%llu failed=%llu digest=%s",
                       (unsigned long long)p->n_bytes, (unsigned long long)p->n_files,
                       (unsigned long long)p->n_failed, p->done && p->digest ? digest : "-");
        transfer_audit(t, "pull", transfer_result(error, p->error), extra);
        (void)transfer_free(t);
}

static const EndpointOps pull_ops = {
        .fill = pull_fill,
        .drain = pull_drain,
        .end = transfer_end,
        .wait_on = pull_wait_on,
        .closed = pull_closed,
};

/* --- preflight --- */

/* What both directions have in common. WIRE_OK, or an error and its sentence. */
static WireError transfer_new(const Policy *policy, PolicyVerb verb, json_object *params, CarryAudit audit,
                              void *userdata, Transfer **ret, char **ret_text)
{
        _cleanup_(transfer_freep) Transfer *t = calloc(1, sizeof(*t));
        const char *id = message_str(params, "transfer", "");
        const char *path = message_str(params, "path", "");
        WireError error = WIRE_OK;

        if (!t) {
                *ret_text = sentence("out of memory");
                return WIRE_LIMITS_EXCEEDED;
        }
        t->audit = audit;
        t->userdata = userdata;
        t->id = strdup(name_is_id(id) ? id : "");
        t->path = strdup(path);
        if (!t->id || !t->path) {
                error = WIRE_LIMITS_EXCEEDED;
                *ret_text = sentence("out of memory");
        } else if (!policy_may(policy, verb)) {
                error = WIRE_PERMISSION_DENIED;
                *ret_text =
                        sentence("the guest's configuration does not allow %s", policy_verb_to_string(verb));
        } else if (!name_is_id(id)) {
                error = WIRE_INVALID_ARGS;
                *ret_text = sentence("the transfer has no id");
        } else if (!name_is_absolute_path(path)) {
                error = WIRE_INVALID_PATH;
                *ret_text = sentence("\"%s\" is not an absolute path without \"..\"", path);
        }
        if (error != WIRE_OK) {
                transfer_audit(t, policy_verb_to_string(verb), wire_error_to_string(error), "");
                return error;
        }
        *ret = TAKE(t);
        return WIRE_OK;
}

static WireError push_refuse(const Transfer *t, WireError error, char *text, char **ret_text)
{
        *ret_text = text;
        transfer_audit(t, "push", wire_error_to_string(error), "");
        return error;
}

static bool number_parse(json_object *params, const char *key, uint64_t otherwise, uint64_t max,
                         uint64_t *ret)
{
        json_object *o = message_obj(params, key);
        int64_t n = message_int(params, key, -1);

        *ret = otherwise;
        if (!o)
                return true;
        if (n < 0 || (uint64_t)n > max)
                return false;
        *ret = (uint64_t)n;
        return true;
}

static bool overwrite_parse(const char *text, ReceiverOverwrite *ret)
{
        static const char *const names[] = {
                [OVERWRITE_REPLACE] = "replace",
                [OVERWRITE_FAIL] = "fail",
                [OVERWRITE_UPDATE] = "update",
        };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (str_eq(names[i], text)) {
                        *ret = (ReceiverOverwrite)i;
                        return true;
                }
        return false;
}

WireError carry_push_new(const Policy *policy, json_object *untrusted_params, CarryAudit audit,
                         void *userdata, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text)
{
        _cleanup_(transfer_freep) Transfer *t = NULL;
        json_object *params = untrusted_params;
        ReceiverConfig config = { .fd = -1, .keep_partial = true };
        uint64_t mode;
        WireError error;
        char *text = NULL;

        error = transfer_new(policy, POLICY_PUSH, params, audit, userdata, &t, ret_text);
        if (error != WIRE_OK)
                return error;
        config.path = t->path;
        config.transfer_id = t->id;
        config.roots = (const char *const *)policy->write_roots;
        config.name = message_str(params, "name", NULL);
        config.owner = message_str(params, "owner", NULL);
        config.is_tree = message_bool(params, "tree", false);
        config.preserve = message_bool(params, "preserve", false);
        config.resume = message_bool(params, "resume", false);
        if (config.name && *config.name &&
            (strchr(config.name, '/') || !name_is_tree_path(config.name, strlen(config.name))))
                return push_refuse(t, WIRE_INVALID_PATH, sentence("the source's name is not a file's name"),
                                   ret_text);
        if (config.owner && !name_is_text(config.owner, NAME_BYTES_MAX))
                return push_refuse(t, WIRE_INVALID_ARGS, sentence("the owner is no user:group"), ret_text);
        if (!overwrite_parse(message_str(params, "overwrite", "replace"), &config.overwrite))
                return push_refuse(t, WIRE_UNSUPPORTED,
                                   sentence("this guest knows no such way to overwrite"), ret_text);
        if (!number_parse(params, "bytes", SIZE_UNKNOWN, INT64_MAX, &config.n_bytes) ||
            !number_parse(params, "mode", UINT32_MAX, 07777, &mode))
                return push_refuse(t, WIRE_INVALID_ARGS, sentence("bytes or mode is out of range"),
                                   ret_text);
        config.mode = (uint32_t)mode;

        error = receiver_new(&config, &t->receiver, &text);
        if (error != WIRE_OK)
                return push_refuse(t, error, text, ret_text);
        leftovers_note(t->id, t->path, config.name, config.is_tree);
        *ret_reply = NULL;
        *ret_ops = &push_ops;
        *ret_stream = TAKE(t);
        return WIRE_OK;
}

/* How the source is recognised when the transfer is taken up again, and what the host's end is called. */
static json_object *source_format(const SenderSource *source)
{
        json_object *o = json_object_new_object();

        if (!o)
                return NULL;
        (void)json_object_object_add(o, "tree", json_object_new_boolean(source->is_tree));
        (void)json_object_object_add(o, "stream", json_object_new_boolean(source->is_stream));
        if (name_is_utf8(source->name, strlen(source->name)))
                (void)json_object_object_add(o, "name", json_object_new_string(source->name));
        if (source->n_bytes <= INT64_MAX)
                (void)json_object_object_add(o, "bytes", json_object_new_int64((int64_t)source->n_bytes));
        if (source->n_files <= INT64_MAX)
                (void)json_object_object_add(o, "files", json_object_new_int64((int64_t)source->n_files));
        if (!source->is_tree && !source->is_stream) {
                (void)json_object_object_add(o, "inode", json_object_new_uint64(source->inode));
                (void)json_object_object_add(o, "mtime_sec", json_object_new_int64(source->mtime_sec));
                (void)json_object_object_add(o, "mtime_nsec", json_object_new_int64(source->mtime_nsec));
        }
        return o;
}

/* What is known of a tree that is not counted yet. */
static void source_of_tree(const char *path, SenderSource *ret)
{
        size_t end = strlen(path), start;

        while (end > 1 && path[end - 1] == '/')
                end--;
        for (start = end; start > 0 && path[start - 1] != '/'; start--)
                ;
        *ret = (SenderSource){ .is_tree = true, .n_bytes = SIZE_UNKNOWN, .n_files = SIZE_UNKNOWN };
        (void)snprintf(ret->name, sizeof(ret->name), "%.*s", (int)(end - start), path + start);
}

static void expect_parse(json_object *params, SenderConfig *config)
{
        json_object *o = message_obj(params, "expect"), *inode;

        config->expect_size = SIZE_UNKNOWN;
        if (!o)
                return;
        (void)number_parse(o, "size", SIZE_UNKNOWN, INT64_MAX, &config->expect_size);
        inode = message_obj(o, "inode");
        config->expect_inode = inode ? json_object_get_uint64(inode) : 0;
        config->expect_mtime_sec = message_int(o, "mtime_sec", 0);
        config->expect_mtime_nsec = (uint32_t)message_int(o, "mtime_nsec", 0);
}

WireError carry_pull_new(const Policy *policy, json_object *untrusted_params, CarryAudit audit,
                         void *userdata, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text)
{
        _cleanup_(transfer_freep) Transfer *t = NULL;
        json_object *params = untrusted_params;
        SenderConfig config = { .fd = -1 };
        SenderSource source = { .n_bytes = SIZE_UNKNOWN, .n_files = SIZE_UNKNOWN };
        uint64_t deadline;
        WireError error;

        error = transfer_new(policy, POLICY_PULL, params, audit, userdata, &t, ret_text);
        if (error != WIRE_OK)
                return error;
        config.path = t->path;
        config.roots = (const char *const *)policy->read_roots;
        config.preserve = message_bool(params, "preserve", false);
        config.negotiate = message_bool(params, "negotiate", false);
        expect_parse(params, &config);
        error = sender_new(&config, &t->sender, ret_text);
        if (error != WIRE_OK) {
                transfer_audit(t, "pull", wire_error_to_string(error), "");
                return error;
        }
        deadline = fs_now_usec() + SCAN_USEC;
        while (sender_scan(t->sender, &source) > 0)
                if (fs_now_usec() >= deadline) {
                        source_of_tree(t->path, &source);
                        break;
                }
        *ret_reply = source_format(&source);
        *ret_ops = &pull_ops;
        *ret_stream = TAKE(t);
        return WIRE_OK;
}
