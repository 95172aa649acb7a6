/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The receiver's conversation: places each entry beneath the destination, asks for what it wants of offers,
 * and tells what became of it all. The order of entries is enforced: each lies in the directory entered
 * last, behind the one before by name. So no name comes twice, nothing comes beneath a link, and nothing has
 * to be remembered.
 */

#include "files/receiver.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/incoming.h"
#include "files/owner.h"
#include "files/place.h"
#include "files/publish.h"
#include "files/temporaries.h"
#include "proto/entry.h"
#include "proto/name.h"

#define OUT_MAX (256u * 1024)          /* what a sender that does not read can make us hold */
#define OFFERED_MAX (8u * 1024 * 1024) /* attributes of offered entries */
#define ACK_BYTES (128u * 1024)
#define LOOK_FIRST_BYTES (1024u * 1024) /* so much is not taken in vain: a look at the name is worth it */

typedef enum Current { CURRENT_NONE, CURRENT_OPEN, CURRENT_FINISHING, CURRENT_SWALLOWED } Current;

struct Receiver {
        bool is_tree, resume, keep_partial;
        ReceiverOverwrite overwrite;
        char id[TEMPORARY_ID_SIZE];
        char *name;
        int sink_fd;
        AttributeRules rules;
        FailureSink sink;
        PublishConfig publish_config;
        Publish *publish;
        Directory *base, *top; /* where the destination is; the directory entered last */
        int root_fd;           /* of the tree; targets of hard links are beneath it */
        unsigned depth;
        bool is_marked; /* the temporary of entry 0 says that the root is ours */
        bool has_found; /* a resume found something of an earlier attempt */

        RecordParser *parser;
        RecordBuffer out;
        uint64_t n_entries;
        Current state;
        uint64_t current_number;
        Incoming *current;
        bool is_behind; /* it has to catch up before it takes more */
        uint64_t final_size, final_digest;
        Incoming *offers[OFFERS_MAX];
        size_t offers_first, n_offers, n_offered_bytes;
        uint8_t small[INCOMING_SMALL_MAX];

        int verify_fd; /* the complete file of an earlier attempt, to know its digest */
        Digest *verify;

        uint64_t acked_bytes, acked_files;
        bool is_ending, is_over, is_broken;
        const char *why;
        const char *noted;
        ReceiverProgress progress;
        char *text, *path; /* behind progress */
};

bool receiver_is_temporary(const char *name, char *ret_id)
{
        return temporaries_is(name, ret_id);
}

static bool syncs(const Receiver *r)
{
        return r->publish && publish_syncs_directories(r->publish);
}

static void unref(Receiver *r, Directory *d)
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

static void remember(Receiver *r, WireError error, const char *text, const char *path)
{
        if (r->progress.error != WIRE_OK)
                return;
        r->text = strdup(text);
        r->path = strdup(path);
        r->progress.error = error;
        r->progress.text = r->text ? r->text : "";
        r->progress.path = r->path ? r->path : "";
}

static void fail(Receiver *r, uint64_t number, const char *path, WireError error, const char *text)
{
        r->progress.n_failed++;
        remember(r, error, text, path);
        (void)record_put_failed(&r->out, number, false, error, text, path);
}

/* FailureSink. error 0: a note. */
static void on_failed(void *userdata, uint64_t number, const char *path, int error, const char *what)
{
        Receiver *r = userdata;
        char text[256];

        if (error == 0) {
                if (r->noted != what)
                        (void)record_put_failed(&r->out, number, true, WIRE_UNSUPPORTED, what, path);
                r->noted = what;
                return;
        }
        if (error == EEXIST || error == EILSEQ || error == EISDIR)
                (void)snprintf(text, sizeof text, "%s", what);
        else
                (void)snprintf(text, sizeof text, "%s: %s", what, strerror(error));
        fail(r, number, path, error == EISDIR ? WIRE_EXISTS : wire_error(error), text);
}

static void on_published(void *userdata, uint64_t number)
{
        Receiver *r = userdata;

        r->progress.n_files++;
}

static void drop_incoming(Receiver *r, Incoming *in, bool discard)
{
        incoming_done(in, discard, &r->rules, syncs(r), &r->sink);
}

