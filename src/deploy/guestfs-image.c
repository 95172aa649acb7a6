/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libguestfs opens the image under QEMU's own lock. It knows partitions, LVM and every file system of Linux;
 * encrypted disks it shows as such. Nothing is mounted writable before it is clear what is to be done.
 */

#include <stdio.h>

#include "deploy/guestfs-image.h"
#include "deploy/guestfs-library.h"
#include "deploy/report.h"
#include "deploy/system.h"

#define TEXT_MAX 65536
#define LABEL "security.selinux"

typedef struct GuestfsImage {
        Target target; /* first */
        const GuestfsLibrary *fs;
        guestfs_h *g;
        char *root;        /* its device */
        bool is_inspected; /* by libguestfs; else a file system that looks like a root */
        bool is_launched;
} GuestfsImage;

static void strings_freep(char ***list)
{
        for (char **s = *list; s && *s; s++)
                free(*s);
        free(*list);
}
#define _cleanup_strings_ _cleanup_(strings_freep)

static int image_fail(GuestfsImage *i, const char *what)
{
        const char *why = i->fs->last_error(i->g);
        int error = i->fs->last_errno(i->g);

        /* Advice for debugging follows in further lines. */
        return target_fail(&i->target, error > 0 ? -error : -EIO, "%s: %.*s", what,
                           why ? (int)strcspn(why, "\n") : 0, why ? why : "");
}

static int image_is_there(Target *t, const char *path)
{
        GuestfsImage *i = (GuestfsImage *)t;
        int r = i->fs->exists(i->g, path);

        if (r == 0)
                r = i->fs->is_symlink(i->g, path);
        return r < 0 ? image_fail(i, path) : r;
}

static int image_is_same(Target *t, const char *path, const void *data, size_t n)
{
        GuestfsImage *i = (GuestfsImage *)t;
        int r = i->fs->exists(i->g, path);

        if (r <= 0)
                return r < 0 ? image_fail(i, path) : 0;
        int64_t size = i->fs->filesize(i->g, path);
        if (size < 0)
                return image_fail(i, path);
        if ((uint64_t)size != n)
                return 0;
        size_t n_read = 0;
        _cleanup_free_ char *old = i->fs->read_file(i->g, path, &n_read);
        if (!old)
                return image_fail(i, path);
        return n_read == n && memcmp(old, data, n) == 0;
}

static int image_read(Target *t, const char *path, char **ret)
{
        GuestfsImage *i = (GuestfsImage *)t;
        int64_t size = i->fs->filesize(i->g, path);
        size_t n;

        if (size < 0)
                return image_fail(i, path);
        if (size > TEXT_MAX)
                return target_fail(t, -EFBIG, "%s is too large", path);
        *ret = i->fs->read_file(i->g, path, &n);
        return *ret ? 0 : image_fail(i, path);
}

static int image_read_link(Target *t, const char *path, char **ret)
{
        GuestfsImage *i = (GuestfsImage *)t;
        int r = i->fs->is_symlink(i->g, path);

        if (r <= 0)
                return r < 0 ? image_fail(i, path) : 0;
        *ret = i->fs->readlink(i->g, path);
        return *ret ? 1 : image_fail(i, path);
}

static int image_make_directory(Target *t, const char *path)
{
        GuestfsImage *i = (GuestfsImage *)t;

        return i->fs->mkdir(i->g, path) < 0 || i->fs->chmod(i->g, 0755, path) < 0 ? image_fail(i, path) : 0;
}

static int image_put(Target *t, const char *path, const void *data, size_t n, mode_t mode)
{
        GuestfsImage *i = (GuestfsImage *)t;
        _cleanup_free_ char *fresh = NULL;

        if (asprintf(&fresh, "%s.vmferry-new", path) < 0) {
                fresh = NULL;
                return target_fail(t, -ENOMEM, "no memory");
        }
        if (i->fs->write(i->g, fresh, data, n) == 0 && i->fs->chmod(i->g, (int)mode, fresh) == 0 &&
            i->fs->chown(i->g, 0, 0, fresh) == 0 && i->fs->sync(i->g) == 0 &&
            i->fs->rename(i->g, fresh, path) == 0)
                return 0;
        int r = image_fail(i, path);
        (void)i->fs->rm_f(i->g, fresh);
        return r;
}

