/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In place of image.c where vmferry was built without libguestfs.
 */

#include "deploy/image.h"
#include "deploy/report.h"

int image_run(const char *uri, const char *name, const Program *p, bool dry_run)
{
        return report_failure("%s: this vmferry was built without libguestfs", name);
}
