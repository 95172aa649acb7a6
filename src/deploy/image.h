/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * guestd into the disks of a domain that doesn't run, or into an image, through libguestfs.
 */

#include "deploy/program.h"

/* name: an existing file, else a domain. The exit status; what happened was told. */
int image_run(const char *uri, const char *name, const Program *p, bool dry_run);