static int image_link(Target *t, const char *path, const char *to)
{
        GuestfsImage *i = (GuestfsImage *)t;

        return i->fs->ln_sf(i->g, to, path) < 0 ? image_fail(i, path) : 0;
}

static int image_label(Target *t, const char *path, const char *like)
{
        GuestfsImage *i = (GuestfsImage *)t;
        size_t n = 0;
        _cleanup_free_ char *label = i->fs->lgetxattr(i->g, like, LABEL, &n);

        if (!label) {
                int error = i->fs->last_errno(i->g);
                return error == ENODATA || error == EOPNOTSUPP ? 0 : image_fail(i, like);
        }
        return i->fs->lsetxattr(i->g, LABEL, label, (int)n, path) < 0 ? image_fail(i, path) : 1;
}

static int add_disks(GuestfsImage *i, const Disks *d, bool read_only)
{
        /* Disks on the network, too: libguestfs knows their ways, from the XML. */
        if (d->n_remote > 0)
                return i->fs->add_domain(i->g, d->domain, GUESTFS_ADD_DOMAIN_LIBVIRTURI, d->uri,
                                         GUESTFS_ADD_DOMAIN_READONLY, read_only,
                                         GUESTFS_ADD_DOMAIN_ALLOWUUID, 1, -1) < 0
                               ? image_fail(i, "the disks cannot be used")
                               : 0;
        for (unsigned k = 0; k < d->n; k++)
                if (i->fs->add_drive_opts(i->g, d->disks[k].path, GUESTFS_ADD_DRIVE_OPTS_READONLY, read_only,
                                          GUESTFS_ADD_DRIVE_OPTS_FORMAT, d->disks[k].format, -1) < 0)
                        return image_fail(i, d->disks[k].path);
        return 0;
}

/* list_filesystems() leaves containers out. devices: taken over; NULL: there are none. */
static char *find_encrypted(GuestfsImage *i, char **devices)
{
        _cleanup_strings_ char **list = devices;

        for (char **d = list; d && *d; d++) {
                _cleanup_free_ char *type = i->fs->vfs_type(i->g, *d);
                if (str_eq(type, "crypto_LUKS") || str_eq(type, "BitLocker"))
                        return strdup(*d);
        }
        return NULL;
}

static int nothing_found(GuestfsImage *i)
{
        _cleanup_free_ char *encrypted = find_encrypted(i, i->fs->list_partitions(i->g));

        if (!encrypted)
                encrypted = find_encrypted(i, i->fs->list_devices(i->g));
        if (!encrypted)
                encrypted = find_encrypted(i, i->fs->lvs(i->g));
        return encrypted ? target_fail(&i->target, -EPERM,
                                       "%s is encrypted: install vmferry-guestd from inside", encrypted)
                         : target_fail(&i->target, -ENOENT, "no Linux was found in it");
}

static int more_than_one(GuestfsImage *i, const char *a, const char *b)
{
        return target_fail(&i->target, -ENOTUNIQ,
                           "there is more than one operating system in it: on %s and %s", a, b);
}

/* libguestfs wants an fstab or a hosts file, which a small system may do without. */
static int find_root(GuestfsImage *i)
{
        _cleanup_strings_ char **file_systems = i->fs->list_filesystems(i->g);

        for (char **f = file_systems; f && f[0] && f[1]; f += 2) {
                if (str_eq(f[1], "swap") || str_eq(f[1], "unknown") || i->fs->mount_ro(i->g, f[0], "/") < 0)
                        continue;
                bool is_root = system_is_there(&i->target);
                if (i->fs->umount_all(i->g) < 0)
                        return image_fail(i, f[0]);
                if (!is_root)
                        continue;
                if (i->root)
                        return more_than_one(i, i->root, f[0]);
                i->root = strdup(f[0]);
                if (!i->root)
                        return target_fail(&i->target, -ENOMEM, "no memory");
        }
        return i->root ? 0 : nothing_found(i);
}

static char *read_architecture(GuestfsImage *i)
{
        char *architecture = NULL;

        if (i->is_inspected)
                return i->fs->inspect_get_arch(i->g, i->root);
        for (const char *const *program = system_programs; !architecture && *program; program++)
                architecture = i->fs->file_architecture(i->g, *program);
        return architecture;
}

