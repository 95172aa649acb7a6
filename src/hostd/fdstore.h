/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Descriptors that systemd keeps for us over a restart (sd_notify(3), FDSTORE=1), by name. Names: letters,
 * digits, '-'.
 */

#include <stdint.h>

/* 0; -ENOTSUP: nobody keeps descriptors for us; -errno. The descriptor stays the caller's, a copy is kept.
 */
int fdstore_put(const char *name, int fd);
void fdstore_remove(const char *name);
/* What was kept under the name when this process was started; the caller's from now on. -ENOENT. */
int fdstore_take(const char *name);
/* What nobody has taken is closed, here and there. */
void fdstore_drop_rest(void);
