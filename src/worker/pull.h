/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The host's end of a pull: waits to hear what the source is, judges the destination, writes it.
 */

#include <json-c/json.h>

void pull_run(json_object *order, int fd); /* fd: the caller's, or -1 */
