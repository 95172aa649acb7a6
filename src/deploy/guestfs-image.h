/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Images through libguestfs, which runs a small VM of its own on them: needs no rights but those on the
 * image. The library is loaded when it is asked for, and need not be installed.
 */

#include "deploy/image.h"

extern const ImageBackend guestfs_image_backend;
