/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Lines to /dev/log, or to stderr where there is no syslog or in the foreground. Foreign text is escaped by
 * the caller (base/escape.h) before it comes here; what slips through loses its control characters. Never
 * blocks.
 */

#include <stdbool.h>
#include <syslog.h>

#include "base/base.h"

void log_init(const char *identifier, bool to_stderr);
void log_set_max_level(int level);
/* "error", "warning", "notice", "info", "debug", or 0-7; -EINVAL. */
int log_level_from_string(const char *name);
void log_write(int level, const char *format, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/*
 * One line for each thing that the host had done here, refusals too, under the id that the host's journal
 * has: audit: verb=exec id=4f2a… result=ok user=root command="/bin/true" verb: exec, push, pull, send, call.
 * result: "ok", "started", or the name of a WireError. The format gives the further key=value pairs; quote
 * foreign values with \" and escape_text(). Facility authpriv, level notice.
 */
void log_audit(const char *verb, const char *id, const char *result, const char *format, ...) _printf_(4, 5);
