/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The host's end of a push: finds the source, says what it is, sends it.
 */

#include <json-c/json.h>

void push_run(json_object *order, int fd); /* fd: the caller's, or -1 */
