/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mounts are in a mount namespace of this process: nobody else sees them, and they go with it. A signal ends
 * the work at the next step, and all is taken back in the order in which it was done. While it is looked for
 * the one Linux, every file system is mounted read-only and without replaying its journal.
 */

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "deploy/nbd-image.h"
#include "deploy/report.h"
#include "deploy/system.h"
#include "deploy/volumes.h"

/* Over whatever is there: in our namespace only. */
#define PLACE "/mnt"
#define MOUNT_FLAGS (MS_NOSUID | MS_NODEV | MS_NOEXEC)

typedef struct NbdImage {
        Tree tree; /* first: its target is ours */
        Nbd disks[DISKS_MAX];
        unsigned n_disks;
        Volumes volumes;
        const Volume *root;
        unsigned n_mounts;
} NbdImage;

static volatile sig_atomic_t signal_came;

static void on_signal(int number)
{
        signal_came = number;
}

static int check_signal(NbdImage *i)
{
        return signal_came ? target_fail(&i->tree.target, -EINTR, "interrupted: everything was put back")
                           : 0;
}

static void catch_signals(void)
{
        static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
        const struct sigaction catch = { .sa_handler = on_signal, .sa_flags = SA_RESTART },
                               ignore = { .sa_handler = SIG_IGN };

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                (void)sigaction(numbers[i], &catch, NULL);
        (void)sigaction(SIGPIPE, &ignore, NULL);
}

/* What leaves a file system as it is, journal and all; NULL: not a file system that a root is on. */
static const char *look_options(const char *type)
{
        static const struct {
                const char *type, *options;
        } types[] = {
                { "ext4", "noload" },
                { "ext3", "noload" },
                { "ext2", "" },
                { "xfs", "norecovery,nouuid" },
                { "btrfs", "rescue=nologreplay" },
                { "f2fs", "norecovery" },
        };

        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                if (str_eq(types[i].type, type))
                        return types[i].options;
        return NULL;
}

static int mount_volume(NbdImage *i, const Volume *v, const char *path, bool read_only)
{
        const char *options = read_only ? look_options(v->type) : str_eq(v->type, "xfs") ? "nouuid" : "";
        unsigned long flags = MOUNT_FLAGS | (read_only ? MS_RDONLY : 0);
        struct statvfs st;

        if (mount(v->device, path, v->type, flags, options) < 0)
                return target_fail(&i->tree.target, -errno, "%s cannot be mounted as %s: %s", v->device,
                                   v->type, strerror(errno));
        i->n_mounts++;
        if (!(flags & MS_RDONLY) && (statvfs(path, &st) < 0 || (st.f_flag & ST_RDONLY)))
                return target_fail(&i->tree.target, -EROFS,
                                   "%s has errors and cannot be written: fsck it first", v->device);
        return 0;
}

static int unmount_all(NbdImage *i)
{
        tree_done(&i->tree);
        while (i->n_mounts > 0) {
                const char *path = i->n_mounts > 1 ? PLACE "/usr" : PLACE;
                if (umount2(path, UMOUNT_NOFOLLOW) < 0)
                        return target_fail(&i->tree.target, -errno, "%s cannot be unmounted: %s", path,
                                           strerror(errno));
                i->n_mounts--;
        }
        return 0;
}

static int open_root(NbdImage *i)
{
        Target target = i->tree.target;
        int r = tree_open(&i->tree, PLACE);

        if (r < 0) {
                i->tree = (Tree){ .target = target, .fd = -EBADF };
                return target_fail(&i->tree.target, r, "%s: %s", PLACE, strerror(-r));
        }
        i->tree.target.interrupted = &signal_came;
        return 0;
}

static int leave_namespace(NbdImage *i)
{
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return target_fail(&i->tree.target, -errno, "no mount namespace: %s", strerror(errno));
        return 0;
}

/* 1: a root is on it; 0; -errno */
static int look(NbdImage *i, const Volume *v)
{
        if (!look_options(v->type))
                return 0;
        /* What cannot even be mounted is no root that anybody boots. */
        int r = mount_volume(i, v, PLACE, true);
        if (r < 0) {
                report_step("skip", "skipping %s: %s", v->device, i->tree.target.why);
                return unmount_all(i);
        }
        r = open_root(i);
        int found = r == 0 && system_is_there(&i->tree.target);
        int r2 = unmount_all(i);
        return r < 0 ? r : r2 < 0 ? r2 : found;
}

