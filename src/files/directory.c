/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Directories by reference count. Children hold their parents, unfinished files hold their directory; so
 * attributes are set bottom-up and after the last rename(2), which would change the mtime.
 */

#include "files/directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/base.h"
#include "files/temporaries.h"

#define KEPT_MAX 16384u /* bytes of ACLs and names; there may be TREE_DEPTH_MAX of us */

Directory *directory_new(Directory *parent, int fd, uint64_t number, const char *path)
{
        Directory *d = calloc(1, sizeof *d);

        if (d)
                d->path = strdup(path);
        if (!d || !d->path) {
                free(d);
                (void)fd_close(fd);
                return NULL;
        }
        d->n_refs = 1;
        d->fd = fd;
        d->number = number;
        d->parent = parent ? directory_ref(parent) : NULL;
        d->has_acl = fd >= 0 && fgetxattr(fd, "system.posix_acl_default", NULL, 0) > 0;
        return d;
}

Directory *directory_ref(Directory *d)
{
        d->n_refs++;
        return d;
}

int directory_keep(Directory *d, const Entry *e)
{
        const char *user = e->user ? e->user : "", *group = e->group ? e->group : "";
        size_t n = strlen(user) + strlen(group) + 2, kept = 0;
        char *p;

        d->object = *e;
        d->object.path = d->path;
        d->object.target = NULL;
        d->object.xattrs = d->acls;
        d->object.n_xattrs = 0;
        for (size_t i = 0; i < e->n_xattrs; i++)
                if (str_has_prefix(e->xattrs[i].name, "system."))
                        n += strlen(e->xattrs[i].name) + 1 + e->xattrs[i].n_value;
        if (n > KEPT_MAX)
                return -E2BIG;
        p = d->strings = malloc(n);
        if (!p)
                return -ENOMEM;
        d->object.user = p;
        p = stpcpy(p, user) + 1;
        d->object.group = p;
        p = stpcpy(p, group) + 1;
        for (size_t i = 0; i < e->n_xattrs && kept < ELEMENTSOF(d->acls); i++) {
                const EntryXattr *x = &e->xattrs[i];

                if (!str_has_prefix(x->name, "system."))
                        continue;
                d->acls[kept].name = p;
                p = stpcpy(p, x->name) + 1;
                memcpy(p, x->value, x->n_value);
                d->acls[kept].value = (const uint8_t *)p;
                d->acls[kept++].n_value = x->n_value;
                p += x->n_value;
        }
        d->object.n_xattrs = kept;
        return 0;
}

void directory_mark(Directory *d, const char *transfer_id)
{
        char mark[TEMPORARY_NAME_SIZE];
        int fd;

        temporaries_format(mark, transfer_id, 0);
        fd = openat(d->fd, mark, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return; /* a resume will leave it with the mode that it was made with */
        (void)fd_close(fd);
        d->mark_id = transfer_id;
}

bool directory_find_mark(Directory *d, const char *transfer_id)
{
        char mark[TEMPORARY_NAME_SIZE];
        struct stat st;

        temporaries_format(mark, transfer_id, 0);
        /* In a directory of somebody else's, he may have laid it there. */
        if (fstatat(d->fd, mark, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
            st.st_uid != geteuid())
                return false;
        d->mark_id = transfer_id;
        return true;
}

void directory_unmark(Directory *d)
{
        char mark[TEMPORARY_NAME_SIZE];

        if (!d->mark_id)
                return;
        temporaries_format(mark, d->mark_id, 0);
        (void)unlinkat(d->fd, mark, 0);
        d->mark_id = NULL;
}

static void finish(Directory *d, const AttributeRules *rules, bool sync, const FailureSink *sink)
{
        const char *note = NULL;
        int r = 0;

        if (d->stale_id)
                temporaries_remove(d->fd, d->stale_id);
        directory_unmark(d);
        if (!d->keeps_own)
                r = attributes_set(rules, d->fd, &d->object, UINT32_MAX, &note);
        /* Into somebody else's directory one may put files, no more. */
        if (r < 0 && !(r == -EPERM && !d->is_created))
                sink->failed(sink->userdata, d->number, d->path, -r, "Cannot set its mode, owner or times");
        else if (note)
                sink->failed(sink->userdata, d->number, d->path, 0, note);
        if (sync && fsync(d->fd) < 0 && errno != EINVAL && errno != EROFS)
                sink->failed(sink->userdata, d->number, d->path, errno, "Cannot make it durable");
}

void directory_unref(Directory *d, const AttributeRules *rules, bool sync, const FailureSink *sink)
{
        while (d && --d->n_refs == 0) {
                Directory *parent = d->parent;

                if (d->is_complete && d->fd >= 0)
                        finish(d, rules, sync, sink);
                (void)fd_close(d->fd);
                free(d->strings);
                free(d->path);
                free(d);
                d = parent;
        }
}

char *directory_join(const Directory *d, const char *name)
{
        char *path;

        if (asprintf(&path, "%s%s%s", d->path, d->path[0] && name[0] ? "/" : "", name) < 0)
                return NULL;
        return path;
}
