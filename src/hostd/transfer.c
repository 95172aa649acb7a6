/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * An attempt has two ends, the worker and the stream to the guest's carrier, joined by two pipes; it is over
 * when both ends are. What stopped first is the reason. An attempt that lost its channel leaves the job
 * waiting for the guest, and the next one offers what there is already under the same transfer id. The bytes
 * themselves never come by here.
 */

#include "hostd/transfer-private.h"

#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/audit.h"
#include "hostd/fdstore.h"
#include "hostd/log.h"
#include "proto/entry.h"
#include "proto/message.h"
#include "proto/name.h"

#define CLOSE_GRACE_USEC (10 * USEC_PER_SEC) /* between the two ends of an attempt */
#define RETRY_USEC (500 * USEC_PER_MSEC)     /* first pause when the guest stayed ready */
#define FRUITLESS_MAX 10u                    /* attempts in a row that moved nothing */

void transfer_drop(Transfer *t)
{
        opener_free(t->opener);
        t->timer = loop_timer_free(t->timer);
        fd_close(t->fd);
        fd_close(t->in_fd);
        fd_close(t->out_fd);
        g_free(t->host_path);
        g_free(t->name);
        g_free(t->guest_path);
        g_free(t->owner);
        g_free(t->overwrite);
        g_free(t->text);
        g_free(t->digest);
        g_free(t);
}

static void put_str(json_object *o, const char *key, const char *value)
{
        if (value)
                json_object_object_add(o, key, json_object_new_string(value));
}

static void put_int(json_object *o, const char *key, uint64_t value)
{
        json_object_object_add(o, key, json_object_new_int64((int64_t)value));
}

static void put_bool(json_object *o, const char *key, bool value)
{
        json_object_object_add(o, key, json_object_new_boolean(value));
}

static uint64_t get_size(json_object *o, const char *key)
{
        int64_t v = message_int(o, key, -1);
        return v < 0 ? UINT64_MAX : (uint64_t)v;
}

/* The first reason is the one that counts: the other end only notices its consequence. */
static void set_error(Transfer *t, WireError error, const char *text)
{
        if (t->error != WIRE_OK || error == WIRE_OK)
                return;
        t->error = error;
        g_free(t->text);
        t->text = job_text(job_bare_text(t->job->guest_name, text));
}

static bool may_resume(const Transfer *t)
{
        return t->options.resume && (!t->has_fd || t->fd_is_file) && !t->source.is_stream && t->job->guest &&
               !t->cancelled;
}

static void finish(Transfer *t, WireError error, const char *text)
{
        Job *j = t->job;
        g_autofree char *sentence = NULL;
        const char *host = t->has_fd             ? "a file descriptor"
                           : j->kind == JOB_PUSH ? j->source
                                                 : j->destination;

        if (error != WIRE_OK && j->kind == JOB_PUSH)
                sentence = g_strdup_printf("Cannot push %s to %s:%s: %s", host, j->guest_name,
                                           j->destination, text);
        else if (error != WIRE_OK)
                sentence =
                        g_strdup_printf("Cannot pull %s:%s to %s: %s", j->guest_name, j->source, host, text);
        if (error == WIRE_OK)
                transfer_move_offset(t);
        t->fd = fd_close(t->fd);
        if (t->has_fd && job_kept(j)) {
                char name[32];

                transfer_fd_name(j, name);
                fdstore_remove(name);
        }
        if (error != WIRE_OK)
                transfer_sweep(t);
        audit_write(&(AuditEntry){
                .verb = job_kind_to_string(j->kind),
                .caller = j->caller,
                .guest_uuid = j->guest_uuid,
                .guest_name = j->guest_name,
                .job = j->id,
                .id = j->wire_id,
                .path = j->kind == JOB_PUSH ? j->destination : j->source,
                .host_path = t->has_fd ? NULL : host,
                .has_bytes = true,
                .n_bytes = j->bytes_done,
                .digest = t->digest,
                .error = error,
                .text = sentence,
        });
        job_finish(t->jobs, j, error, sentence, error == WIRE_OK ? t->digest : NULL);
        if (error != WIRE_OK && j->kind == JOB_PUSH && t->n_attempts > 0 && j->guest &&
            guest_state(j->guest) == GUEST_READY)
                jobs_tell_live_transfers(t->jobs, j->guest);
}

