/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The receiver's conversation: what a peer's records set off, what is said to it, and how a transfer begins
 * and ends. The entries are placed in receiver-entry.c, the files filled in receiver-content.c.
 */

#include "files/receiver.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/base.h"
#include "files/owner.h"
#include "files/place.h"
#include "files/receiver-state.h"
#include "proto/name.h"

#define OUT_MAX (256u * 1024) /* what a sender that does not read can make us hold */
#define ACK_BYTES (128u * 1024)

bool receiver_is_temporary(const char *name, char *ret_id)
{
        return temporaries_is(name, ret_id);
}

static bool syncs(const Receiver *r)
{
        return r->publish && publish_syncs_directories(r->publish);
}

void receiver_unref(Receiver *r, Directory *d)
{
        directory_unref(d, &r->rules, syncs(r), &r->sink);
}

static WireError wire_error(int error)
{
        switch (error) {
        case EILSEQ:
                return WIRE_INTEGRITY;
        case EBADMSG:
                return WIRE_PROTOCOL;
        default:
                return wire_error_from_errno(error);
        }
}

void receiver_report(const Receiver *r, WireError error, const char *text, const char *path)
{
        if (r->reported)
                r->reported(r->reported_userdata, error, text, path);
}

void receiver_remember(Receiver *r, WireError error, const char *text, const char *path)
{
        if (r->progress.error != WIRE_OK)
                return;
        r->text = strdup(text);
        r->path = strdup(path);
        r->progress.error = error;
        r->progress.text = r->text ? r->text : "";
        r->progress.path = r->path ? r->path : "";
}

void receiver_fail(Receiver *r, uint64_t number, const char *path, WireError error, const char *text)
{
        if (r->is_tree)
                missing_add(&r->missing, path);
        r->progress.n_failed++;
        receiver_remember(r, error, text, path);
        receiver_report(r, error, text, path);
        (void)record_put_failed(&r->out, number, false, error, text, path);
}

/* FailureSink. error 0: a note. */
void receiver_failed(void *userdata, uint64_t number, const char *path, int error, const char *what)
{
        Receiver *r = userdata;
        char text[256];

        if (error == 0) {
                if (r->noted != what) {
                        receiver_report(r, WIRE_OK, what, path);
                        (void)record_put_failed(&r->out, number, true, WIRE_UNSUPPORTED, what, path);
                }
                r->noted = what;
                return;
        }
        if (error == EEXIST || error == EILSEQ || error == EISDIR || error == ENOLINK)
                (void)snprintf(text, sizeof text, "%s", what);
        else
                (void)snprintf(text, sizeof text, "%s: %s", what, strerror(error));
        receiver_fail(r, number, path, error == EISDIR ? WIRE_EXISTS : wire_error(error), text);
}

static void on_published(void *userdata, uint64_t number)
{
        Receiver *r = userdata;

        r->progress.n_files++;
}

/* What has a missing entry's name is somebody else's file. */
static const char *on_link(void *userdata, const char *target)
{
        const Receiver *r = userdata;

        if (missing_has(&r->missing, target))
                return "The file it shares its content with was not copied";
        return r->missing.is_full ? "Too many entries failed to tell whether the file it shares its content "
                                    "with was copied"
                                  : NULL;
}

void receiver_drop(Receiver *r, Incoming *in, bool discard)
{
        incoming_done(in, discard, &r->rules, syncs(r), &r->sink);
}

Incoming *receiver_offer_at(Receiver *r, size_t i)
{
        return r->offers[(r->offers_first + i) % OFFERS_MAX];
}

Incoming *receiver_take_offer(Receiver *r)
{
        Incoming *in = receiver_offer_at(r, 0);

        r->offers_first = (r->offers_first + 1) % OFFERS_MAX;
        r->n_offers--;
        r->n_offered_bytes -= entry_size(in->e);
        return in;
}

/* A directory that was left, but whose files did not all come, is not complete, nor are those above it. */
static void drop_unfinished(Receiver *r, Incoming *in, bool discard)
{
        for (Directory *d = in && !discard ? in->d : NULL; d; d = d->parent)
                d->is_complete = false;
        receiver_drop(r, in, discard);
}

