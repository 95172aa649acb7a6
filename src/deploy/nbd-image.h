/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Images through qemu-nbd, the kernel's nbd and a mount, as it is done by hand: needs root, and trusts this
 * kernel's file systems with what is in the image.
 */

#include "deploy/image.h"

extern const ImageBackend nbd_image_backend;
