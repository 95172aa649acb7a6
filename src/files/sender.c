/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The sender's conversation: opens and judges the source, turns what the walk finds into records, and reads
 * contents straight behind their record headers into the caller's buffer. Offered entries wait in a ring,
 * open, until the receiver has said what it wants of them; their contents go out in order.
 */

#include "files/sender.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/attributes.h"
#include "files/content.h"
#include "files/links.h"
#include "files/receiver.h"
#include "files/walk.h"
#include "proto/entry.h"

#define OFFERS_AHEAD 128u /* each holds a descriptor; at most OFFERS_MAX */
#define SCAN_SLICE 1024
#define ROOM_MIN 512u /* less than that is not worth a DATA record */

typedef struct Offer {
        uint64_t number;
        int fd;
        struct stat st;
        char *path;
        bool answered;
        WantWhat want;
        uint64_t size;
        uint8_t *blocks;
        size_t n_blocks;
} Offer;

struct Sender {
        SenderSource source;
        bool preserve, negotiate, is_pseudo;
        int root_fd;
        uint64_t base;
        struct stat root_st;

        Walk *scan, *walk; /* of a tree */
        Links *scan_links, *links;
        bool scan_done, started, walked, ended;
        uint64_t n_allocated;

        uint64_t n_entries;
        bool reading;
        Content content;
        char *content_path;
        Digest *digest;
        Attributes attributes;
        Offer offers[OFFERS_AHEAD];
        size_t offers_first, n_offers;
        char *held_path, *held_target; /* a hard link to what is still only offered */
        struct stat held_st;

        RecordBuffer out;
        RecordParser *parser;
        SenderProgress progress;
        char *text, *path; /* behind progress */
};

static void offer_done(Offer *o)
{
        (void)fd_close(o->fd);
        free(o->path);
        free(o->blocks);
        *o = (Offer){ .fd = -EBADF };
}

static Offer *offer_at(Sender *s, size_t i)
{
        return &s->offers[(s->offers_first + i) % OFFERS_AHEAD];
}

Sender *sender_free(Sender *s)
{
        if (!s)
                return NULL;
        for (size_t i = 0; i < s->n_offers; i++)
                offer_done(offer_at(s, i));
        if (s->reading)
                content_done(&s->content);
        (void)walk_free(s->scan);
        (void)walk_free(s->walk);
        (void)links_free(s->scan_links);
        (void)links_free(s->links);
        (void)fd_close(s->root_fd);
        (void)digest_free(s->digest);
        attributes_done(&s->attributes);
        record_buffer_done(&s->out);
        (void)record_parser_free(s->parser);
        free(s->content_path);
        free(s->held_path);
        free(s->held_target);
        free(s->text);
        free(s->path);
        free(s);
        return NULL;
}
DEFINE_CLEANUP(Sender *, sender_free);

static _printf_(3, 4) WireError refuse(char **ret_text, WireError error, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        if (vasprintf(ret_text, format, ap) < 0)
                *ret_text = NULL;
        va_end(ap);
        return error;
}

static WireError refuse_errno(char **ret_text, int error, const char *what, const char *path)
{
        return refuse(ret_text, wire_error_from_errno(error), "%s %s: %s", what, path, strerror(error));
}

/* Files of procfs and its like tell a size that means nothing. */
static bool is_pseudo_file(int fd, const struct stat *st)
{
        struct statfs fs;

        if (st->st_blocks > 0 || st->st_size > 4096 || fstatfs(fd, &fs) < 0)
                return false;
        switch ((unsigned long)fs.f_type) {
        case PROC_SUPER_MAGIC:
        case SYSFS_MAGIC:
        case DEBUGFS_MAGIC:
        case TRACEFS_MAGIC:
        case SECURITYFS_MAGIC:
        case CGROUP_SUPER_MAGIC:
        case CGROUP2_SUPER_MAGIC:
                return true;
        default:
                return false;
        }
}

/* Opens the source by its path. A device or a FIFO outside the roots is not even opened: that alone can do
 * harm. */
