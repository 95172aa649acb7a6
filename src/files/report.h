/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What a Sender and a Receiver tell their owner of single entries, whichever side it happened on: each one
 * that failed, and each that was left out or could not be kept as it was.
 */

#include "proto/wire-error.h"

#define REPORTS_BYTES_MAX 1048576u /* of all reports of a job; what is beyond is counted only */

/* WIRE_OK: a note. path is "" for the object itself; text and path may be the peer's: escape them. */
typedef void (*EntryReported)(void *userdata, WireError error, const char *text, const char *path);