static void wait_for_guest(Transfer *t)
{
        Job *j = t->job;

        t->n_fruitless = j->bytes_done > t->bytes_before ? 0 : t->n_fruitless + 1;
        if (t->n_fruitless >= FRUITLESS_MAX) {
                finish(t, t->error, t->text);
                return;
        }
        log_guest(LOG_INFO, j->guest_uuid, j->guest_name, j->id,
                  "Job %" PRIu32 " was interrupted and waits for guest %s", j->id, j->guest_name);
        job_set_state(t->jobs, j, JOB_WAITING);
        if (guest_state(j->guest) == GUEST_READY)
                loop_timer_set(t->timer, fs_now_usec() + (RETRY_USEC << t->n_fruitless), RETRY_USEC / 4);
}

static void conclude(Transfer *t)
{
        t->active = false;
        t->opener = opener_free(t->opener);
        t->in_fd = fd_close(t->in_fd);
        t->out_fd = fd_close(t->out_fd);
        loop_timer_set(t->timer, USEC_INFINITY, 0);

        /* The worker can't tell a guest that ended its half from one that was lost. */
        if (t->error == WIRE_INTERRUPTED && t->ended_in_order) {
                t->error = WIRE_OK;
                set_error(t, WIRE_PROTOCOL, "The guest ended the stream before the transfer was over");
        }
        /* What had failed already when somebody lost patience has failed. */
        if (t->cancelled && (t->error == WIRE_OK || t->error == WIRE_INTERRUPTED))
                finish(t, WIRE_CANCELLED, "Cancelled");
        else if (t->error == WIRE_INTERRUPTED && may_resume(t))
                wait_for_guest(t);
        else
                finish(t, t->error, t->text ? t->text : "");
}

/* One end is over: the other has CLOSE_GRACE_USEC. A pull is done when the worker says so: how the guest
 * ends its stream is not waited for. */
static void end_reached(Transfer *t)
{
        if (!t->active)
                return;
        if (t->worker_done && (!t->stream || (t->job->kind == JOB_PULL && t->error == WIRE_OK)))
                conclude(t);
        if (t->active || t->stream)
                loop_timer_set(t->timer, fs_now_usec() + CLOSE_GRACE_USEC, USEC_PER_SEC);
}

static void worker_is_done(Transfer *t)
{
        t->worker_done = true;
        t->in_fd = fd_close(t->in_fd); /* a push that never came to its stream */
        t->out_fd = fd_close(t->out_fd);
        /* A pipe that broke is the stream's end, and the stream says why. */
        if (t->stream && t->error != WIRE_OK && t->error != WIRE_INTERRUPTED)
                guest_stream_cancel(t->stream, t->error, t->text);
        end_reached(t);
}

static json_object *packet_new(const char *what)
{
        json_object *o = json_object_new_object();
        put_str(o, "do", what);
        return o;
}

