/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all ways into a guest have in common.
 */

#include <stdarg.h>
#include <stdio.h>

#include "deploy/target.h"

int target_fail(Target *t, int error, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(t->why, sizeof(t->why), format, ap);
        va_end(ap);
        return error;
}
