/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The journal, or stderr where there is none. Text of guests is escaped by the caller (base/escape.h) before
 * it comes here.
 */

#include <stdint.h>
#include <syslog.h>

#include "base/base.h"

void log_init(const char *identifier);
void log_set_max_level(int level);
void log_write(int level, const char *format, ...) _printf_(2, 3);
/* With DOMAIN_UUID=, DOMAIN_NAME= and JOB_ID= fields; uuid and name may be NULL, job 0. */
void log_guest(int level, const char *uuid, const char *name, uint32_t job, const char *format, ...)
        _printf_(5, 6);

#define log_error(...) log_write(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