static void on_stream_closed(void *userdata, WireError error, const char *text, uint64_t n_in,
                             uint64_t n_out)
{
        Transfer *t = userdata;

        t->stream = NULL;
        t->ended_in_order = error == WIRE_OK;
        if (!t->job) {
                transfer_drop(t);
                return;
        }
        /* A worker that is done has seen the other side's DONE: what the channel did afterwards takes
         * nothing from that. */
        if (!t->active)
                return;
        if (!t->worker_done) {
                set_error(t, error, text);
                if (error != WIRE_OK &&
                    !t->source.known) /* nothing begun: it waits for what will not come */
                        t->worker_done = true;
                else if (error != WIRE_OK && error != WIRE_INTERRUPTED)
                        (void)opener_send(t->opener, packet_new("cancel"));
        } else if ((error == WIRE_INTERRUPTED && t->error != WIRE_OK && t->error != WIRE_CANCELLED) ||
                   (error != WIRE_OK && t->error == WIRE_INTERRUPTED)) {
                /* The worker was the quicker one to see its pipe end, and can't know why. */
                t->error = WIRE_OK;
                set_error(t, error, text);
        }
        end_reached(t);
}

/* What a source says of itself, from either side, checked on the way. */
static void learn_source(Transfer *t, json_object *o)
{
        Source s = {
                .known = true,
                .is_tree = message_bool(o, "tree", false),
                .is_stream = message_bool(o, "stream", false),
                .n_bytes = get_size(o, "bytes"),
                .inode = get_size(o, "inode"),
                .mtime_sec = message_int(o, "mtime_sec", 0),
                .mtime_nsec = (uint32_t)message_int(o, "mtime_nsec", 0),
        };

        if (!t->source.known) {
                t->source = s;
                transfer_keep(t);
        }
        job_set_progress(t->jobs, t->job, t->job->bytes_done, t->job->files_done, s.n_bytes,
                         get_size(o, "files"));
}

static void put_expect(const Transfer *t, json_object *o)
{
        if (!t->source.known || t->source.is_tree || t->source.is_stream || t->source.n_bytes == UINT64_MAX)
                return;
        json_object *e = json_object_new_object();
        put_int(e, "size", t->source.n_bytes);
        put_int(e, "inode", t->source.inode);
        json_object_object_add(e, "mtime_sec", json_object_new_int64(t->source.mtime_sec));
        put_int(e, "mtime_nsec", t->source.mtime_nsec);
        json_object_object_add(o, "expect", e);
}

static bool negotiates(const Transfer *t)
{
        return t->n_attempts > 1 || str_eq(t->overwrite, "update");
}

static void put_receiver_options(const Transfer *t, json_object *o)
{
        put_str(o, "overwrite", t->overwrite);
        if (t->options.mode != UINT32_MAX)
                put_int(o, "mode", t->options.mode);
        put_str(o, "owner", t->owner);
        bool keep = t->options.resume && (!t->has_fd || t->job->kind == JOB_PUSH);

        /* The first attempt finds nothing of ours: what is there is what "overwrite" is about. */
        put_bool(o, "resume", keep && t->n_attempts > 1);
        put_bool(o, "keep", keep);
}

/* Only a directory has contents that could go somewhere without it. */
static bool refuse_contents(Transfer *t, bool is_tree)
{
        if (!t->options.contents || is_tree)
                return false;
        set_error(t, WIRE_INVALID_ARGS,
                  "Its contents were asked for (option \"contents\"), and the source is no directory");
        return true;
}

static void on_stream_opened(void *userdata, json_object *reply)
{
        static const char *const facts[] = { "tree", "bytes", "files", "inode", "mtime_sec", "mtime_nsec" };
        Transfer *t = userdata;
        const char *name;

        if (!t->job || t->job->kind != JOB_PULL || !t->opener)
                return;
        name = message_str(reply, "name", NULL);
        if (!name || strchr(name, '/') || !name_is_tree_path(name, strlen(name)))
                name = NULL;
        g_free(t->name);
        t->name = g_strdup(t->options.contents ? "" : name);
        if (refuse_contents(t, message_bool(reply, "tree", false))) {
                guest_stream_cancel(t->stream, t->error, t->text);
                return;
        }
        learn_source(t, reply);
        json_object *o = packet_new("source");
        for (size_t i = 0; i < ELEMENTSOF(facts); i++) {
                json_object *v = message_obj(reply, facts[i]);
                if (json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_boolean))
                        json_object_object_add(o, facts[i], json_object_get(v));
        }
        put_str(o, "name", t->name);
        if (opener_send(t->opener, o) < 0) {
                set_error(t, WIRE_FAILED, "The helper process could not be told of the source");
                guest_stream_cancel(t->stream, t->error, t->text);
        }
}

