/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Which pushes may have left temporaries, and where: noted when one begins, so that they can be removed once
 * the host says that it will not go on with it (transfer.live), over restarts of guestd and of the guest.
 */

#include <stdbool.h>
#include <json-c/json.h>

#include "guestd/loop.h"

/* Both are for any process of guestd; dirs as for Seen. A note that can't be written costs the cleaning
 * only. */
void leftovers_note(const char *transfer_id, const char *path, const char *name, bool is_tree);
void leftovers_drop(const char *transfer_id);
/* Removes, in a child, what was noted and is not among untrusted_live, an array of ids. */
void leftovers_sweep(Loop *l, json_object *untrusted_live);