static Incoming *offer_at(Receiver *r, size_t i)
{
        return r->offers[(r->offers_first + i) % OFFERS_MAX];
}

static Incoming *take_offer(Receiver *r)
{
        Incoming *in = offer_at(r, 0);

        r->offers_first = (r->offers_first + 1) % OFFERS_MAX;
        r->n_offers--;
        r->n_offered_bytes -= entry_size(in->e);
        return in;
}

static void drop_all(Receiver *r, bool discard)
{
        drop_incoming(r, TAKE(r->current), discard);
        r->state = CURRENT_NONE;
        while (r->n_offers > 0)
                drop_incoming(r, take_offer(r), discard);
        if (r->publish && !discard)
                publish_commit(r->publish);
        while (r->top) {
                Directory *parent = r->top->parent;

                unref(r, r->top);
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
}

Receiver *receiver_free(Receiver *r)
{
        bool discard;

        if (!r)
                return NULL;
        discard = !r->keep_partial || r->is_over;
        drop_all(r, discard);
        if (r->base) {
                if (discard)
                        remove_marker(r);
                unref(r, r->base);
        }
        (void)fd_close(r->root_fd);
        (void)fd_close(r->sink_fd);
        (void)fd_close(r->verify_fd);
        (void)digest_free(r->verify);
        (void)record_parser_free(r->parser);
        record_buffer_done(&r->out);
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

/* Of the object itself: something of an earlier attempt is here. */
static bool has_temporary(const Receiver *r)
{
        char temporary[TEMPORARY_NAME_SIZE];

        temporaries_format(temporary, r->id, 0);
        return r->resume && faccessat(r->base->fd, temporary, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
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
        r->is_marked = place.is_ours;
        r->has_found = has_temporary(r);
        r->publish_config = (PublishConfig){
                .transfer_id = r->id,
                .no_replace = config->overwrite == OVERWRITE_FAIL,
                .is_single = !config->is_tree,
                .root_fd = r->base->fd,
                .rules = &r->rules,
                .sink = &r->sink,
                .published = on_published,
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
        r->sink = (FailureSink){ on_failed, r };
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

static int broken(Receiver *r, WireError error, const char *why)
{
        r->is_broken = true;
        r->why = why;
        remember(r, error, why, "");
        r->progress.error = error;
        drop_all(r, true); /* nobody goes on with that */
        return -EBADMSG;
}

static int protocol(Receiver *r, const char *why)
{
        return broken(r, WIRE_PROTOCOL, why);
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
                n = MIN(n, offer_at((Receiver *)r, 0)->number);
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
static void end(Receiver *r)
{
        if (r->publish) {
                int e = publish_finish(r->publish);

                remove_marker(r);
                if (r->resume)
                        temporaries_remove(r->base->fd, r->id);
                if (e >= 0 && r->base->is_touched && fsync(r->base->fd) < 0 && errno != EINVAL &&
                    errno != EROFS)
                        e = -errno;
                if (e < 0)
                        on_failed(r, UINT64_MAX, "", -e, "Cannot make it durable");
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
        remember(r, WIRE_NO_SPACE, text, "");
        put_done(r);
}

static void on_totals(Receiver *r, const Record *record)
{
        struct statvfs fs;
        uint64_t blocks, n_free;

        r->progress.total_bytes = record->n_bytes;
        r->progress.total_files = record->n_files;
        if (record->size == SIZE_UNKNOWN || r->sink_fd >= 0 || r->n_entries > 0 || r->has_found)
                return;
        if (fstatvfs(r->base->fd, &fs) < 0 || fs.f_blocks == 0)
                return;
        blocks = geteuid() == 0 ? fs.f_bfree : fs.f_bavail;
        if (__builtin_mul_overflow(blocks, fs.f_frsize, &n_free))
                return;
        if (record->size > n_free)
                refuse_for_space(r, record->size, n_free);
}

static void swallow(Receiver *r, uint64_t number)
{
        r->state = CURRENT_SWALLOWED;
        r->current_number = number;
}

static bool is_newer(const Entry *e, const struct stat *st)
{
        return e->mtime_sec > st->st_mtim.tv_sec ||
               (e->mtime_sec == st->st_mtim.tv_sec && (long)e->mtime_nsec > st->st_mtim.tv_nsec);
}

static bool is_complete(const Entry *e, const struct stat *st)
{
        return S_ISREG(st->st_mode) && (uint64_t)st->st_size == e->size &&
               e->mtime_sec == st->st_mtim.tv_sec && (long)e->mtime_nsec == st->st_mtim.tv_nsec;
}

typedef enum Verdict { VERDICT_TAKE, VERDICT_LEAVE, VERDICT_COMPLETE, VERDICT_FAILED } Verdict;

/* What an existing object at the name means for the entry. */
static Verdict judge_existing(Receiver *r, Directory *d, const char *name, const Entry *e, uint64_t number)
{
        struct stat st;

        if (r->overwrite == OVERWRITE_REPLACE && !e->offer && e->size <= LOOK_FIRST_BYTES)
                return VERDICT_TAKE; /* rename(2) will tell */
        if (fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return VERDICT_TAKE;
        if (S_ISDIR(st.st_mode)) {
                on_failed(r, number, e->path, EEXIST, "A directory is where the file should be");
                return VERDICT_FAILED;
        }
        if (r->resume && e->kind == ENTRY_FILE && is_complete(e, &st))
                return VERDICT_COMPLETE;
        switch (r->overwrite) {
        case OVERWRITE_REPLACE:
                return VERDICT_TAKE;
        case OVERWRITE_FAIL:
                on_failed(r, number, e->path, EEXIST, "It exists already");
                return VERDICT_FAILED;
        case OVERWRITE_UPDATE:
                return is_newer(e, &st) ? VERDICT_TAKE : VERDICT_LEAVE;
        }
        return VERDICT_TAKE;
}

/* The single file is there already, of an earlier attempt whose DONE was lost: its digest is still owed. */
static void start_verify(Receiver *r, Directory *d, const char *name)
{
        if (r->is_tree)
                return;
        r->verify_fd = openat(d->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        r->verify = digest_new();
        if (!r->verify)
                r->verify_fd = fd_close(r->verify_fd);
}

static int on_offer(Receiver *r, Incoming *in)
{
        if (r->n_offers == OFFERS_MAX) {
                drop_incoming(r, in, false);
                return protocol(r, "too many offers at once");
        }
        if (r->n_offered_bytes + entry_size(in->e) > OFFERED_MAX) {
                fail(r, in->number, in->e->path, WIRE_TOO_LARGE, "Its attributes are too large");
                drop_incoming(r, in, true);
                return 0;
        }
        r->offers[(r->offers_first + r->n_offers++) % OFFERS_MAX] = in;
        r->n_offered_bytes += entry_size(in->e);
        if (r->resume && incoming_resume(in) >= 0)
                return 0; /* WANT when it was examined */
        (void)record_put_want(&r->out, in->number, WANT_ALL, 0, NULL, 0);
        return 0;
}

static int place_file(Receiver *r, Directory *d, const char *name, const Entry *e, uint64_t number)
{
        Incoming *in;
        Verdict verdict = VERDICT_TAKE;

        if (r->state == CURRENT_OPEN && !e->offer)
                return protocol(r, "a file begins before the one before it has ended");
        if (r->sink_fd < 0)
                verdict = judge_existing(r, d, name, e, number);
        if (verdict == VERDICT_LEAVE || verdict == VERDICT_COMPLETE) {
                r->progress.n_files++;
                r->progress.n_bytes += e->size == SIZE_UNKNOWN ? 0 : e->size;
                if (verdict == VERDICT_COMPLETE)
                        start_verify(r, d, name);
        }
        if (verdict != VERDICT_TAKE) {
                if (!e->offer)
                        swallow(r, number);
                else if (verdict != VERDICT_FAILED)
                        (void)record_put_want(&r->out, number, WANT_NONE, 0, NULL, 0);
                return 0;
        }
        in = incoming_new(d, name, e, number, r->id, e->offer || r->sink_fd >= 0 ? NULL : r->small);
        if (!in) {
                on_failed(r, number, e->path, ENOMEM, "Cannot begin it");
                if (!e->offer)
                        swallow(r, number);
                return 0;
        }
        if (r->sink_fd >= 0)
                incoming_use_sink(in, r->sink_fd);
        if (e->offer)
                return on_offer(r, in);
        r->current = in;
        r->current_number = number;
        r->state = CURRENT_OPEN;
        return 0;
}

static void place_symlink(Receiver *r, Directory *d, const char *name, const Entry *e, uint64_t number)
{
        char temporary[TEMPORARY_NAME_SIZE];
        const char *made = name;
        struct stat st;
        int error = 0;

        if (symlinkat(e->target, d->fd, name) < 0) {
                if (errno != EEXIST) {
                        on_failed(r, number, e->path, errno, "Cannot make the link");
                        return;
                }
                if (r->resume && fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) >= 0 &&
                    S_ISLNK(st.st_mode) && !is_newer(e, &st) && st.st_mtim.tv_sec == e->mtime_sec) {
                        r->progress.n_files++;
                        return;
                }
                switch (judge_existing(r, d, name, e, number)) {
                case VERDICT_FAILED:
                        return;
                case VERDICT_LEAVE:
                case VERDICT_COMPLETE:
                        r->progress.n_files++;
                        return;
                case VERDICT_TAKE:
                        break;
                }
                temporaries_format(temporary, r->id, number);
                (void)unlinkat(d->fd, temporary, 0);
                made = temporary;
                if (symlinkat(e->target, d->fd, temporary) < 0) {
                        on_failed(r, number, e->path, errno, "Cannot make the link");
                        return;
                }
        }
        error = -attributes_set_symlink(&r->rules, d->fd, made, e);
        if (error)
                on_failed(r, number, e->path, error, "Cannot set its owner or times");
        else if (made == temporary && renameat(d->fd, temporary, d->fd, name) < 0) {
                error = errno;
                on_failed(r, number, e->path, error,
                          error == EISDIR ? "A directory is where the link should be"
                                          : "Cannot give it its name");
        }
        if (error) {
                if (made == temporary)
                        (void)unlinkat(d->fd, temporary, 0);
                return;
        }
        d->is_touched = true;
        r->progress.n_files++;
}

static void place_hardlink(Receiver *r, Directory *d, const char *name, const Entry *e, uint64_t number)
{
        const char *slash = strrchr(e->target, '/'), *target_name = slash ? slash + 1 : e->target;
        _cleanup_free_ char *parent = slash ? strndup(e->target, (size_t)(slash - e->target)) : strdup(".");
        Verdict verdict;
        int fd, error;

        verdict = r->resume ? VERDICT_TAKE : judge_existing(r, d, name, e, number);
        if (verdict == VERDICT_FAILED)
                return;
        if (verdict != VERDICT_TAKE) {
                r->progress.n_files++;
                return;
        }
        fd = parent ? fs_open_beneath(r->root_fd, parent, O_RDONLY | O_DIRECTORY, 0) : -ENOMEM;
        if (fd < 0) {
                on_failed(r, number, e->path, -fd, "Cannot find the file it shares its content with");
                return;
        }
        error = -publish_add_link(r->publish, d, name, number, fd, target_name);
        if (error)
                on_failed(r, number, e->path, error, "Cannot link it");
}

static int mark_root(Receiver *r)
{
        char temporary[TEMPORARY_NAME_SIZE];
        int fd;

        if (!r->keep_partial || r->is_marked)
                return 0;
        temporaries_format(temporary, r->id, 0);
        fd = openat(r->base->fd, temporary, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        (void)fd_close(fd);
        r->is_marked = true;
        return 0;
}

/* fd of the directory, which is made or, if it is one already, taken as it is; or -errno. */
static int open_directory(Receiver *r, Directory *parent, const char *name, bool *ret_created)
{
        bool is_root = parent == r->base;
        int fd, error;

        *ret_created = false;
        if (parent->fd < 0)
                return -ENOENT;
        if (is_root && name[0] == 0)
                return openat(parent->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0)
                return fd;
        error = errno;
        if (error != ENOENT)
                return error == ENOTDIR || error == ELOOP ? -EEXIST : -error;
        if (is_root) {
                error = -mark_root(r);
                if (error)
                        return -error;
        }
        if (mkdirat(parent->fd, name, 0700) < 0)
                return -errno;
        *ret_created = parent->is_touched = true;
        fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static int place_directory(Receiver *r, Directory *parent, const char *name, const Entry *e, uint64_t number)
{
        const char *note = NULL;
        bool created = false;
        Directory *d;
        int fd;

        if (r->depth == TREE_DEPTH_MAX)
                return protocol(r, "directories are nested too deeply");
        fd = open_directory(r, parent, name, &created);
        if (fd < 0)
                on_failed(r, number, e->path, -fd,
                          parent->fd < 0 && parent != r->base ? "Its directory could not be made"
                          : fd == -EEXIST                     ? "A file is where the directory should be"
                                                              : "Cannot make or enter the directory");
        d = directory_new(parent, fd, number, e->path);
        if (!d)
                return protocol(r, "out of memory");
        r->top = d;
        r->depth++;
        if (fd < 0)
                return 0;
        d->is_created = created;
        d->stale_id = r->resume ? r->id : NULL;
        if (parent == r->base)
                r->root_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (directory_keep(d, e) < 0)
                on_failed(r, number, e->path, ENOMEM, "Cannot keep its attributes in mind");
        fd = attributes_set_xattrs(&r->rules, d->fd, e, &note);
        if (fd < 0)
                on_failed(r, number, e->path, -fd, "Cannot set its attributes");
        else if (note)
                on_failed(r, number, e->path, 0, note);
        return 0;
}

/* The name of the entry in the directory that was entered last. NULL: it does not lie there. */
static const char *name_in_top(const Receiver *r, const char *path)
{
        const char *parent = r->top->path;
        size_t n = strlen(parent);

        if (n > 0) {
                if (strncmp(path, parent, n) != 0 || path[n] != '/')
                        return NULL;
                path += n + 1;
        }
        return *path == 0 || strchr(path, '/') ? NULL : path;
}

static int on_entry(Receiver *r, const Entry *e)
{
        uint64_t number = r->n_entries++;
        Directory *d = r->top ? r->top : r->base;
        const char *name = r->name ? r->name : "";

        if (r->state == CURRENT_SWALLOWED)
                r->state = CURRENT_NONE;
        if (r->state == CURRENT_OPEN && !r->current->e->offer)
                return protocol(r, "an entry comes before the file before it has ended");
        if (number == 0) {
                if (e->path[0] != 0)
                        return broken(r, WIRE_INVALID_PATH,
                                      "the first entry has a path, though it is the object itself");
                if ((e->kind == ENTRY_DIRECTORY) != r->is_tree)
                        return protocol(r, "the object is not of the kind that was announced");
                if (r->sink_fd >= 0 && e->kind != ENTRY_FILE)
                        return protocol(r, "only a file can go into a descriptor");
        } else {
                if (!r->top)
                        return protocol(r, "an entry comes behind the object");
                name = name_in_top(r, e->path);
                if (!name)
                        return broken(r, WIRE_INVALID_PATH,
                                      "an entry does not lie in the directory that was entered");
                if (strcmp(name, d->last) <= 0)
                        return protocol(r, "a directory's entries come twice or out of order");
                if (temporaries_is(name, NULL))
                        return broken(r, WIRE_INVALID_PATH, "an entry has the name of a temporary file");
                (void)snprintf(d->last, sizeof d->last, "%s", name);
        }
        if (e->kind == ENTRY_DIRECTORY)
                return place_directory(r, d, name, e, number);
        if (d->fd < 0 && r->sink_fd < 0) {
                on_failed(r, number, e->path, ENOENT, "Its directory could not be made");
                if (e->kind == ENTRY_FILE && !e->offer)
                        swallow(r, number);
                return 0;
        }
        switch (e->kind) {
        case ENTRY_FILE:
                return place_file(r, d, name, e, number);
        case ENTRY_SYMLINK:
                place_symlink(r, d, name, e, number);
                return 0;
        case ENTRY_HARDLINK:
                place_hardlink(r, d, name, e, number);
                return 0;
        case ENTRY_DIRECTORY:
                break;
        }
        return 0;
}

/* The content of entry `number` is spoken about: 1: it is r->current; 0: nobody wants it any more; -EBADMSG.
 */
static int select_current(Receiver *r, uint64_t number)
{
        if (r->state != CURRENT_NONE && r->current_number == number)
                return r->state == CURRENT_OPEN;
        if (r->state == CURRENT_OPEN || r->n_offers == 0 || offer_at(r, 0)->number != number)
                return protocol(r, "content comes for no entry that waits for it");
        r->current = take_offer(r);
        r->current_number = number;
        r->state = CURRENT_OPEN;
        return 1;
}

/* The current file cannot be finished; the rest of its content is of no use. */
static void give_up_current(Receiver *r, int error, const char *what)
{
        Incoming *in = TAKE(r->current);

        on_failed(r, in->number, in->e->path, error, what);
        drop_incoming(r, in, true);
        r->is_behind = false;
        swallow(r, r->current_number);
}

static const char *what_failed(int error)
{
        return error == EILSEQ ? "Its content arrived damaged" : "Cannot write it";
}

/* Holes and what a resume found count like what was sent. */
static void count_content(Receiver *r, Incoming *in)
{
        r->progress.n_bytes += in->end - in->n_counted;
        in->n_counted = in->end;
}

/* *ret_taken: how many bytes of the record's content; 0 or -EBADMSG */
static int on_data(Receiver *r, const Record *record, size_t *ret_taken)
{
        ssize_t k;
        int selected;

        *ret_taken = record->n_data;
        selected = select_current(r, record->entry);
        if (selected <= 0)
                return selected;
        k = incoming_write(r->current, record->offset, record->data, record->n_data);
        r->is_behind = k == -EINPROGRESS;
        if (k == -EINPROGRESS)
                k = 0;
        if (k == -EBADMSG)
                return protocol(r, "content is not where or not as long as it was announced");
        if (k < 0) {
                give_up_current(r, (int)-k, what_failed((int)-k));
                return 0;
        }
        count_content(r, r->current);
        *ret_taken = (size_t)k;
        return 0;
}

static void settle_current(Receiver *r)
{
        Incoming *in = TAKE(r->current);
        const char *note = NULL;
        int e = 0;

        r->state = CURRENT_NONE;
        r->progress.digest = r->final_digest;
        if (in->is_sink) {
                if (fsync(in->fd) < 0 && errno != EINVAL && errno != EROFS && errno != EOPNOTSUPP)
                        on_failed(r, in->number, in->e->path, errno, "Cannot make it durable");
                else
                        r->progress.n_files++;
                drop_incoming(r, in, false);
                return;
        }
        e = incoming_complete(in, &r->rules, &note);
        if (e >= 0)
                e = publish_add(r->publish, in->d, in->name, in->number, TAKE_FD(in->fd),
                                in->n_unsynced > 0 ? in->n_unsynced : in->end);
        if (e < 0)
                on_failed(r, in->number, in->e->path, -e, "Cannot complete it");
        else if (note)
                on_failed(r, in->number, in->e->path, 0, note);
        drop_incoming(r, in, true);
}

/* Tries to finish the current file. */
static void finish_current(Receiver *r)
{
        int e = incoming_finish(r->current, r->final_size, r->final_digest);

        if (e == -EINPROGRESS || e == -EAGAIN) {
                r->state = CURRENT_FINISHING;
                return;
        }
        if (e < 0) {
                give_up_current(r, -e, what_failed(-e));
                return;
        }
        count_content(r, r->current);
        settle_current(r);
}

static int on_file_end(Receiver *r, const Record *record)
{
        int selected = select_current(r, record->entry);

        if (selected < 0)
                return selected;
        if (selected == 0) {
                r->state = CURRENT_NONE;
                return 0;
        }
        r->final_size = record->size;
        r->final_digest = record->digest;
        finish_current(r);
        return 0;
}

/* The sender could not read something. */
static int on_sender_failed(Receiver *r, const Record *record)
{
        int selected;

        if (record->entry != UINT64_MAX) {
                selected = select_current(r, record->entry);
                if (selected < 0)
                        return selected;
                if (selected > 0)
                        drop_incoming(r, TAKE(r->current), true);
                r->state = CURRENT_NONE;
                if (selected == 0)
                        return 0; /* it had failed here before */
        }
        if (record->flags & RECORD_FLAG_SKIPPED)
                return 0;
        r->progress.n_failed++;
        remember(r, record->error == WIRE_OK ? WIRE_FAILED : record->error, record->text, record->path);
        return 0;
}

static int on_leave(Receiver *r)
{
        Directory *d = r->top;

        if (!d)
                return protocol(r, "a directory is left that was not entered");
        if (r->state == CURRENT_OPEN && !r->current->e->offer)
                return protocol(r, "a directory is left with a file open");
        r->top = d->parent == r->base ? NULL : d->parent;
        r->depth--;
        d->is_complete = true;
        unref(r, d);
        return 0;
}

static int on_end(Receiver *r)
{
        if (r->top || r->state == CURRENT_OPEN || r->n_offers > 0)
                return protocol(r, "the end comes before everything was said");
        if (r->n_entries == 0 && r->progress.n_failed == 0)
                return protocol(r, "the end comes before the object");
        r->is_ending = true;
        if (r->verify_fd < 0)
                end(r);
        return 0;
}

static int on_record(Receiver *r, const Record *record, size_t *ret_taken)
{
        switch (record->type) {
        case RECORD_TOTALS:
                on_totals(r, record);
                return 0;
        case RECORD_ENTRY:
                return on_entry(r, &record->object);
        case RECORD_DATA:
                return on_data(r, record, ret_taken);
        case RECORD_FILE_END:
                return on_file_end(r, record);
        case RECORD_LEAVE:
                return on_leave(r);
        case RECORD_FAILED:
                return on_sender_failed(r, record);
        case RECORD_END:
                return on_end(r);
        case RECORD_WANT:
        case RECORD_ACK:
        case RECORD_DONE:
                break;
        }
        return protocol(r, "the sender sent a receiver's record");
}

/* The first offer whose temporary is not examined yet. */
static Incoming *find_unexamined(Receiver *r)
{
        for (size_t i = 0; i < r->n_offers; i++)
                if (offer_at(r, i)->is_resumed && !offer_at(r, i)->is_examined)
                        return offer_at(r, i);
        return NULL;
}

static void examine(Receiver *r, Incoming *in)
{
        int e = incoming_examine(in);

        if (e == -EINPROGRESS)
                return;
        if (e < 0) {
                /* What cannot be read is written anew. */
                in->n_blocks = 0;
        }
        if (incoming_keeps(in))
                (void)record_put_want(&r->out, in->number, WANT_REST, in->have, in->blocks, in->n_blocks);
        else
                (void)record_put_want(&r->out, in->number, WANT_ALL, 0, NULL, 0);
}

static void verify(Receiver *r)
{
        static uint8_t buf[256 * 1024];
        ssize_t k = 0;

        for (int i = 0; i < 32; i++) {
                k = read(r->verify_fd, buf, sizeof buf);
                if (k <= 0)
                        break;
                digest_update(r->verify, buf, (size_t)k);
        }
        if (k > 0)
                return;
        if (k == 0)
                r->progress.digest = digest_value(r->verify);
        r->verify_fd = fd_close(r->verify_fd);
        if (r->is_ending)
                end(r);
}

/* A slice of what takes long and needs nothing from the peer. False: there is nothing such. */
static bool work(Receiver *r)
{
        Incoming *in;

        if (r->state == CURRENT_FINISHING) {
                finish_current(r);
                return r->state != CURRENT_FINISHING || receiver_fd(r) < 0;
        }
        if (r->verify_fd >= 0) {
                verify(r);
                return true;
        }
        in = find_unexamined(r);
        if (in) {
                examine(r, in);
                return true;
        }
        return r->is_behind;
}

ssize_t receiver_feed(Receiver *r, const uint8_t *untrusted_data, size_t n, const char **ret_why)
{
        size_t used = 0;

        if (r->is_broken)
                goto out_broken;
        if (r->state == CURRENT_FINISHING)
                finish_current(r);
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
                        (void)broken(r, record.error, r->why);
                        goto out_broken;
                }
                used += taken;
                if (e == 0)
                        break;
                if (r->is_ending) {
                        (void)protocol(r, "the sender goes on after the end");
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
                bool worked = !r->is_over && work(r);

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