static void open_stream(Transfer *t, json_object *found)
{
        Job *j = t->job;
        json_object *o = json_object_new_object();

        put_str(o, "kind", job_kind_to_string(j->kind));
        put_str(o, "transfer", j->wire_id);
        put_str(o, "path", t->guest_path);
        put_bool(o, "preserve", t->options.preserve);
        if (j->kind == JOB_PUSH) {
                uint64_t files = get_size(found, "files");
                put_str(o, "name", t->options.contents ? "" : message_str(found, "name", NULL));
                put_bool(o, "tree", t->source.is_tree);
                if (t->source.n_bytes != UINT64_MAX)
                        put_int(o, "bytes", t->source.n_bytes);
                if (files != UINT64_MAX)
                        put_int(o, "files", files);
                put_receiver_options(t, o);
        } else {
                put_bool(o, "negotiate", negotiates(t));
                put_expect(t, o);
        }
        t->stream = guest_stream_open(j->guest, &(GuestStreamConfig){
                                                        .params = o,
                                                        .in_fd = TAKE_FD(t->in_fd),
                                                        .out_fd = TAKE_FD(t->out_fd),
                                                        .opened = on_stream_opened,
                                                        .closed = on_stream_closed,
                                                        .userdata = t,
                                                });
        if (!t->stream) { /* no memory for one: nothing will be closed either */
                set_error(t, WIRE_FAILED, "No stream to the guest could be made");
                t->worker_done = true;
                conclude(t);
        }
}

static void on_worker_done(Transfer *t, json_object *o)
{
        WireError error = WIRE_OK;
        const char *name = message_str(o, "error", ""), *path = message_str(o, "path", ""),
                   *text = message_str(o, "message", ""), *digest = message_str(o, "digest", "");
        int64_t n_failed = message_int(o, "failed", 0);
        g_autofree char *sentence = NULL;
        Job *j = t->job;

        if (*name)
                error = wire_error_from_string(name);
        else if (n_failed > 0)
                error = WIRE_FAILED;
        if (!*text)
                text = wire_error_to_string(error);
        sentence = transfer_failure_text(n_failed, t->source.is_tree, path, text);
        set_error(t, error, sentence);
        if (*digest) {
                g_free(t->digest);
                t->digest = job_text(digest);
        }
        job_set_progress(t->jobs, j, (uint64_t)MAX(message_int(o, "bytes", (int64_t)j->bytes_done), 0),
                         (uint64_t)MAX(message_int(o, "files", (int64_t)j->files_done), 0), j->bytes_total,
                         j->files_total);
        worker_is_done(t);
}

static void on_reports(Transfer *t, json_object *o)
{
        json_object *entries = message_obj(o, "entries");
        GPtrArray *all = t->job->reports.all;
        guint from = all ? all->len : 0;

        if (!json_object_is_type(entries, json_type_array))
                return;
        for (size_t i = 0; i < json_object_array_length(entries); i++) {
                json_object *e = json_object_array_get_idx(entries, i);
                const char *name = message_str(e, "error", "");

                (void)job_reports_add(&t->job->reports, *name ? wire_error_from_string(name) : WIRE_OK,
                                      message_str(e, "path", ""), message_str(e, "message", ""));
        }
        all = t->job->reports.all;
        if (all && all->len > from)
                job_reported(t->jobs, t->job, from);
}

