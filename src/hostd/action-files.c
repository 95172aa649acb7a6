/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * inotify(7) on each directory, or on the nearest one above it until it is made. Whatever happens there is
 * followed by reading everything once more, a moment later: an editor writes more than once.
 */

#include "hostd/action-files.h"

#include <sys/epoll.h>
#include <sys/inotify.h>

#include "base/base.h"
#include "base/fs.h"
#include "base/ini.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#define SETTLE_USEC (200 * USEC_PER_MSEC)
#define CLIMBS_MAX 8u /* each after something was made while it was looked for */

struct ActionFiles {
        Host *host;
        GPtrArray *all;
        bool knows_guests;
        int inotify_fd;
        GHashTable *awaited; /* watch descriptor of one above → the name that is awaited in it */
        LoopWatch *watch;
        LoopTimer *reload;
};

ActionFile *action_file_unref(ActionFile *f)
{
        if (--f->n_refs == 0) {
                (void)action_free(f->action);
                g_free(f);
        }
        return NULL;
}

static void free_file(void *p)
{
        (void)action_file_unref(p);
}

static void on_complaint(void *userdata, const char *file, unsigned line, const char *why)
{
        log_warning("%s:%u: %s", file, line, why);
}

static void tell_unmatched(ActionFiles *fs, const Action *a)
{
        for (char **pattern = a->guests; *pattern; pattern++) {
                GHashTableIter i;
                bool found = false;
                void *g;

                g_hash_table_iter_init(&i, host_guests(fs->host));
                while (!found && g_hash_table_iter_next(&i, NULL, &g))
                        found = action_pattern_matches(*pattern, guest_domain(g)->name, guest_uuid(g));
                if (!found)
                        log_info("%s:%u: Guests=: '%s' matches no domain of this host yet", a->file,
                                 a->guests_line, *pattern);
        }
}

void action_files_meet_guests(ActionFiles *fs)
{
        if (fs->knows_guests)
                return;
        fs->knows_guests = true;
        for (guint n = 0; n < fs->all->len; n++)
                tell_unmatched(fs, ((const ActionFile *)g_ptr_array_index(fs->all, n))->action);
}

static int watch_one(ActionFiles *fs, const char *directory, const char *awaited)
{
        uint32_t made = IN_CREATE | IN_MOVED_TO | IN_ONLYDIR;
        int wd = inotify_add_watch(fs->inotify_fd, directory,
                                   awaited ? made | IN_MASK_ADD
                                           : made | IN_CLOSE_WRITE | IN_DELETE | IN_MOVED_FROM);

        if (wd < 0)
                return -errno;
        if (awaited)
                g_hash_table_replace(fs->awaited, GINT_TO_POINTER(wd), g_strdup(awaited));
        else
                g_hash_table_remove(fs->awaited, GINT_TO_POINTER(wd));
        return 0;
}

/* The nearest one above that is there. Whether the next one below it is still missing: one that was made
 * before the watch is told of by nobody. */
static bool watch_above(ActionFiles *fs, const char *directory)
{
        g_autofree char *below = g_strdup(directory);

        for (;;) {
                g_autofree char *above = g_path_get_dirname(below);
                g_autofree char *name = g_path_get_basename(below);

                if (str_eq(above, below) || watch_one(fs, above, name) == 0)
                        return access(below, F_OK) < 0;
                g_free(below);
                below = TAKE(above);
        }
}

/* The directory, or where it would be made. */
static void watch(ActionFiles *fs, const char *directory)
{
        if (fs->inotify_fd < 0)
                return;
        for (unsigned n = 0; n < CLIMBS_MAX && watch_one(fs, directory, NULL) < 0; n++)
                if (watch_above(fs, directory))
                        return;
}

static void load_file(ActionFiles *fs, const char *path)
{
        Action *a;
        int r = action_load(path, on_complaint, NULL, &a);

        if (r < 0) {
                log_warning("%s: the action is not used%s%s", path, r == -EINVAL ? "" : ": ",
                            r == -EINVAL ? "" : strerror(-r));
                return;
        }
        ActionFile *f = g_new0(ActionFile, 1);
        *f = (ActionFile){ .action = a, .n_refs = 1 };
        g_ptr_array_add(fs->all, f);
        if (fs->knows_guests)
                tell_unmatched(fs, a);
}

static void on_unreadable(void *userdata, const char *dir, int r)
{
        log_warning("%s: its actions cannot be read: %s", dir, strerror(-r));
}

void action_files_load(ActionFiles *fs)
{
        char **dirs = action_directories(host_config(fs->host)->user), **files = NULL;
        int r;

        for (char **d = dirs; *d; d++) /* again and again: it may not have been there before */
                watch(fs, *d);
        r = action_list_files(dirs, on_unreadable, NULL, &files);
        if (r < 0)
                log_warning("The actions cannot be listed: %s", strerror(-r));
        g_ptr_array_set_size(fs->all, 0);
        for (char **f = files; f && *f; f++)
                load_file(fs, *f);
        ini_files_free(files);
        g_strfreev(dirs);
}

static void on_reload(void *userdata)
{
        action_files_load(userdata);
}

/* In a directory above, which may be /etc, only what leads to ours. */
static bool is_of_interest(ActionFiles *fs, const struct inotify_event *e)
{
        const char *awaited = g_hash_table_lookup(fs->awaited, GINT_TO_POINTER(e->wd));

        return !awaited || (e->mask & (IN_IGNORED | IN_Q_OVERFLOW)) || e->len == 0 ||
               str_eq(e->name, awaited);
}

static void on_files_changed(void *userdata, uint32_t events)
{
        _Alignas(struct inotify_event) char buffer[4096];
        ActionFiles *fs = userdata;
        bool is_changed = false;
        ssize_t n;

        while ((n = read(fs->inotify_fd, buffer, sizeof(buffer))) > 0)
                for (const char *p = buffer; p < buffer + n;) {
                        const struct inotify_event *e = (const struct inotify_event *)p;

                        is_changed = is_of_interest(fs, e) || is_changed;
                        if (e->mask & IN_IGNORED)
                                g_hash_table_remove(fs->awaited, GINT_TO_POINTER(e->wd));
                        p += sizeof(*e) + e->len;
                }
        if (is_changed)
                loop_timer_set(fs->reload, fs_now_usec() + SETTLE_USEC, 0);
}

ActionFiles *action_files_new(Host *h)
{
        ActionFiles *fs = g_new0(ActionFiles, 1);

        *fs = (ActionFiles){
                .host = h,
                .all = g_ptr_array_new_with_free_func(free_file),
                .inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK),
                .awaited = g_hash_table_new_full(NULL, NULL, NULL, g_free),
                .reload = loop_timer_new(loop_default(), on_reload, fs),
        };
        if (!fs->reload)
                return action_files_free(fs);
        if (fs->inotify_fd >= 0)
                fs->watch = loop_watch_new(loop_default(), fs->inotify_fd, EPOLLIN, on_files_changed, fs);
        action_files_load(fs);
        return fs;
}

ActionFiles *action_files_free(ActionFiles *fs)
{
        if (!fs)
                return NULL;
        g_ptr_array_unref(fs->all);
        loop_watch_free(fs->watch);
        loop_timer_free(fs->reload);
        fd_close(fs->inotify_fd);
        g_hash_table_unref(fs->awaited);
        g_free(fs);
        return NULL;
}

GPtrArray *action_files_all(const ActionFiles *fs)
{
        return fs->all;
}
