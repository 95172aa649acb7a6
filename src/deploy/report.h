/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What is told of the work: one line a step on stdout, as text or as JSON, and one line on stderr for what
 * failed.
 */

#include "base/base.h"

void report_init(bool json);
void report_step(const char *step, const char *format, ...) _printf_(2, 3); /* step: a word, for programs */
int report_failure(const char *format, ...) _printf_(1, 2);                 /* returns 1, the exit status */