static void on_packet(void *userdata, json_object *o)
{
        Transfer *t = userdata;
        const char *what = message_str(o, "do", "");
        g_autofree char *text = NULL;
        Job *j = t->job;

        if (!t->active || t->worker_done)
                return;
        if (str_eq(what, "found") && j->kind == JOB_PUSH && !t->stream && t->in_fd >= 0) {
                if (!j->guest || jobs_check_guest(j->guest, &text) != WIRE_OK) {
                        t->n_attempts--; /* of which the guest knows nothing: there is nothing to resume */
                        set_error(t, WIRE_INTERRUPTED, text ? text : "The domain was undefined");
                        worker_is_done(t);
                        return;
                }
                if (refuse_contents(t, message_bool(o, "tree", false))) {
                        worker_is_done(t);
                        return;
                }
                learn_source(t, o);
                open_stream(t, o);
        } else if (str_eq(what, "progress")) {
                uint64_t total_bytes = get_size(o, "total_bytes"), total_files = get_size(o, "total_files");
                job_set_progress(t->jobs, j, (uint64_t)MAX(message_int(o, "bytes", 0), 0),
                                 (uint64_t)MAX(message_int(o, "files", 0), 0),
                                 total_bytes == UINT64_MAX ? j->bytes_total : total_bytes,
                                 total_files == UINT64_MAX ? j->files_total : total_files);
        } else if (str_eq(what, "reports"))
                on_reports(t, o);
        else if (str_eq(what, "done"))
                on_worker_done(t, o);
}

static void on_worker_ended(void *userdata)
{
        Transfer *t = userdata;

        t->opener = opener_free(t->opener);
        if (!t->active || t->worker_done)
                return;
        set_error(t, WIRE_FAILED,
                  "The helper process that has the caller's rights ended before its work was done");
        worker_is_done(t);
}

static const OpenerOps opener_ops = { .packet = on_packet, .ended = on_worker_ended };

/* The other end did not follow in time, or the pause before the next attempt is over. */
static void on_timer(void *userdata)
{
        Transfer *t = userdata;

        if (!t->active) {
                if (t->stream)
                        guest_stream_cancel(t->stream, WIRE_PROTOCOL,
                                            "The guest did not end the stream in order");
                else
                        jobs_resume(t->jobs, t->job);
                return;
        }
        if (!t->worker_done) {
                set_error(t, WIRE_FAILED,
                          "The helper process does not end; the file system of the path may hang");
                t->worker_done = true;
                if (!t->stream) {
                        conclude(t);
                        return;
                }
        }
        if (t->stream)
                guest_stream_cancel(t->stream, t->error != WIRE_OK ? t->error : WIRE_PROTOCOL,
                                    t->text ? t->text : "The guest did not end the stream in order");
}

static void on_start(void *userdata, Job *j)
{
        Transfer *t = userdata;
        json_object *o;
        int r;

        if (!j->guest || guest_state(j->guest) != GUEST_READY) {
                g_autofree char *text = NULL;
                if (j->guest && (t->options.resume || (job_kept(j) && job_kept(j)->is_queued))) {
                        job_set_state(t->jobs, j, JOB_WAITING);
                        return;
                }
                WireError error = j->guest ? jobs_check_guest(j->guest, &text) : WIRE_INTERRUPTED;
                finish(t, error, text ? text : "The domain was undefined");
                return;
        }

        t->error = WIRE_OK;
        g_clear_pointer(&t->text, g_free);
        t->worker_done = t->ended_in_order = false;
        t->bytes_before = j->bytes_done;
        if (t->has_fd && t->fd < 0) {
                finish(t, WIRE_INTERRUPTED,
                       "hostd was restarted, and nobody has kept the caller's file descriptor");
                return;
        }
        if (t->fd_is_file)
                (void)lseek(t->fd, t->fd_offset, SEEK_SET);
        r = opener_new(t->fd, &opener_ops, t, &t->opener, &t->in_fd, &t->out_fd);
        if (!t->fd_is_file)
                t->fd = fd_close(t->fd);
        if (r < 0) {
                g_autofree char *text =
                        g_strdup_printf("The helper process cannot be started: %s", g_strerror(-r));
                finish(t, WIRE_FAILED, text);
                return;
        }
        t->active = true;
        t->n_attempts++;
        loop_timer_set(t->timer, USEC_INFINITY, 0); /* the guest was back before the pause was over */

        o = packet_new(job_kind_to_string(j->kind));
        opener_identify(o, j->caller);
        put_str(o, "path", t->host_path);
        put_bool(o, "fd", t->has_fd);
        put_str(o, "transfer", j->wire_id);
        put_bool(o, "preserve", t->options.preserve);
        if (j->kind == JOB_PUSH) {
                put_bool(o, "negotiate", negotiates(t));
                put_bool(o, "resume", t->options.resume);
                put_expect(t, o);
        } else
                put_receiver_options(t, o);
        if (opener_send(t->opener, o) < 0) {
                set_error(t, WIRE_FAILED, "The helper process cannot be told what to do");
                t->worker_done = true;
                conclude(t);
                return;
        }
        if (j->kind == JOB_PULL)
                open_stream(t, NULL);
}