static WireError open_source(Sender *s, const SenderConfig *config, char **ret_text)
{
        _cleanup_close_ int probe = -EBADF;
        struct stat st;
        int r;

        if (config->roots) {
                probe = open(config->path, O_PATH | O_CLOEXEC);
                if (probe < 0 || fstat(probe, &st) < 0)
                        return refuse_errno(ret_text, errno, "Cannot open", config->path);
                r = fs_is_beneath_roots(probe, config->roots);
                if (r < 0)
                        return refuse_errno(ret_text, -r, "Cannot tell where this is:", config->path);
                if (r == 0)
                        return refuse(ret_text, WIRE_PERMISSION_DENIED,
                                      "The guest's policy does not let %s be read", config->path);
        }
        s->root_fd = open(config->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (s->root_fd < 0)
                return errno == ENXIO ? refuse(ret_text, WIRE_UNSUPPORTED, "%s is a socket", config->path)
                                      : refuse_errno(ret_text, errno, "Cannot open", config->path);
        if (fstat(s->root_fd, &s->root_st) < 0)
                return refuse_errno(ret_text, errno, "Cannot look at", config->path);
        if (config->roots && (s->root_st.st_dev != st.st_dev || s->root_st.st_ino != st.st_ino))
                return refuse(ret_text, WIRE_SOURCE_CHANGED, "%s was replaced while it was opened",
                              config->path);
        return WIRE_OK;
}

/* A descriptor of the caller's. A file is opened once more where that is allowed, for looking for holes
 * moves the offset, which is shared with the caller. */
static WireError adopt_source(Sender *s, int fd, char **ret_text)
{
        char link[64];
        off_t at;
        int own;

        s->root_fd = fd;
        if (fstat(fd, &s->root_st) < 0)
                return refuse_errno(ret_text, errno, "Cannot look at", "the descriptor");
        if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
                return refuse(ret_text, WIRE_INVALID_ARGS, "The descriptor is not open for reading");
        if (!S_ISREG(s->root_st.st_mode))
                return WIRE_OK;
        at = lseek(fd, 0, SEEK_CUR);
        s->base = at > 0 ? (uint64_t)at : 0;
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        own = open(link, O_RDONLY | O_CLOEXEC);
        if (own >= 0) {
                (void)fd_close(s->root_fd);
                s->root_fd = own;
        } else
                s->root_st.st_blocks = s->root_st.st_size / 512 + 1; /* no holes for us to look for */
        return WIRE_OK;
}

static void find_name(const char *path, char ret_name[256])
{
        size_t end = strlen(path), start;

        while (end > 0 && path[end - 1] == '/')
                end--;
        for (start = end; start > 0 && path[start - 1] != '/';)
                start--;
        (void)snprintf(ret_name, 256, "%.*s", (int)MIN(end - start, (size_t)255), path + start);
}

static void count(Sender *s, const struct stat *st)
{
        uint64_t size = (uint64_t)st->st_size, allocated = (uint64_t)st->st_blocks * 512;

        s->source.n_bytes += size;
        s->n_allocated += MIN(size, allocated);
}

static WireError start_tree(Sender *s, char **ret_text)
{
        int fds[2] = { openat(s->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                       openat(s->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) };

        if (fds[0] < 0 || fds[1] < 0) {
                int error = errno;

                (void)fd_close(fds[0]);
                (void)fd_close(fds[1]);
                return refuse_errno(ret_text, error, "Cannot enter", s->source.name);
        }
        s->source.is_tree = true;
        s->links = links_new();
        s->scan_links = links_new();
        if (walk_new(fds[0], &s->scan) < 0) {
                (void)fd_close(fds[1]);
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        }
        if (walk_new(fds[1], &s->walk) < 0 || !s->links || !s->scan_links)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");
        return WIRE_OK;
}

WireError sender_new(const SenderConfig *config, Sender **ret, char **ret_text)
{
        _cleanup_(sender_freep) Sender *s = calloc(1, sizeof *s);
        const char *shown = config->fd >= 0 ? "The descriptor" : config->path;
        WireError error;

        *ret_text = NULL;
        if (!s) {
                (void)fd_close(config->fd);
                return WIRE_FAILED;
        }
        s->root_fd = config->fd >= 0 ? config->fd : -EBADF;
        s->preserve = config->preserve;
        s->negotiate = config->negotiate;
        s->progress.text = s->progress.path = "";
        s->digest = digest_new();
        s->parser = record_parser_new();
        if (!s->digest || !s->parser)
                return refuse(ret_text, WIRE_FAILED, "Out of memory");

        error = config->fd >= 0 ? adopt_source(s, config->fd, ret_text) : open_source(s, config, ret_text);
        if (error != WIRE_OK)
                return error;
        find_name(config->fd >= 0 || !config->path ? "" : config->path, s->source.name);
        s->source.inode = s->root_st.st_ino;
        s->source.mtime_sec = s->root_st.st_mtim.tv_sec;
        s->source.mtime_nsec = (uint32_t)s->root_st.st_mtim.tv_nsec;

        switch (s->root_st.st_mode & S_IFMT) {
        case S_IFDIR:
                error = start_tree(s, ret_text);
                if (error != WIRE_OK)
                        return error;
                break;
        case S_IFREG:
                s->is_pseudo = is_pseudo_file(s->root_fd, &s->root_st);
                s->source.is_stream = s->is_pseudo;
                break;
        default:
                s->source.is_stream = true;
        }
        if (s->source.is_stream) {
                s->source.n_bytes = SIZE_UNKNOWN;
                s->n_allocated = SIZE_UNKNOWN;
                s->source.n_files = 1;
                s->scan_done = true;
        } else if (!s->source.is_tree) {
                count(s, &s->root_st);
                s->source.n_bytes -= MIN(s->base, s->source.n_bytes);
                s->source.n_files = 1;
                s->scan_done = true;
        }
        if (config->expect_size != SIZE_UNKNOWN && !s->source.is_stream &&
            ((!s->source.is_tree && s->source.n_bytes != config->expect_size) ||
             s->source.inode != config->expect_inode || s->source.mtime_sec != config->expect_mtime_sec ||
             s->source.mtime_nsec != config->expect_mtime_nsec))
                return refuse(ret_text, WIRE_SOURCE_CHANGED,
                              "%s has changed since the transfer began; start it again", shown);
        *ret = TAKE(s);
        return WIRE_OK;
}

int sender_scan(Sender *s, SenderSource *ret)
{
        for (int i = 0; !s->scan_done && i < SCAN_SLICE; i++) {
                WalkItem item;
                struct stat st;
                WalkStep step = walk_next(s->scan, &item);

                if (step == WALK_END) {
                        s->scan = walk_free(s->scan);
                        s->scan_links = links_free(s->scan_links);
                        s->scan_done = true;
                } else if (step == WALK_OBJECT) {
                        if (item.type != DT_REG && item.type != DT_LNK)
                                continue;
                        s->source.n_files++;
                        if (item.type == DT_LNK ||
                            fstatat(item.dir_fd, item.name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                            !S_ISREG(st.st_mode))
                                continue;
                        if (st.st_nlink > 1 && links_meet(s->scan_links, &st, ""))
                                continue;
                        count(s, &st);
                }
        }
        *ret = s->source;
        if (s->scan_done)
                return 0;
        ret->n_bytes = ret->n_files = SIZE_UNKNOWN;
        return 1;
}

/* What cannot be said for want of memory ends the transfer in disorder, as a lost channel would. */
static void put_failed(Sender *s, uint64_t number, bool skipped, WireError error, const char *what,
                       int error_number, const char *path)
{
        char text[256];

        (void)snprintf(text, sizeof text, "%s%s%s", what, error_number ? ": " : "",
                       error_number ? strerror(error_number) : "");
        (void)record_put_failed(&s->out, number, skipped, error, text, path);
}

static void fail_errno(Sender *s, uint64_t number, const char *what, int error, const char *path)
{
        put_failed(s, number, false, wire_error_from_errno(error), what, error, path);
}

/* ENTRY for an open file, and its content: now, or when it is wanted. Takes fd. */
static void put_file(Sender *s, int fd, const struct stat *st, const char *path, bool is_stream,
                     uint64_t base)
{
        Entry e = { .kind = ENTRY_FILE, .path = path, .size = SIZE_UNKNOWN };
        bool offer = s->negotiate && !is_stream;
        uint64_t number = s->n_entries;
        int r;

        if (!is_stream)
                e.size = (uint64_t)st->st_size > base ? (uint64_t)st->st_size - base : 0;
        e.offer = offer;
        r = attributes_read(&s->attributes, fd, st, s->preserve, &e);
        if (is_stream && !S_ISREG(st->st_mode)) {
                e.mode = 0644; /* a pipe's own mode says nothing about the file it becomes */
                e.mtime_sec = (int64_t)(fs_realtime_usec() / USEC_PER_SEC);
        }
        if (r >= 0)
                r = record_put_entry(&s->out, &e);
        if (r < 0) {
                put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE,
                           "Its path or attributes are too large to be sent", 0, path);
                (void)fd_close(fd);
                return;
        }
        s->n_entries++;
        if (offer) {
                Offer *o = offer_at(s, s->n_offers++);

                *o = (Offer){ .number = number, .fd = fd, .st = *st, .path = strdup(path) };
                return;
        }
        content_init(&s->content, fd, st, is_stream, base, number, s->digest);
        free(s->content_path);
        s->content_path = strdup(path);
        s->reading = true;
}

static void put_link(Sender *s, EntryKind kind, const struct stat *st, const char *path, const char *target)
{
        Entry e = { .kind = kind, .path = path, .target = target };

        if (attributes_read(&s->attributes, -1, st, s->preserve, &e) < 0 ||
            record_put_entry(&s->out, &e) < 0)
                put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE, "Its path or target is too long to be sent",
                           0, path);
        else
                s->n_entries++;
}

/* A link comes behind the content of what it is linked to. */
static void put_hardlink(Sender *s, const struct stat *st, const char *path, const char *target)
{
        for (size_t i = 0; i < s->n_offers; i++) {
                if (!str_eq(offer_at(s, i)->path, target))
                        continue;
                s->held_path = strdup(path);
                s->held_target = strdup(target);
                s->held_st = *st;
                if (s->held_path && s->held_target)
                        return;
                put_failed(s, UINT64_MAX, false, WIRE_FAILED, "Out of memory", 0, path);
                free(TAKE(s->held_path));
                free(TAKE(s->held_target));
                return;
        }
        put_link(s, ENTRY_HARDLINK, st, path, target);
}

static void put_symlink(Sender *s, const WalkItem *item)
{
        char target[PATH_BYTES_MAX + 1];
        const char *known;
        struct stat st;
        ssize_t n;

        n = readlinkat(item->dir_fd, item->name, target, sizeof target);
        if (n < 0 || fstatat(item->dir_fd, item->name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                fail_errno(s, UINT64_MAX, "Cannot read the link", errno, item->path);
                return;
        }
        if (n == 0 || (size_t)n == sizeof target) {
                put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE, "Its target is too long to be sent", 0,
                           item->path);
                return;
        }
        target[n] = 0;
        known = st.st_nlink > 1 ? links_meet(s->links, &st, item->path) : NULL;
        if (known)
                put_hardlink(s, &st, item->path, known);
        else
                put_link(s, ENTRY_SYMLINK, &st, item->path, target);
}

static void put_regular(Sender *s, const WalkItem *item)
{
        struct stat st;
        int fd = openat(item->dir_fd, item->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

        if (fd < 0) {
                fail_errno(s, UINT64_MAX, "Cannot open it", errno, item->path);
                return;
        }
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
                put_failed(s, UINT64_MAX, false, WIRE_SOURCE_CHANGED, "It was replaced while it was opened",
                           0, item->path);
                (void)fd_close(fd);
                return;
        }
        if (st.st_nlink > 1) {
                const char *known = links_meet(s->links, &st, item->path);

                if (known) {
                        put_hardlink(s, &st, item->path, known);
                        (void)fd_close(fd);
                        return;
                }
        }
        put_file(s, fd, &st, item->path, is_pseudo_file(fd, &st), 0);
}

static void put_directory(Sender *s, const WalkItem *item)
{
        Entry e = { .kind = ENTRY_DIRECTORY, .path = item->path };
        struct stat st;
        int r;

        if (fstat(item->dir_fd, &st) < 0) {
                fail_errno(s, UINT64_MAX, "Cannot look at it", errno, item->path);
                st = (struct stat){ .st_mode = 0700 };
        }
        r = attributes_read(&s->attributes, item->dir_fd, &st, s->preserve, &e);
        if (r < 0) {
                /* What is inside still wants its directory. */
                put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE, "Its attributes are too large to be sent",
                           0, item->path);
                e.n_xattrs = 0;
        }
        (void)record_put_entry(&s->out, &e);
        s->n_entries++;
}

