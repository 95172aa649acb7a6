/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libguestfs runs its own small VM on the image, with QEMU's own lock on it: an image that another QEMU has
 * open for writing is refused there. It knows partitions, LVM and every file system of Linux; encrypted
 * disks it shows as such.
 */

#include <guestfs.h>
#include <stdio.h>
#include <sys/stat.h>

#include "deploy/domain.h"
#include "deploy/image.h"
#include "deploy/install.h"
#include "deploy/report.h"

#define TEXT_MAX 65536

typedef struct Image {
        Target target; /* first */
        guestfs_h *g;
} Image;

static void strings_freep(char ***list)
{
        for (char **s = *list; s && *s; s++)
                free(*s);
        free(*list);
}
#define _cleanup_strings_ _cleanup_(strings_freep)

static int image_fail(Image *i, const char *what)
{
        const char *why = guestfs_last_error(i->g);
        int error = guestfs_last_errno(i->g);

        /* Advice for debugging follows in further lines. */
        return target_fail(&i->target, error > 0 ? -error : -EIO, "%s: %.*s", what,
                           why ? (int)strcspn(why, "\n") : 0, why ? why : "");
}

static int image_is_there(Target *t, const char *path)
{
        Image *i = (Image *)t;
        int r = guestfs_exists(i->g, path);

        if (r == 0)
                r = guestfs_is_symlink(i->g, path); /* a link that leads nowhere in here is there too */
        return r < 0 ? image_fail(i, path) : r;
}

static int image_is_same(Target *t, const char *path, const void *data, size_t n)
{
        Image *i = (Image *)t;
        int r = image_is_there(t, path);

        if (r <= 0)
                return r;
        int64_t size = guestfs_filesize(i->g, path);
        if (size < 0)
                return image_fail(i, path);
        if ((uint64_t)size != n)
                return 0;
        size_t n_read = 0;
        _cleanup_free_ char *old = guestfs_read_file(i->g, path, &n_read);
        if (!old)
                return image_fail(i, path);
        return n_read == n && memcmp(old, data, n) == 0;
}

static int image_read(Target *t, const char *path, char **ret)
{
        Image *i = (Image *)t;
        int64_t size = guestfs_filesize(i->g, path);
        size_t n;

        if (size < 0)
                return image_fail(i, path);
        if (size > TEXT_MAX)
                return target_fail(t, -EFBIG, "%s is too large", path);
        *ret = guestfs_read_file(i->g, path, &n);
        return *ret ? 0 : image_fail(i, path);
}

static int make_parent(Image *i, const char *path)
{
        _cleanup_free_ char *directory = strndup(path, (size_t)(strrchr(path, '/') - path));

        if (!directory)
                return target_fail(&i->target, -ENOMEM, "no memory");
        return directory[0] && guestfs_mkdir_p(i->g, directory) < 0 ? image_fail(i, directory) : 0;
}

static int image_put(Target *t, const char *path, const void *data, size_t n, mode_t mode)
{
        Image *i = (Image *)t;
        _cleanup_free_ char *fresh = NULL;
        int r = make_parent(i, path);

        if (r < 0)
                return r;
        if (asprintf(&fresh, "%s.vmferry-new", path) < 0) {
                fresh = NULL;
                return target_fail(t, -ENOMEM, "no memory");
        }
        if (guestfs_write(i->g, fresh, data, n) == 0 && guestfs_chmod(i->g, (int)mode, fresh) == 0 &&
            guestfs_chown(i->g, 0, 0, fresh) == 0 && guestfs_sync(i->g) == 0 &&
            guestfs_rename(i->g, fresh, path) == 0)
                return 0;
        r = image_fail(i, path);
        guestfs_push_error_handler(i->g, NULL, NULL);
        (void)guestfs_rm_f(i->g, fresh);
        guestfs_pop_error_handler(i->g);
        return r;
}

static int image_link(Target *t, const char *path, const char *to)
{
        Image *i = (Image *)t;
        int r = make_parent(i, path);

        return r < 0 ? r : guestfs_ln_sf(i->g, to, path) < 0 ? image_fail(i, path) : 0;
}

/* The domain's disks or the one file. Read-only for a plan: then nothing can change. */
static int add_disks(Image *i, const char *uri, const char *name, bool dry_run)
{
        _cleanup_(domain_freep) Domain *d = NULL;
        _cleanup_free_ char *why = NULL;
        struct stat st;

        if (stat(name, &st) == 0 && !S_ISDIR(st.st_mode)) {
                if (!dry_run && access(name, W_OK) < 0)
                        return target_fail(&i->target, -errno, "the image cannot be written: %s",
                                           strerror(errno));
                if (guestfs_add_drive_opts(i->g, name, GUESTFS_ADD_DRIVE_OPTS_READONLY, dry_run, -1) < 0)
                        return image_fail(i, "the image cannot be used");
                return 0;
        }
        int r = domain_open(uri, name, &d, &why);
        if (r < 0)
                return target_fail(&i->target, r, "it is no file, and as a domain: %s",
                                   why ? why : strerror(-r));
        if (domain_is_active(d))
                return target_fail(&i->target, -EBUSY,
                                   "the domain is running: vmferry adopt brings vmferry-guestd into it, "
                                   "or shut it down first");
        int n = guestfs_add_domain(i->g, name, GUESTFS_ADD_DOMAIN_LIBVIRTURI, uri,
                                   GUESTFS_ADD_DOMAIN_READONLY, dry_run, GUESTFS_ADD_DOMAIN_ALLOWUUID, 1,
                                   -1);
        if (n < 0)
                return image_fail(i, "its disks cannot be used");
        return n > 0 ? 0 : target_fail(&i->target, -ENOENT, "the domain has no disk");
}