static void on_cancel(void *userdata, Job *j)
{
        Transfer *t = userdata;

        t->cancelled = true;
        if (!t->active) {
                finish(t, WIRE_CANCELLED, "Cancelled");
                return;
        }
        set_error(t, WIRE_CANCELLED, "Cancelled");
        if (t->opener)
                (void)opener_send(t->opener, packet_new("cancel"));
        if (t->stream)
                guest_stream_cancel(t->stream, WIRE_CANCELLED, "Cancelled on the host");
        loop_timer_set(t->timer, fs_now_usec() + CLOSE_GRACE_USEC, USEC_PER_SEC);
}

static void on_guest_state(void *userdata, Job *j)
{
        Transfer *t = userdata;

        if (t->active) /* its stream tells */
                return;
        if (!j->guest)
                finish(t, WIRE_INTERRUPTED, "The domain was undefined");
        else if (j->state == JOB_WAITING && guest_state(j->guest) == GUEST_READY)
                jobs_resume(t->jobs, j);
}

static void on_free(void *userdata)
{
        Transfer *t = userdata;

        t->job = NULL;
        if (t->stream) { /* hostd ends: on_stream_closed() has the rest */
                t->opener = opener_free(t->opener);
                t->timer = loop_timer_free(t->timer);
                guest_stream_cancel(t->stream, WIRE_INTERRUPTED, "hostd ends");
        } else
                transfer_drop(t);
}

const JobOps transfer_ops = {
        .start = on_start,
        .cancel = on_cancel,
        .free = on_free,
        .guest_state = on_guest_state,
};

Transfer *transfer_make(Jobs *js, const char *host_path, int fd, const char *guest_path,
                        const TransferOptions *options)
{
        Transfer *t = g_new0(Transfer, 1);
        struct stat st;

        *t = (Transfer){
                .jobs = js,
                .host_path = g_strdup(host_path),
                .guest_path = g_strdup(guest_path),
                .owner = g_strdup(options->owner),
                .overwrite = g_strdup(options->overwrite ? options->overwrite : "replace"),
                .options = *options,
                .has_fd = fd >= 0,
                .in_fd = -EBADF,
                .out_fd = -EBADF,
                .fd = fd,
                .timer = loop_timer_new(loop_default(), on_timer, t),
        };
        t->options.owner = NULL; /* the copies count */
        t->options.overwrite = NULL;
        if (fd >= 0 && fstat(fd, &st) >= 0 && S_ISREG(st.st_mode) && !(fcntl(fd, F_GETFL) & O_APPEND)) {
                t->fd_offset = lseek(fd, 0, SEEK_CUR);
                t->fd_is_file = t->fd_offset >= 0;
        }
        if (!t->timer) {
                transfer_drop(t);
                return NULL;
        }
        return t;
}