static void drop_all(Receiver *r, bool discard)
{
        drop_unfinished(r, TAKE(r->current), discard);
        r->state = CURRENT_NONE;
        while (r->n_offers > 0)
                drop_unfinished(r, receiver_take_offer(r), discard);
        if (r->publish && !discard)
                publish_commit(r->publish);
        while (r->top) {
                Directory *parent = r->top->parent;

                if (discard)
                        directory_unmark(r->top);
                receiver_unref(r, r->top);
                r->top = parent == r->base ? NULL : parent;
        }
        r->publish = publish_free(r->publish, discard);
}

static void remove_marker(Receiver *r)
{
        char temporary[TEMPORARY_NAME_SIZE];

        if (!r->is_marked)
                return;
        temporaries_format(temporary, r->id, 0);
        (void)unlinkat(r->base->fd, temporary, 0);
        r->is_marked = false;
}

void receiver_give_up(Receiver *r)
{
        r->keep_partial = false;
        if (r->progress.done && r->base)
                remove_marker(r);
}

Receiver *receiver_free(Receiver *r)
{
        bool discard;

        if (!r)
                return NULL;
        discard = !r->keep_partial;
        drop_all(r, discard);
        if (r->base) {
                if (discard)
                        remove_marker(r);
                receiver_unref(r, r->base);
        }
        (void)fd_close(r->root_fd);
        (void)fd_close(r->sink_fd);
        (void)fd_close(r->verify_fd);
        (void)digest_free(r->verify);
        (void)record_parser_free(r->parser);
        record_buffer_done(&r->out);
        missing_done(&r->missing);
        free(r->name);
        free(r->text);
        free(r->path);
        free(r);
        return NULL;
}
DEFINE_CLEANUP(Receiver *, receiver_free);

static WireError refuse(char **ret_text, WireError error, const char *text)
{
        *ret_text = strdup(text);
        return error;
}

