/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * It leans on FileDescriptorStoreMax= of the unit; descriptors come back from 3 on, with LISTEN_FDS and
 * LISTEN_FDNAMES.
 */

#include "hostd/fdstore.h"

#include <fcntl.h>
#include <glib.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/base.h"

typedef struct Kept {
        char *name;
        int fd;
} Kept;

static GArray *kept; /* NULL: not asked for yet */

static void kept_clear(void *p)
{
        Kept *k = p;

        g_free(k->name);
        (void)fd_close(k->fd);
}

static void load(void)
{
        char **names = NULL;
        int n;

        if (kept)
                return;
        kept = g_array_new(FALSE, FALSE, sizeof(Kept));
        g_array_set_clear_func(kept, kept_clear);
        n = sd_listen_fds_with_names(1, &names);
        for (int i = 0; i < n; i++) {
                Kept k = { .name = g_strdup(names[i]), .fd = SD_LISTEN_FDS_START + i };

                (void)fcntl(k.fd, F_SETFD, FD_CLOEXEC);
                g_array_append_val(kept, k);
        }
        for (char **s = names; s && *s; s++)
                free(*s);
        free(names);
}

int fdstore_put(const char *name, int fd)
{
        g_autofree char *state = g_strdup_printf("FDSTORE=1\nFDNAME=%s", name);
        int r = sd_pid_notify_with_fds(0, false, state, &fd, 1);

        return r > 0 ? 0 : r < 0 ? r : -ENOTSUP;
}

void fdstore_remove(const char *name)
{
        (void)sd_notifyf(false, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

int fdstore_take(const char *name)
{
        load();
        for (guint i = 0; i < kept->len; i++) {
                Kept *k = &g_array_index(kept, Kept, i);
                if (str_eq(k->name, name) && k->fd >= 0)
                        return TAKE_FD(k->fd);
        }
        return -ENOENT;
}

void fdstore_drop_rest(void)
{
        load();
        for (guint i = 0; i < kept->len; i++) {
                const Kept *k = &g_array_index(kept, Kept, i);
                if (k->fd >= 0)
                        fdstore_remove(k->name);
        }
        g_array_unref(kept);
        kept = NULL;
}
