/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A harness is one function. libFuzzer calls it, or replay.c does with the files of its corpus.
 */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