/* Mounts what the guest's fstab says, its root first. */
static int mount_root(Image *i, const char *root)
{
        _cleanup_strings_ char **points = guestfs_inspect_get_mountpoints(i->g, root);

        if (!points)
                return image_fail(i, root);
        if (guestfs_mount(i->g, root, "/") < 0)
                return image_fail(i, root);
        for (char **p = points; p[0] && p[1]; p += 2)
                if (!str_eq(p[0], "/")) {
                        guestfs_push_error_handler(i->g, NULL, NULL);
                        int r = guestfs_mount(i->g, p[1], p[0]);
                        guestfs_pop_error_handler(i->g);
                        if (r < 0 && (str_has_prefix(p[0], "/usr") || str_eq(p[0], "/etc")))
                                return image_fail(i, p[0]);
                }
        return 0;
}

static int find_root(Image *i, const Program *p)
{
        _cleanup_strings_ char **roots = guestfs_inspect_os(i->g);
        size_t n = 0;

        if (!roots)
                return image_fail(i, "the image cannot be looked at");
        while (roots[n])
                n++;
        if (n == 0) {
                _cleanup_strings_ char **file_systems = guestfs_list_filesystems(i->g);
                for (char **f = file_systems; f && f[0] && f[1]; f += 2)
                        if (str_eq(f[1], "crypto_LUKS"))
                                return target_fail(&i->target, -ENOTSUP,
                                                   "%s is encrypted: install vmferry-guestd from inside",
                                                   f[0]);
                return target_fail(&i->target, -ENOENT, "no Linux was found in it");
        }
        if (n > 1)
                return target_fail(&i->target, -ENOTUNIQ, "there are %zu operating systems in it", n);
        _cleanup_free_ char *type = guestfs_inspect_get_type(i->g, roots[0]);
        if (!str_eq(type, "linux"))
                return target_fail(&i->target, -ENOTSUP, "it holds %s, not Linux",
                                   type ? type : "something");
        _cleanup_free_ char *architecture = guestfs_inspect_get_arch(i->g, roots[0]);
        if (!program_fits(p, architecture))
                return target_fail(&i->target, -ENOTSUP,
                                   "the guest is %s, and this vmferry-guestd is for %s (--agent=FILE)",
                                   architecture ? architecture : "of an unknown architecture",
                                   program_architecture(p));
        _cleanup_free_ char *product = guestfs_inspect_get_product_name(i->g, roots[0]);
        report_step("found", "found %s on %s", product ? product : "Linux", roots[0]);
        return mount_root(i, roots[0]);
}

/* Only what was written; a guest without SELinux has no such file. */
static int label(Image *i, const Install *install)
{
        static const char contexts[] = "/etc/selinux/targeted/contexts/files/file_contexts";

        if (guestfs_exists(i->g, contexts) <= 0)
                return 0;
        for (char **p = install->paths; p && *p; p++)
                if (guestfs_selinux_relabel(i->g, contexts, *p, GUESTFS_SELINUX_RELABEL_FORCE, 1, -1) < 0)
                        return image_fail(i, *p);
        report_step("label", "labelled %u paths for SELinux", install->n_written);
        return 0;
}

int image_run(const char *uri, const char *name, const Program *p, bool dry_run)
{
        static const TargetOps ops = { image_is_there, image_is_same, image_read, image_put, image_link };
        _cleanup_(install_done) Install install = { .dry_run = dry_run };
        Image i = { .target.ops = &ops, .g = guestfs_create() };

        if (!i.g)
                return report_failure("%s: libguestfs cannot start", name);
        guestfs_set_error_handler(i.g, NULL, NULL);
        int r = add_disks(&i, uri, name, dry_run);
        if (r == 0) {
                report_step("open", "opening %s%s", name, dry_run ? " read-only" : "");
                if (guestfs_launch(i.g) < 0)
                        r = image_fail(&i, "libguestfs cannot open it (a running VM may have it in use)");
        }
        if (r == 0)
                r = find_root(&i, p);
        if (r == 0)
                r = install_run(&install, &i.target, p, true);
        if (r == 0)
                r = label(&i, &install);
        if (r == 0 && (guestfs_umount_all(i.g) < 0 || guestfs_shutdown(i.g) < 0))
                r = image_fail(&i, "it could not be closed");
        guestfs_close(i.g);
        if (r < 0)
                return report_failure("%s: %s", name, i.target.why);
        report_step("done", dry_run             ? "nothing was changed"
                            : install.n_written ? "vmferry-guestd is in place"
                                                : "it was up to date");
        return 0;
}