static void walk_step(Sender *s)
{
        WalkItem item;

        switch (walk_next(s->walk, &item)) {
        case WALK_END:
                s->walked = true;
                break;
        case WALK_DIRECTORY:
                put_directory(s, &item);
                break;
        case WALK_LEAVE:
                (void)record_put_leave(&s->out);
                break;
        case WALK_FAILED:
                put_failed(s, UINT64_MAX, false,
                           item.error == ELOOP || item.error == ENAMETOOLONG
                                   ? WIRE_TOO_LARGE
                                   : wire_error_from_errno(item.error),
                           "Cannot enter it", item.error, item.path);
                break;
        case WALK_OBJECT:
                if (receiver_is_temporary(item.name, NULL))
                        put_failed(s, UINT64_MAX, true, WIRE_UNSUPPORTED,
                                   "It is a transfer's temporary file", 0, item.path);
                else if (item.type == DT_REG)
                        put_regular(s, &item);
                else if (item.type == DT_LNK)
                        put_symlink(s, &item);
                else
                        put_failed(s, UINT64_MAX, true, WIRE_UNSUPPORTED,
                                   item.type == DT_FIFO   ? "It is a fifo"
                                   : item.type == DT_SOCK ? "It is a socket"
                                                          : "It is a device",
                                   0, item.path);
                break;
        }
}

