/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What the walk finds, as records: files are opened and offered or begun, links told from files met before,
 * the rest is skipped with a note.
 */

#include "files/sender-state.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/receiver.h"

/* What cannot be said for want of memory ends the transfer in disorder, as a lost channel would. */
void sender_put_failed(Sender *s, uint64_t number, bool skipped, WireError error, const char *what,
                       int error_number, const char *path)
{
        char text[256];

        (void)snprintf(text, sizeof text, "%s%s%s", what, error_number ? ": " : "",
                       error_number ? strerror(error_number) : "");
        if (s->reported)
                s->reported(s->userdata, skipped ? WIRE_OK : error, text, path);
        (void)record_put_failed(&s->out, number, skipped, error, text, path);
}

void sender_put_errno(Sender *s, uint64_t number, const char *what, int error, const char *path)
{
        sender_put_failed(s, number, false, wire_error_from_errno(error), what, error, path);
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
                sender_put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE,
                                  "Its path or attributes are too large to be sent", 0, path);
                (void)fd_close(fd);
                return;
        }
        s->n_entries++;
        if (offer) {
                Offer *o = sender_offer_at(s, s->n_offers++);

                *o = (Offer){ .number = number, .fd = fd, .st = *st, .path = strdup(path) };
                return;
        }
        content_init(&s->content, fd, st, is_stream, base, number, s->digest);
        free(s->content_path);
        s->content_path = strdup(path);
        s->reading = true;
}

void sender_put_link(Sender *s, EntryKind kind, const struct stat *st, const char *path, const char *target)
{
        Entry e = { .kind = kind, .path = path, .target = target };

        if (attributes_read(&s->attributes, -1, st, s->preserve, &e) < 0 ||
            record_put_entry(&s->out, &e) < 0)
                sender_put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE,
                                  "Its path or target is too long to be sent", 0, path);
        else
                s->n_entries++;
}

/* A link comes behind the content of what it is linked to. */
static void put_hardlink(Sender *s, const struct stat *st, const char *path, const char *target)
{
        for (size_t i = 0; i < s->n_offers; i++) {
                if (!str_eq(sender_offer_at(s, i)->path, target))
                        continue;
                s->held_path = strdup(path);
                s->held_target = strdup(target);
                s->held_st = *st;
                if (s->held_path && s->held_target)
                        return;
                sender_put_failed(s, UINT64_MAX, false, WIRE_FAILED, "Out of memory", 0, path);
                free(TAKE(s->held_path));
                free(TAKE(s->held_target));
                return;
        }
        sender_put_link(s, ENTRY_HARDLINK, st, path, target);
}

static void put_symlink(Sender *s, const WalkItem *item)
{
        char target[PATH_BYTES_MAX + 1];
        const char *known;
        struct stat st;
        ssize_t n;

        n = readlinkat(item->dir_fd, item->name, target, sizeof target);
        if (n < 0 || fstatat(item->dir_fd, item->name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                sender_put_errno(s, UINT64_MAX, "Cannot read the link", errno, item->path);
                return;
        }
        if (n == 0 || (size_t)n == sizeof target) {
                sender_put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE, "Its target is too long to be sent",
                                  0, item->path);
                return;
        }
        target[n] = 0;
        known = st.st_nlink > 1 ? links_meet(s->links, &st, item->path) : NULL;
        if (known)
                put_hardlink(s, &st, item->path, known);
        else
                sender_put_link(s, ENTRY_SYMLINK, &st, item->path, target);
}

static void put_regular(Sender *s, const WalkItem *item)
{
        struct stat st;
        int fd = openat(item->dir_fd, item->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

        if (fd < 0) {
                sender_put_errno(s, UINT64_MAX, "Cannot open it", errno, item->path);
                return;
        }
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
                sender_put_failed(s, UINT64_MAX, false, WIRE_SOURCE_CHANGED,
                                  "It was replaced while it was opened", 0, item->path);
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
        put_file(s, fd, &st, item->path, sender_is_pseudo_file(fd, &st), 0);
}

static void put_directory(Sender *s, const WalkItem *item)
{
        Entry e = { .kind = ENTRY_DIRECTORY, .path = item->path };
        struct stat st;
        int r;

        if (fstat(item->dir_fd, &st) < 0) {
                sender_put_errno(s, UINT64_MAX, "Cannot look at it", errno, item->path);
                st = (struct stat){ .st_mode = 0700 };
        }
        r = attributes_read(&s->attributes, item->dir_fd, &st, s->preserve, &e);
        if (r < 0) {
                /* What is inside still wants its directory. */
                sender_put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE,
                                  "Its attributes are too large to be sent", 0, item->path);
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
                if (item.error == ELOOP) /* there is no link in it: its sentence would be a riddle */
                        sender_put_failed(s, UINT64_MAX, false, WIRE_TOO_LARGE,
                                          "It is nested too deeply in other directories to be sent", 0,
                                          item.path);
                else
                        sender_put_failed(s, UINT64_MAX, false,
                                          item.error == ENAMETOOLONG ? WIRE_TOO_LARGE
                                                                     : wire_error_from_errno(item.error),
                                          "Cannot enter it", item.error, item.path);
                break;
        case WALK_OBJECT:
                if (receiver_is_temporary(item.name, NULL))
                        sender_put_failed(s, UINT64_MAX, true, WIRE_UNSUPPORTED,
                                          "It is a transfer's temporary file", 0, item.path);
                else if (item.type == DT_REG)
                        put_regular(s, &item);
                else if (item.type == DT_LNK)
                        put_symlink(s, &item);
                else
                        sender_put_failed(s, UINT64_MAX, true, WIRE_UNSUPPORTED,
                                          item.type == DT_FIFO   ? "It is a fifo"
                                          : item.type == DT_SOCK ? "It is a socket"
                                                                 : "It is a device",
                                          0, item.path);
                break;
        }
}

/* The next object, as records in s->out. */
void sender_next_object(Sender *s)
{
        if (s->source.is_tree) {
                walk_step(s);
                return;
        }
        s->walked = true;
        put_file(s, TAKE_FD(s->root_fd), &s->root_st, "", s->source.is_stream, s->base);
}
