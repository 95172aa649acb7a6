/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Entries into their places. The order of entries is enforced: each lies in the directory entered last,
 * behind the one before by name. So no name comes twice, nothing comes beneath a link, and nothing has to be
 * remembered but what failed, for a hard link's sake.
 */

#include "files/receiver-state.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/fs.h"

#define LOOK_FIRST_BYTES (1024u * 1024) /* so much is not taken in vain: a look at the name is worth it */
#define OFFERED_MAX (8u * 1024 * 1024)  /* attributes of offered entries */

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
                receiver_failed(r, number, e->path, EEXIST, "A directory is where the file should be");
                return VERDICT_FAILED;
        }
        if (r->resume && e->kind == ENTRY_FILE && is_complete(e, &st))
                return VERDICT_COMPLETE;
        switch (r->overwrite) {
        case OVERWRITE_REPLACE:
                return VERDICT_TAKE;
        case OVERWRITE_FAIL:
                receiver_failed(r, number, e->path, EEXIST, "It exists already");
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
                receiver_drop(r, in, false);
                return receiver_protocol(r, "too many offers at once");
        }
        if (r->n_offered_bytes + entry_size(in->e) > OFFERED_MAX) {
                receiver_fail(r, in->number, in->e->path, WIRE_TOO_LARGE, "Its attributes are too large");
                receiver_drop(r, in, true);
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
                return receiver_protocol(r, "a file begins before the one before it has ended");
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
                        receiver_swallow(r, number);
                else if (verdict != VERDICT_FAILED)
                        (void)record_put_want(&r->out, number, WANT_NONE, 0, NULL, 0);
                return 0;
        }
        in = incoming_new(d, name, e, number, r->id, e->offer || r->sink_fd >= 0 ? NULL : r->small);
        if (!in) {
                receiver_failed(r, number, e->path, ENOMEM, "Cannot begin it");
                if (!e->offer)
                        receiver_swallow(r, number);
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
                        receiver_failed(r, number, e->path, errno, "Cannot make the link");
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
                        receiver_failed(r, number, e->path, errno, "Cannot make the link");
                        return;
                }
        }
        error = -attributes_set_symlink(&r->rules, d->fd, made, e);
        if (error)
                receiver_failed(r, number, e->path, error, "Cannot set its owner or times");
        else if (made == temporary && renameat(d->fd, temporary, d->fd, name) < 0) {
                error = errno;
                receiver_failed(r, number, e->path, error,
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
        const char *slash = strrchr(e->target, '/');
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
                receiver_failed(r, number, e->path, -fd, "Cannot find the file it shares its content with");
                return;
        }
        error = -publish_add_link(r->publish, d, name, number, fd, e->target);
        if (error)
                receiver_failed(r, number, e->path, error, "Cannot link it");
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
                return receiver_protocol(r, "directories are nested too deeply");
        fd = open_directory(r, parent, name, &created);
        if (fd < 0)
                receiver_failed(r, number, e->path, -fd,
                                parent->fd < 0 && parent != r->base ? "Its directory could not be made"
                                : fd == -EEXIST ? "A file is where the directory should be"
                                                : "Cannot make or enter the directory");
        d = directory_new(parent, fd, number, e->path);
        if (!d)
                return receiver_protocol(r, "out of memory");
        r->top = d;
        r->depth++;
        if (fd < 0)
                return 0;
        d->is_created = created;
        if (r->resume && !created)
                d->is_created = parent == r->base ? r->is_marked
                                                  : parent->is_created || directory_find_mark(d, r->id);
        else if (created && r->keep_partial && parent != r->base && !parent->is_created)
                directory_mark(d, r->id);
        /* What was there is not ours to change, and what a tree's contents go into may be / or /etc. */
        d->keeps_own = !d->is_created && (!r->rules.preserve || (parent == r->base && name[0] == 0));
        d->stale_id = r->resume ? r->id : NULL;
        if (parent == r->base)
                r->root_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (directory_keep(d, e) < 0)
                receiver_failed(r, number, e->path, ENOMEM, "Cannot keep its attributes in mind");
        if (d->keeps_own)
                return 0;
        fd = attributes_set_xattrs(&r->rules, d->fd, e, &note);
        if (fd < 0)
                receiver_failed(r, number, e->path, -fd, "Cannot set its attributes");
        else if (note)
                receiver_failed(r, number, e->path, 0, note);
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

int receiver_on_entry(Receiver *r, const Entry *e)
{
        uint64_t number = r->n_entries++;
        Directory *d = r->top ? r->top : r->base;
        const char *name = r->name ? r->name : "";

        if (r->state == CURRENT_SWALLOWED)
                r->state = CURRENT_NONE;
        if (r->state == CURRENT_OPEN && !r->current->e->offer)
                return receiver_protocol(r, "an entry comes before the file before it has ended");
        if (number == 0) {
                if (e->path[0] != 0)
                        return receiver_break(r, WIRE_INVALID_PATH,
                                              "the first entry has a path, though it is the object itself");
                if ((e->kind == ENTRY_DIRECTORY) != r->is_tree)
                        return receiver_protocol(r, "the object is not of the kind that was announced");
                if (r->sink_fd >= 0 && e->kind != ENTRY_FILE)
                        return receiver_protocol(r, "only a file can go into a descriptor");
        } else {
                if (!r->top)
                        return receiver_protocol(r, "an entry comes behind the object");
                name = name_in_top(r, e->path);
                if (!name)
                        return receiver_break(r, WIRE_INVALID_PATH,
                                              "an entry does not lie in the directory that was entered");
                if (strcmp(name, d->last) <= 0)
                        return receiver_protocol(r, "a directory's entries come twice or out of order");
                if (temporaries_is(name, NULL))
                        return receiver_break(r, WIRE_INVALID_PATH,
                                              "an entry has the name of a temporary file");
                (void)snprintf(d->last, sizeof d->last, "%s", name);
        }
        if (e->kind == ENTRY_DIRECTORY)
                return place_directory(r, d, name, e, number);
        if (d->fd < 0 && r->sink_fd < 0) {
                receiver_failed(r, number, e->path, ENOENT, "Its directory could not be made");
                if (e->kind == ENTRY_FILE && !e->offer)
                        receiver_swallow(r, number);
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

int receiver_on_leave(Receiver *r)
{
        Directory *d = r->top;

        if (!d)
                return receiver_protocol(r, "a directory is left that was not entered");
        if (r->state == CURRENT_OPEN && !r->current->e->offer)
                return receiver_protocol(r, "a directory is left with a file open");
        r->top = d->parent == r->base ? NULL : d->parent;
        r->depth--;
        d->is_complete = true;
        receiver_unref(r, d);
        return 0;
}