/* The next object, as records in s->out. */
static void next_object(Sender *s)
{
        if (s->source.is_tree) {
                walk_step(s);
                return;
        }
        s->walked = true;
        put_file(s, TAKE_FD(s->root_fd), &s->root_st, "", s->source.is_stream, s->base);
}

/* The first offer was answered: its content is next, or it is done. */
static void take_offer(Sender *s)
{
        Offer *o = offer_at(s, 0);

        s->offers_first = (s->offers_first + 1) % OFFERS_AHEAD;
        s->n_offers--;
        if (o->want != WANT_NONE) {
                content_init(&s->content, TAKE_FD(o->fd), &o->st, false, s->source.is_tree ? 0 : s->base,
                             o->number, s->digest);
                free(s->content_path);
                s->content_path = TAKE(o->path);
                s->reading = true;
                if (o->want == WANT_REST)
                        (void)content_resume(&s->content, o->size, o->blocks, o->n_blocks);
        }
        offer_done(o);
}

static void stop_reading(Sender *s)
{
        content_done(&s->content);
        s->reading = false;
}

typedef enum Step { STEP_ON, STEP_WAIT, STEP_SLICE } Step;

static Step read_step(Sender *s, uint8_t *buf, size_t n, size_t *ret_n)
{
        const size_t head = RECORD_HEADER_SIZE + RECORD_DATA_PREFIX;
        const char *path = s->content_path ? s->content_path : "";
        uint64_t number = s->content.number, offset;
        ssize_t k;

        k = content_read(&s->content, buf + head, MIN(n, RECORD_HEADER_SIZE + RECORD_BODY_MAX) - head,
                         &offset);
        if (k == -EAGAIN)
                return STEP_WAIT;
        if (k == -EINPROGRESS)
                return STEP_SLICE;
        if (k > 0) {
                record_format_data(buf, number, offset, (size_t)k);
                s->progress.n_bytes_sent += (uint64_t)k;
                *ret_n = head + (size_t)k;
                return STEP_ON;
        }
        if (k == 0) {
                s->progress.digest = digest_value(s->digest);
                (void)record_put_file_end(&s->out, number, s->content.size, s->progress.digest);
        } else if (k == -ESTALE)
                put_failed(s, number, false, WIRE_SOURCE_CHANGED, "It changed while it was read", 0, path);
        else
                fail_errno(s, number, "Cannot read it", (int)-k, path);
        stop_reading(s);
        return STEP_ON;
}

