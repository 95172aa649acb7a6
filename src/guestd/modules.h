/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The drivers of the port, in guests where nobody else loads them: an initramfs, a minimal init. modprobe(8)
 * if it is there, else finit_module(2) by modules.dep. Nothing is mounted, nothing is unloaded.
 */

/* Whether the kernel has virtio-serial ports at all now. Blocks for as long as loading takes: before the
 * loop runs. */
_Bool modules_load_virtio(void);
