/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/bus-error.h"

#include <glib.h>

#include "hostd/job.h"
#include "hostd/log.h"
#include "hostd/names.h"

const char *bus_error_name(WireError error)
{
        static char *names[_WIRE_ERROR_MAX];

        if (error == WIRE_OK)
                return "";
        if (error == WIRE_INVALID_ARGS)
                return SD_BUS_ERROR_INVALID_ARGS;
        if (error == WIRE_FAILED || (unsigned)error >= _WIRE_ERROR_MAX)
                return SD_BUS_ERROR_FAILED;
        if (!names[error])
                names[error] = g_strconcat(BUS_ERROR_PREFIX, wire_error_to_string(error), NULL);
        return names[error];
}

int bus_error_set(sd_bus_error *e, WireError error, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        g_autofree char *raw = g_strdup_vprintf(format, ap);
        va_end(ap);
        _cleanup_free_ char *text = job_text(raw);
        return sd_bus_error_set(e, bus_error_name(error), text);
}

void bus_error_reply(sd_bus_message *call, WireError error, const char *text)
{
        _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
        int r;

        (void)bus_error_set(&e, error, "%s", text ? text : wire_error_to_string(error));
        r = sd_bus_reply_method_error(call, &e);
        if (r < 0 && r != -ENOTCONN)
                log_warning("Cannot send an error reply: %s", g_strerror(-r));
}
