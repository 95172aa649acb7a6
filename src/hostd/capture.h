/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Takes in memory what comes out of a pipe, up to a limit, on the main loop. For outputs that are wanted
 * whole.
 */

#include <glib.h>

#include "hostd/loop.h"

typedef struct Capture Capture;

/* Called once: the pipe has ended, or is_too_large: there was more than max bytes, which are dropped, and
 * the pipe is closed. Freeing the capture within is fine. */
typedef void (*CaptureDone)(void *userdata, bool is_too_large);

/* Takes fd over and makes it nonblocking. NULL: no memory, or no descriptor to wait for. */
Capture *capture_new(Loop *l, int fd, size_t max, CaptureDone done, void *userdata);
Capture *capture_free(Capture *c);
bool capture_is_done(const Capture *c);
const uint8_t *capture_bytes(const Capture *c, size_t *ret_n); /* NULL if there are none */
