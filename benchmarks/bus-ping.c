/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Round trips over D-Bus from a caller that costs little: a method without arguments is called COUNT times.
 * One round trip a line, in microseconds, and what the method returned if it is a number (Ping: the round
 * trip beyond the bus).
 *
 *   bus-ping PATH INTERFACE METHOD COUNT EVERY      of org.vmferry1 on the bus of DBUS_SESSION_BUS_ADDRESS
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#include "pace.h"

int main(int argc, char **argv)
{
        sd_bus *bus = NULL;
        const char *name;
        Pace pace;
        int r;

        if (argc != 6) {
                fprintf(stderr, "usage: bus-ping PATH INTERFACE METHOD COUNT EVERY\n");
                return 2;
        }
        r = sd_bus_open_user(&bus);
        if (r >= 0)
                r = sd_bus_get_unique_name(bus, &name); /* after the handshake */
        if (r < 0)
                fprintf(stderr, "bus-ping: no bus: %s\n", strerror(-r));
        pace_init(&pace, argv[5]);
        for (uint64_t n = strtoull(argv[4], NULL, 10); r >= 0 && n > 0; n--) {
                sd_bus_error error = SD_BUS_ERROR_NULL;
                sd_bus_message *reply = NULL;
                uint64_t number = 0;
                double usec;

                pace_begin(&pace);
                r = sd_bus_call_method(bus, "org.vmferry1", argv[1], argv[2], argv[3], &error, &reply, NULL);
                usec = pace_end(&pace);
                if (r < 0)
                        fprintf(stderr, "bus-ping: %s\n", error.message ? error.message : strerror(-r));
                else if (sd_bus_message_has_signature(reply, "t") &&
                         sd_bus_message_read(reply, "t", &number) >= 0)
                        printf("%.1f %" PRIu64 "\n", usec, number);
                else
                        printf("%.1f\n", usec);
                sd_bus_message_unref(reply);
                sd_bus_error_free(&error);
        }
        sd_bus_flush_close_unref(bus);
        return r < 0;
}
