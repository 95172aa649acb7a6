/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines are flushed one by one: the steps take seconds each, and somebody is watching.
 */

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/escape.h"
#include "deploy/report.h"

#define LINE_MAX_BYTES 1024u

static bool as_json;

void report_init(bool json)
{
        as_json = json;
}

static _printf_(1, 0) char *text_of(const char *format, va_list ap)
{
        char raw[LINE_MAX_BYTES];

        (void)vsnprintf(raw, sizeof(raw), format, ap);
        return escape_text(raw, strlen(raw), sizeof(raw));
}

void report_step(const char *step, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, format);
        text = text_of(format, ap);
        va_end(ap);
        if (as_json) {
                json_object *o = json_object_new_object();
                (void)json_object_object_add(o, "step", json_object_new_string(step));
                (void)json_object_object_add(o, "text", json_object_new_string(text ? text : ""));
                (void)puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
                                                                     JSON_C_TO_STRING_NOSLASHESCAPE));
                (void)json_object_put(o);
        } else
                (void)puts(text ? text : "");
        (void)fflush(stdout);
}

int report_failure(const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, format);
        text = text_of(format, ap);
        va_end(ap);
        (void)fprintf(stderr, "vmferry: %s\n", text ? text : "no memory");
        return 1;
}
