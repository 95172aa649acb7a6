/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU locks bytes of an image that it has open (block/file-posix.c): from 100 on one byte for each thing
 * that it does, from 200 on one for each thing that others may not do. Any lock of writing or against
 * writing means that the image is in use. The backends open it under that lock once more; here it is told
 * before anything is started.
 */

#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <sys/stat.h>

#include "deploy/command.h"
#include "deploy/disks.h"

#define LOCK_WRITES 101         /* 100 + BLK_PERM_WRITE's bit */
#define LOCK_NOBODY_RESIZES 203 /* 200 + BLK_PERM_RESIZE's bit */

static int check_lock(Target *t, const Disk *d, const struct stat *st)
{
        struct flock lock = { .l_type = F_WRLCK,
                              .l_whence = SEEK_SET,
                              .l_start = LOCK_WRITES,
                              .l_len = LOCK_NOBODY_RESIZES - LOCK_WRITES + 1 };
        /* Exclusive, of a block device: neither mounted nor part of another device. */
        _cleanup_close_ int fd =
                open(d->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (S_ISBLK(st->st_mode) ? O_EXCL : 0));

        if (fd < 0)
                return errno == EBUSY ? target_fail(t, -EBUSY, "%s is in use on this host", d->path)
                                      : target_fail(t, -errno, "%s: %s", d->path, strerror(errno));
        /* A file system without locks has none to tell of. */
        if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
                return 0;
        return target_fail(t, -EBUSY, "%s is in use by a running VM or another program", d->path);
}

static bool has_flag(json_object *o, const char *key)
{
        json_object *v;

        return json_object_object_get_ex(o, key, &v) && json_object_get_boolean(v);
}

static int read_info(Target *t, Disk *d, json_object *info)
{
        json_object *v, *data;

        if (has_flag(info, "encrypted"))
                return target_fail(t, -EPERM, "%s is encrypted: install vmferry-guestd from inside",
                                   d->path);
        if (json_object_object_get_ex(info, "format-specific", &v) &&
            json_object_object_get_ex(v, "data", &data) && has_flag(data, "corrupt"))
                return target_fail(t, -EUCLEAN, "%s is marked as corrupt: qemu-img check -r repairs it",
                                   d->path);
        if (!json_object_object_get_ex(info, "virtual-size", &v) || json_object_get_int64(v) <= 0)
                return target_fail(t, -ENOENT, "%s is empty", d->path);
        if (d->format)
                return 0;
        if (!json_object_object_get_ex(info, "format", &v))
                return target_fail(t, -EBADMSG, "%s: qemu-img does not tell its format", d->path);
        d->format = strdup(json_object_get_string(v));
        return d->format ? 0 : target_fail(t, -ENOMEM, "no memory");
}

static int check_format(Target *t, Disk *d)
{
        const char *argv[] = { "qemu-img", "info", "-U", "--output=json", d->path, NULL, NULL, NULL };
        _cleanup_free_ char *text = NULL;

        if (d->format) {
                argv[4] = "-f";
                argv[5] = d->format;
                argv[6] = d->path;
        }
        int r = command_run(t, argv, &text);
        if (r < 0)
                return r;
        json_object *info = json_tokener_parse(text);
        r = read_info(t, d, info);
        (void)json_object_put(info);
        return r;
}

static int check_disk(Target *t, Disk *d, bool read_only)
{
        char *absolute = realpath(d->path, NULL);
        struct stat st;

        if (!absolute || stat(absolute, &st) < 0) {
                free(absolute);
                return target_fail(t, -errno, "%s: %s", d->path, strerror(errno));
        }
        free(d->path);
        d->path = absolute;
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return target_fail(t, -EINVAL, "%s is neither a file nor a block device", d->path);
        if (access(d->path, read_only ? R_OK : W_OK) < 0)
                return target_fail(t, -errno, "%s cannot be %s: %s", d->path, read_only ? "read" : "written",
                                   strerror(errno));
        int r = check_lock(t, d, &st);
        return r < 0 ? r : check_format(t, d);
}

static int find_of_domain(Disks *d, Target *t, const char *uri, const char *name)
{
        _cleanup_(domain_freep) Domain *domain = NULL;
        _cleanup_free_ char *why = NULL, *xml = NULL;
        int r = domain_open(uri, name, &domain, &why);

        if (r < 0)
                return target_fail(t, r, "it is no file, and as a domain: %s", why ? why : strerror(-r));
        if (domain_is_active(domain))
                return target_fail(t, -EBUSY,
                                   "the domain is running: vmferry adopt brings vmferry-guestd into it, "
                                   "or shut it down first");
        /* Its memory holds what it believes of the disks: after a change behind its back it destroys them.
         */
        if (domain_is_saved(domain))
                return target_fail(t, -EBUSY,
                                   "the domain has a saved state: start it and shut it down, or drop the "
                                   "state with virsh managedsave-remove");
        xml = domain_xml(domain);
        if (!xml)
                return target_fail(t, -EIO, "libvirt does not show the domain's XML");
        r = disks_parse(d, xml);
        if (r == -EPERM)
                return target_fail(t, r, "a disk is encrypted: install vmferry-guestd from inside");
        if (r < 0)
                return target_fail(t, r, "the domain's XML cannot be used: %s", strerror(-r));
        if (d->n + d->n_remote == 0)
                return target_fail(t, -ENOENT, "the domain has no disk that it may write to");
        d->uri = uri;
        d->domain = name;
        return 0;
}

int disks_find(Disks *d, Target *t, const char *uri, const char *name, bool read_only)
{
        struct stat st;
        int r = 0;

        /* A directory is no image, and may have a domain's name. */
        if (stat(name, &st) == 0 && !S_ISDIR(st.st_mode)) {
                d->disks[0].path = strdup(name);
                if (!d->disks[0].path)
                        return target_fail(t, -ENOMEM, "no memory");
                d->n = 1;
        } else
                r = find_of_domain(d, t, uri, name);
        for (unsigned i = 0; r == 0 && i < d->n; i++)
                r = check_disk(t, &d->disks[i], read_only);
        return r;
}

void disks_done(Disks *d)
{
        for (unsigned i = 0; i < d->n; i++) {
                free(d->disks[i].path);
                free(d->disks[i].format);
        }
        *d = (Disks){};
}
