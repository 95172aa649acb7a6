/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dry run opens read-only: then nothing can change. Nor does anything before it is clear that the guest
 * can be installed to: mounting alone writes to a file system.
 */

#include <stdio.h>

#include "deploy/guestfs-image.h"
#include "deploy/image.h"
#include "deploy/install.h"
#include "deploy/nbd-image.h"
#include "deploy/report.h"

const ImageBackend *image_backend(const char *name)
{
        static const ImageBackend *const backends[] = { &guestfs_image_backend, &nbd_image_backend };

        for (size_t i = 0; i < ELEMENTSOF(backends); i++)
                if (str_eq(backends[i]->name, name))
                        return backends[i];
        return NULL;
}

int image_run(const ImageBackend *b, const char *uri, const char *name, const Program *p, bool dry_run)
{
        _cleanup_(disks_done) Disks disks = {};
        Install install = { .dry_run = dry_run };
        Target *t = b->make();
        char why[sizeof(t->why)] = "";

        if (!t)
                return report_failure("%s: no memory", name);
        int r = disks_find(&disks, t, uri, name, dry_run);
        if (r == 0) {
                report_step("open", "opening %s with %s%s", name, b->name, dry_run ? ", read-only" : "");
                r = b->open(t, &disks, p, dry_run);
                if (r == 0)
                        r = install_look(&install, t, true);
                if (r == 0 && !dry_run)
                        r = b->make_writable(t);
                if (r == 0)
                        r = install_run(&install, t, p);
                if (r < 0)
                        memcpy(why, t->why, sizeof(why));
                /* What went wrong first is told. */
                int r2 = b->close(t);
                if (r == 0 && (r = r2) < 0)
                        memcpy(why, t->why, sizeof(why));
        } else
                memcpy(why, t->why, sizeof(why));
        t = b->free(t);
        if (r < 0)
                return report_failure("%s: %s", name, why[0] ? why : strerror(-r));
        report_step("done", dry_run             ? "nothing was changed"
                            : install.n_written ? "vmferry-guestd is in place"
                                                : "it was up to date");
        return 0;
}