static int check_type(GuestfsImage *i)
{
        _cleanup_free_ char *type = i->fs->inspect_get_type(i->g, i->root);

        return str_eq(type, "linux") ? 0
                                     : target_fail(&i->target, -ENOTSUP, "it holds %s, not Linux",
                                                   type ? type : "something");
}

static int check_architecture(GuestfsImage *i, const Program *p)
{
        _cleanup_free_ char *architecture = read_architecture(i);

        if (!architecture || !program_fits(p, architecture))
                return target_fail(&i->target, -ENOTSUP,
                                   "the guest is %s, and this vmferry-guestd is for %s (--agent=FILE)",
                                   architecture ? architecture : "of an unknown architecture",
                                   program_architecture(p));
        return 0;
}

/* As the guest's fstab has it: /usr and /etc may be file systems of their own, the rest isn't needed. */
static int mount_root(GuestfsImage *i, bool read_only)
{
        const GuestfsLibrary *fs = i->fs;
        _cleanup_strings_ char **points =
                i->is_inspected ? fs->inspect_get_mountpoints(i->g, i->root) : NULL;

        if (i->is_inspected && !points)
                return image_fail(i, i->root);
        if ((read_only ? fs->mount_ro(i->g, i->root, "/") : fs->mount(i->g, i->root, "/")) < 0)
                return image_fail(i, i->root);
        for (char **p = points; p && p[0] && p[1]; p += 2)
                if ((str_eq(p[0], "/usr") || str_eq(p[0], "/etc")) &&
                    (read_only ? fs->mount_ro(i->g, p[1], p[0]) : fs->mount(i->g, p[1], p[0])) < 0)
                        return image_fail(i, p[1]);
        return 0;
}

static int image_make_writable(Target *t)
{
        GuestfsImage *i = (GuestfsImage *)t;

        return i->fs->umount_all(i->g) < 0 ? image_fail(i, i->root) : mount_root(i, false);
}

static Target *image_make(void)
{
        static const TargetOps ops = { image_is_there,       image_is_same, image_read, image_read_link,
                                       image_make_directory, image_put,     image_link, image_label };
        GuestfsImage *i = calloc(1, sizeof(*i));

        if (!i)
                return NULL;
        i->target.ops = &ops;
        return &i->target;
}

static int image_open(Target *t, const Disks *d, const Program *p, bool read_only)
{
        GuestfsImage *i = (GuestfsImage *)t;
        const char *why = "libguestfs cannot start";
        char name[128];

        i->fs = guestfs_library(&why);
        i->g = i->fs ? i->fs->create() : NULL;
        if (!i->g)
                return target_fail(t, -ENOTSUP, "%s", why);
        i->fs->set_error_handler(i->g, NULL, NULL);
        int r = add_disks(i, d, read_only);
        if (r < 0)
                return r;
        if (i->fs->launch(i->g) < 0)
                return image_fail(i, "libguestfs cannot open it (libguestfs-test-tool tells more)");
        i->is_launched = true;
        _cleanup_strings_ char **roots = i->fs->inspect_os(i->g);
        if (!roots)
                return image_fail(i, "the image cannot be looked at");
        if (roots[0] && roots[1])
                return more_than_one(i, roots[0], roots[1]);
        i->is_inspected = roots[0];
        if (i->is_inspected)
                i->root = TAKE(roots[0]);
        r = i->is_inspected ? check_type(i) : find_root(i);
        if (r == 0)
                r = mount_root(i, true);
        if (r == 0)
                r = check_architecture(i, p);
        if (r < 0)
                return r;
        system_read_name(t, name, sizeof(name));
        report_step("found", "found %s on %s", name, i->root);
        return 0;
}

static int image_close(Target *t)
{
        GuestfsImage *i = (GuestfsImage *)t;
        int r = 0;

        if (i->is_launched && (i->fs->umount_all(i->g) < 0 || i->fs->shutdown(i->g) < 0))
                r = image_fail(i, "it could not be closed");
        i->is_launched = false;
        return r;
}

static Target *image_free(Target *t)
{
        GuestfsImage *i = (GuestfsImage *)t;

        if (i->g)
                i->fs->close(i->g);
        free(i->root);
        free(i);
        return NULL;
}

const ImageBackend guestfs_image_backend = { "libguestfs",        image_make,  image_open,
                                             image_make_writable, image_close, image_free };