static int find_root(NbdImage *i)
{
        const Volume *found = NULL, *encrypted = NULL, *unseen = NULL;

        for (unsigned k = 0; k < i->volumes.n; k++) {
                const Volume *v = &i->volumes.volumes[k];
                int r = check_signal(i);
                if (r == 0)
                        r = look(i, v);
                if (r < 0)
                        return r;
                if (r > 0 && found)
                        return target_fail(&i->tree.target, -ENOTUNIQ,
                                           "there is more than one operating system in it: on %s and %s",
                                           found->device, v->device);
                if (r > 0)
                        found = v;
                if (str_eq(v->type, "crypto_LUKS"))
                        encrypted = v;
                /* A partition of the old kind may have a table in it, too. */
                if (v->table[0] && v->partition == 0 && !v->type[0])
                        unseen = v;
        }
        if (!found && encrypted)
                return target_fail(&i->tree.target, -EPERM,
                                   "%s is encrypted: install vmferry-guestd from inside", encrypted->device);
        if (!found && unseen)
                return target_fail(
                        &i->tree.target, -ENODEV,
                        "this kernel shows no partitions of %s (%s): nbd may be loaded with max_part=0",
                        unseen->device, unseen->table);
        if (!found)
                return target_fail(&i->tree.target, -ENOENT, "no Linux was found in it");
        i->root = found;
        return 0;
}

/* The root and, where fstab has one, /usr. */
static int mount_root(NbdImage *i, bool read_only)
{
        int r = mount_volume(i, i->root, PLACE, read_only);
        struct stat st;

        if (r == 0)
                r = open_root(i);
        if (r < 0)
                return r;
        _cleanup_free_ char *source = system_fstab_source(&i->tree, "/usr");
        if (!source)
                return 0;
        const Volume *usr = volumes_lookup(&i->volumes, source);
        /* Not where a link of the guest's leads on this host. */
        if (!usr || !look_options(usr->type) || lstat(PLACE "/usr", &st) < 0 || !S_ISDIR(st.st_mode))
                return target_fail(&i->tree.target, -ENOENT, "its /usr is on %s, which is not in it",
                                   source);
        return mount_volume(i, usr, PLACE "/usr", read_only);
}

static int check_system(NbdImage *i, const Program *p)
{
        const char *architecture = system_architecture(&i->tree);
        char name[128];

        if (!architecture || !program_fits(p, architecture))
                return target_fail(&i->tree.target, -ENOTSUP,
                                   "the guest is %s, and this vmferry-guestd is for %s (--agent=FILE)",
                                   architecture ? architecture : "of an unknown architecture",
                                   program_architecture(p));
        system_read_name(&i->tree.target, name, sizeof(name));
        report_step("found", "found %s on %s", name, i->root->device);
        return 0;
}

static Target *image_make(void)
{
        NbdImage *i = calloc(1, sizeof(*i));

        if (!i)
                return NULL;
        i->tree.fd = -EBADF;
        return &i->tree.target;
}

static int connect_disks(NbdImage *i, const Disks *d, bool read_only)
{
        int r = 0;

        for (unsigned k = 0; r == 0 && k < d->n; k++) {
                r = check_signal(i);
                if (r < 0)
                        return r;
                i->disks[i->n_disks++] = (Nbd)NBD_INIT;
                r = nbd_connect(&i->disks[k], &i->tree.target, &d->disks[k], read_only);
                if (r == 0)
                        report_step("connect", "%s is %s", d->disks[k].path, i->disks[k].device);
        }
        return r;
}

static int image_open(Target *t, const Disks *d, const Program *p, bool read_only)
{
        NbdImage *i = (NbdImage *)t;

        if (geteuid() != 0)
                return target_fail(t, -EPERM, "--backend=nbd needs root");
        if (d->n_remote > 0)
                return target_fail(t, -ENOTSUP,
                                   "a disk is no file of this host: --backend=libguestfs may reach it");
        catch_signals();
        int r = connect_disks(i, d, read_only);
        if (r == 0)
                r = leave_namespace(i);
        if (r == 0)
                r = volumes_find(&i->volumes, t, i->disks, i->n_disks);
        if (r == 0)
                r = find_root(i);
        if (r == 0)
                r = mount_root(i, true);
        if (r == 0)
                r = check_system(i, p);
        return r == 0 ? check_signal(i) : r;
}

static int image_make_writable(Target *t)
{
        NbdImage *i = (NbdImage *)t;
        int r = unmount_all(i);

        return r < 0 ? r : mount_root(i, false);
}

/* Goes on after what fails: the rest must not stay because of it. */
static int image_close(Target *t)
{
        NbdImage *i = (NbdImage *)t;
        char why[sizeof(t->why)] = "";
        int r = unmount_all(i), r2;

        if (r < 0)
                memcpy(why, t->why, sizeof(why));
        r2 = volumes_done(&i->volumes, t);
        if (r == 0 && (r = r2) < 0)
                memcpy(why, t->why, sizeof(why));
        while (i->n_disks > 0) {
                r2 = nbd_disconnect(&i->disks[--i->n_disks], t);
                if (r == 0 && (r = r2) < 0)
                        memcpy(why, t->why, sizeof(why));
        }
        memcpy(t->why, why, sizeof(why));
        return r;
}

static Target *image_free(Target *t)
{
        free(t);
        return NULL;
}

const ImageBackend nbd_image_backend = { "nbd",       image_make, image_open, image_make_writable,
                                         image_close, image_free };