static Step step(Sender *s, uint8_t *buf, size_t n, size_t *ret_n)
{
        SenderSource found;

        if (!s->scan_done) {
                if (sender_scan(s, &found) > 0)
                        return STEP_SLICE;
                return STEP_ON;
        }
        if (!s->started) {
                s->started = true;
                (void)record_put_totals(&s->out, s->source.n_bytes, s->source.n_files, s->n_allocated);
                return STEP_ON;
        }
        if (s->reading)
                return read_step(s, buf, n, ret_n);
        if (s->n_offers > 0 && offer_at(s, 0)->answered) {
                take_offer(s);
                return STEP_ON;
        }
        if (s->held_path && s->n_offers == 0) {
                put_link(s, ENTRY_HARDLINK, &s->held_st, s->held_path, s->held_target);
                free(TAKE(s->held_path));
                free(TAKE(s->held_target));
                return STEP_ON;
        }
        if (!s->walked && !s->held_path && s->n_offers < OFFERS_AHEAD) {
                next_object(s);
                return STEP_ON;
        }
        if (s->n_offers > 0)
                return STEP_WAIT;
        (void)record_put_end(&s->out);
        s->ended = true;
        return STEP_ON;
}

ssize_t sender_fill(Sender *s, uint8_t *buf, size_t n)
{
        size_t done = 0;

        for (;;) {
                size_t k = 0;
                Step next;

                if (s->progress.done) /* the receiver had enough */
                        return done > 0 ? (ssize_t)done : -ENODATA;
                done += record_buffer_take(&s->out, buf + done, n - done);
                if (s->out.n > 0 || (done > 0 && n - done < ROOM_MIN))
                        return (ssize_t)done;
                if (s->ended)
                        return done > 0 ? (ssize_t)done : -ENODATA;
                next = step(s, buf + done, n - done, &k);
                done += k;
                if (next == STEP_WAIT)
                        return (ssize_t)done;
                if (next == STEP_SLICE) {
                        if (done > 0)
                                return (ssize_t)done;
                        /* A sign of life, so that the caller comes again, and the peer sees that we are at
                         * work. */
                        if (record_put_totals(&s->out, s->scan_done ? s->source.n_bytes : SIZE_UNKNOWN,
                                              s->scan_done ? s->source.n_files : SIZE_UNKNOWN,
                                              s->scan_done ? s->n_allocated : SIZE_UNKNOWN) < 0)
                                return 0;
                        return (ssize_t)record_buffer_take(&s->out, buf, n);
                }
        }
}

