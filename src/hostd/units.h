/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * systemd's view of guests: vmferry-guest@NAME.target is started while a guest is ready. Where there is no
 * systemd on the bus, nothing happens; errors are logged and change nothing.
 */

#include <systemd/sd-bus.h>

#include "hostd/host.h"

typedef struct Units Units;

/* Listens to host (borrowed). Targets left started by an earlier hostd are stopped a while later unless
 * their guest is ready. */
Units *units_new(sd_bus *bus, Host *h);
Units *units_free(Units *u); /* leaves the targets as they are: hostd's restart is no news of the guests */
/* Pure: the target of a guest's name, as systemd-escape(1) would; malloc'ed. NULL: too long for a unit. */
char *units_target(const char *guest);
