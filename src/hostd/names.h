/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* All names that others see: the bus, the paths, the channels. */

#define BUS_NAME "org.vmferry1"
#define BUS_PATH "/org/vmferry1"
#define BUS_GUEST_PREFIX "/org/vmferry1/guest"
#define BUS_JOB_PREFIX "/org/vmferry1/job"
#define BUS_SERVICE_PATH "/org/vmferry1/service"
#define IFACE_MANAGER "org.vmferry1.Manager"
#define IFACE_GUEST "org.vmferry1.Guest"
#define IFACE_JOB "org.vmferry1.Job"
#define IFACE_PROCESS "org.vmferry1.Process"
#define IFACE_SERVICE "org.vmferry1.Service"
#define BUS_ERROR_PREFIX "org.vmferry1.Error."
#define POLKIT_PREFIX "org.vmferry1."

#define CONTROL_CHANNEL "org.vmferry.ctl.0"
#define DATA_CHANNEL "org.vmferry.data.0"