static void set_result(Sender *s, const Record *r)
{
        char *text = strdup(r->text), *path = strdup(r->path);

        free(s->text);
        free(s->path);
        s->text = text;
        s->path = path;
        s->progress.error = r->error;
        s->progress.text = text ? text : "";
        s->progress.path = path ? path : "";
}

static Offer *find_offer(Sender *s, uint64_t number)
{
        for (size_t i = 0; i < s->n_offers; i++)
                if (offer_at(s, i)->number == number)
                        return offer_at(s, i);
        return NULL;
}

static int on_want(Sender *s, const Record *r, const char **ret_why)
{
        Offer *o = find_offer(s, r->entry);

        if (!o || o->answered) {
                *ret_why = "a WANT is for nothing that was offered";
                return -EBADMSG;
        }
        o->answered = true;
        o->want = r->want;
        if (r->want != WANT_REST)
                return 0;
        o->size = r->size;
        if (r->n_blocks > 0) {
                o->blocks = malloc(r->n_blocks * 8);
                if (!o->blocks)
                        return 0; /* nothing agrees then */
                memcpy(o->blocks, r->blocks, r->n_blocks * 8);
                o->n_blocks = r->n_blocks;
        }
        return 0;
}

static void on_failed(Sender *s, const Record *r)
{
        Offer *o;

        if (r->flags & RECORD_FLAG_SKIPPED)
                return;
        if (s->progress.error == WIRE_OK)
                set_result(s, r);
        s->progress.n_failed++;
        if (s->reading && s->content.number == r->entry) {
                stop_reading(s);
                return;
        }
        o = find_offer(s, r->entry);
        if (o) {
                o->answered = true;
                o->want = WANT_NONE;
        }
}

static int on_record(Sender *s, const Record *r, const char **ret_why)
{
        switch (r->type) {
        case RECORD_WANT:
                return on_want(s, r, ret_why);
        case RECORD_ACK:
                s->progress.n_bytes = r->size;
                s->progress.n_files = r->offset;
                return 0;
        case RECORD_FAILED:
                on_failed(s, r);
                return 0;
        case RECORD_DONE:
                s->progress.n_files = r->n_files;
                s->progress.n_bytes = r->n_bytes;
                s->progress.n_failed = r->n_failed;
                s->progress.digest = r->digest;
                set_result(s, r);
                s->progress.done = true;
                return 0;
        case RECORD_TOTALS:
        case RECORD_ENTRY:
        case RECORD_DATA:
        case RECORD_FILE_END:
        case RECORD_LEAVE:
        case RECORD_END:
                break;
        }
        *ret_why = "the receiver sent a sender's record";
        return -EBADMSG;
}

int sender_feed(Sender *s, const uint8_t *untrusted_data, size_t n, const char **ret_why)
{
        while (n > 0) {
                size_t taken;
                Record record;
                int r;

                if (s->progress.done) {
                        *ret_why = "the receiver goes on after DONE";
                        return -EBADMSG;
                }
                r = record_parser_next(s->parser, untrusted_data, n, &taken, &record, ret_why);
                if (r < 0)
                        return r;
                if (r > 0) {
                        r = on_record(s, &record, ret_why);
                        if (r < 0)
                                return r;
                }
                untrusted_data += taken;
                n -= taken;
        }
        return 0;
}

int sender_fd(const Sender *s)
{
        return s->reading && s->content.is_stream ? s->content.fd : -1;
}

const SenderProgress *sender_progress(const Sender *s)
{
        return &s->progress;
}
