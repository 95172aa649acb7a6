/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Becoming the caller, for good.
 */

#include <json-c/json.h>

/* Takes on uid, gid and groups of the order, as far as they are given. 0 or -errno; then nothing may be
 * opened. */
int identity_take(json_object *order);
