/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Which Linux a mounted tree holds.
 */

#include "deploy/program.h"
#include "deploy/tree.h"

bool system_is_there(Target *t); /* it has an os-release, and directories that a root has */
void system_read_name(Target *t, char *ret, size_t size); /* for people; "Linux" if nothing is said */
/* Programs one of which nearly every system has; NULL ends them. */
extern const char *const system_programs[];
/* As program_architecture() calls it, of a complete tree, /usr included; NULL: nothing in it tells. */
const char *system_architecture(Tree *t);
/* What the tree's fstab mounts there: "UUID=…", "LABEL=…" or a device; malloc'ed, or NULL. */
char *system_fstab_source(Tree *t, const char *mount_point);
