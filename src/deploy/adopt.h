/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * guestd into a running guest, by the QEMU guest agent.
 */

#include "deploy/program.h"

/* The exit status; what happened was told. */
int adopt_run(const char *uri, const char *domain, const Program *p, uint64_t timeout_usec, bool dry_run);