/* An earlier attempt has made the directory that the tree is. */
static bool has_mark(const Receiver *r)
{
        char temporary[TEMPORARY_NAME_SIZE];

        temporaries_format(temporary, r->id, 0);
        return r->resume && r->is_tree && r->name[0] &&
               faccessat(r->base->fd, temporary, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
}

static WireError open_place(Receiver *r, const ReceiverConfig *config, char **ret_text)
{
        Place place = { .dir_fd = -EBADF };
        WireError error = place_find(config, &place, ret_text);

        if (error != WIRE_OK)
                return error;
        r->name = TAKE(place.name);
        r->base = directory_new(NULL, TAKE_FD(place.dir_fd), UINT64_MAX, "");
        if (!r->base)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        r->is_marked = place.is_ours || has_mark(r);
        r->publish_config = (PublishConfig){
                .transfer_id = r->id,
                .no_replace = config->overwrite == OVERWRITE_FAIL,
                .is_single = !config->is_tree,
                .root_fd = r->base->fd,
                .rules = &r->rules,
                .sink = &r->sink,
                .published = on_published,
                .link_refused = on_link,
        };
        if (publish_new(&r->publish_config, &r->publish) < 0)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        return WIRE_OK;
}

WireError receiver_new(const ReceiverConfig *config, Receiver **ret, char **ret_text)
{
        _cleanup_(receiver_freep) Receiver *r = calloc(1, sizeof *r);
        WireError error;

        *ret_text = NULL;
        if (!r) {
                (void)fd_close(config->fd);
                return WIRE_FAILED;
        }
        r->sink_fd = config->fd >= 0 ? config->fd : -EBADF;
        r->root_fd = r->verify_fd = -EBADF;
        r->is_tree = config->is_tree;
        r->resume = config->resume;
        r->keep_partial = config->keep_partial;
        r->overwrite = config->overwrite;
        r->sink = (FailureSink){ receiver_failed, r };
        r->reported = config->reported;
        r->reported_userdata = config->userdata;
        r->progress = (ReceiverProgress){
                .total_bytes = config->n_bytes,
                .total_files = SIZE_UNKNOWN,
                .text = "",
                .path = "",
        };
        if (!name_is_id(config->transfer_id))
                return refuse(ret_text, WIRE_INVALID_ARGS, "A transfer's id is 1 to 32 hexadecimal digits");
        (void)snprintf(r->id, sizeof r->id, "%s", config->transfer_id);
        r->rules = (AttributeRules){
                .preserve = config->preserve,
                .mode = config->mode,
                .uid = (uid_t)-1,
                .gid = (gid_t)-1,
        };
        r->rules.umask = umask(0);
        (void)umask(r->rules.umask);
        if (config->owner && owner_parse(config->owner, &r->rules.uid, &r->rules.gid) < 0)
                return refuse(ret_text, WIRE_INVALID_ARGS,
                              "There is no such user or group as the owner that was asked for");
        r->parser = record_parser_new();
        if (!r->parser)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        if (r->sink_fd >= 0) {
                if (r->is_tree)
                        return refuse(ret_text, WIRE_INVALID_ARGS,
                                      "A directory cannot go into a descriptor");
                if ((fcntl(r->sink_fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
                        return refuse(ret_text, WIRE_INVALID_ARGS, "The descriptor is not open for writing");
                r->base = directory_new(NULL, -EBADF, UINT64_MAX, "");
                if (!r->base)
                        return refuse(ret_text, WIRE_FAILED, "Out of memory");
        } else {
                error = open_place(r, config, ret_text);
                if (error != WIRE_OK)
                        return error;
        }
        *ret = TAKE(r);
        return WIRE_OK;
}

int receiver_break(Receiver *r, WireError error, const char *why)
{
        r->is_broken = true;
        r->why = why;
        receiver_remember(r, error, why, "");
        r->progress.error = error;
        drop_all(r, true); /* nobody goes on with that */
        return -EBADMSG;
}

int receiver_protocol(Receiver *r, const char *why)
{
        return receiver_break(r, WIRE_PROTOCOL, why);
}

/* The smallest number that is not settled yet. */
static uint64_t n_settled(const Receiver *r)
{
        uint64_t n = r->n_entries;

        if (r->publish)
                n = MIN(n, publish_oldest(r->publish));
        if (r->current)
                n = MIN(n, r->current->number);
        if (r->n_offers > 0)
                n = MIN(n, receiver_offer_at((Receiver *)r, 0)->number);
        return n;
}

static void put_done(Receiver *r)
{
        ReceiverProgress *p = &r->progress;

        p->done = r->is_over = true;
        (void)record_put_done(&r->out, p->n_files, p->n_bytes, p->n_failed, r->is_tree ? 0 : p->digest,
                              p->error, p->text, p->path);
}

/* END came, and everything before it is settled. */
void receiver_end(Receiver *r)
{
        if (r->publish) {
                int e = publish_finish(r->publish);

                if (r->resume && !r->is_marked)
                        temporaries_remove(r->base->fd, r->id);
                if (e >= 0 && r->base->is_touched && fsync(r->base->fd) < 0 && errno != EINVAL &&
                    errno != EROFS)
                        e = -errno;
                if (e < 0)
                        receiver_failed(r, UINT64_MAX, "", -e, "Cannot make it durable");
        }
        put_done(r);
}

/* Too little space: over before it began. */
static void refuse_for_space(Receiver *r, uint64_t need, uint64_t free_bytes)
{
        char text[160];

        (void)snprintf(text, sizeof text, "The destination has %llu MiB free, and %llu MiB are needed",
                       (unsigned long long)(free_bytes >> 20), (unsigned long long)(need >> 20) + 1);
        r->progress.n_failed++;
        receiver_remember(r, WIRE_NO_SPACE, text, "");
        put_done(r);
}

/* Whether what is needed can be told at all: not where some of it may be there already, of an earlier
 * attempt or of an older copy. Then each file is on its own. */
static bool is_space_known(const Receiver *r)
{
        struct stat st;

        if (r->sink_fd >= 0 || r->n_entries > 0 || r->resume || r->overwrite == OVERWRITE_UPDATE)
                return false;
        return !r->is_tree || (r->name[0] && fstatat(r->base->fd, r->name, &st, AT_SYMLINK_NOFOLLOW) < 0);
}

static void on_totals(Receiver *r, const Record *record)
{
        struct statvfs fs;
        uint64_t blocks, n_free;

        r->progress.total_bytes = record->n_bytes;
        r->progress.total_files = record->n_files;
        if (record->size == SIZE_UNKNOWN || !is_space_known(r))
                return;
        if (fstatvfs(r->base->fd, &fs) < 0 || fs.f_blocks == 0)
                return;
        blocks = geteuid() == 0 ? fs.f_bfree : fs.f_bavail;
        if (__builtin_mul_overflow(blocks, fs.f_frsize, &n_free))
                return;
        if (record->size > n_free)
                refuse_for_space(r, record->size, n_free);
}

void receiver_swallow(Receiver *r, uint64_t number)
{
        r->state = CURRENT_SWALLOWED;
        r->current_number = number;
}

static int on_end(Receiver *r)
{
        if (r->top || r->state == CURRENT_OPEN || r->n_offers > 0)
                return receiver_protocol(r, "the end comes before everything was said");
        if (r->n_entries == 0 && r->progress.n_failed == 0)
                return receiver_protocol(r, "the end comes before the object");
        r->is_ending = true;
        if (r->verify_fd < 0)
                receiver_end(r);
        return 0;
}

static int on_record(Receiver *r, const Record *record, size_t *ret_taken)
{
        switch (record->type) {
        case RECORD_TOTALS:
                on_totals(r, record);
                return 0;
        case RECORD_ENTRY:
                return receiver_on_entry(r, &record->object);
        case RECORD_DATA:
                return receiver_on_data(r, record, ret_taken);
        case RECORD_FILE_END:
                return receiver_on_file_end(r, record);
        case RECORD_LEAVE:
                return receiver_on_leave(r);
        case RECORD_FAILED:
                return receiver_on_failed(r, record);
        case RECORD_END:
                return on_end(r);
        case RECORD_WANT:
        case RECORD_ACK:
        case RECORD_DONE:
                break;
        }
        return receiver_protocol(r, "the sender sent a receiver's record");
}

ssize_t receiver_feed(Receiver *r, const uint8_t *untrusted_data, size_t n, const char **ret_why)
{
        size_t used = 0;

        if (r->is_broken)
                goto out_broken;
        if (r->state == CURRENT_FINISHING)
                receiver_finish_current(r);
        while (used < n) {
                size_t taken, n_content;
                Record record;
                int e;

                if (r->is_over)
                        return (ssize_t)n; /* DONE was said; what still comes is of no use */
                if (r->state == CURRENT_FINISHING || r->out.n - r->out.offset > OUT_MAX)
                        break;
                e = record_parser_next(r->parser, untrusted_data + used, n - used, &taken, &record, &r->why);
                if (e < 0) {
                        (void)receiver_break(r, record.error, r->why);
                        goto out_broken;
                }
                used += taken;
                if (e == 0)
                        break;
                if (r->is_ending) {
                        (void)receiver_protocol(r, "the sender goes on after the end");
                        goto out_broken;
                }
                n_content = record.n_data;
                if (on_record(r, &record, &n_content) < 0)
                        goto out_broken;
                if (n_content < record.n_data) {
                        record_parser_unread(r->parser, record.n_data - n_content);
                        used -= record.n_data - n_content;
                        break;
                }
        }
        return (ssize_t)used;
out_broken:
        *ret_why = r->why;
        return -EBADMSG;
}

static void put_ack(Receiver *r)
{
        (void)record_put_ack(&r->out, n_settled(r), r->progress.n_bytes, r->progress.n_files);
        r->acked_bytes = r->progress.n_bytes;
        r->acked_files = r->progress.n_files;
}

ssize_t receiver_fill(Receiver *r, uint8_t *buf, size_t n)
{
        if (r->is_broken)
                return -ENODATA;
        if (r->out.n == 0) {
                /* Sliced work shows itself, so that the caller comes again. */
                bool worked = !r->is_over && receiver_work(r);

                if (r->out.n == 0 && !r->is_over &&
                    (worked || r->progress.n_bytes >= r->acked_bytes + ACK_BYTES ||
                     r->progress.n_files > r->acked_files))
                        put_ack(r);
                if (r->out.n == 0 && r->is_over)
                        return -ENODATA;
        }
        return (ssize_t)record_buffer_take(&r->out, buf, n);
}

int receiver_fd(const Receiver *r)
{
        return r->sink_fd >= 0 && r->current && !r->current->is_seekable ? r->sink_fd : -1;
}

const ReceiverProgress *receiver_progress(const Receiver *r)
{
        return &r->progress;
}
