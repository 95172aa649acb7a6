/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * May this caller do that? The only file that knows polkit. Asks without blocking: the call is dispatched
 * again when the answer is there, so everything in it is looked up anew. Without polkit nobody but root may
 * do anything; on the session bus everybody with our own uid may do everything, and nobody else anything.
 */

#include <systemd/sd-bus.h>

#include "hostd/job.h"
#include "hostd/quota.h"

typedef struct Polkit Polkit;

typedef struct PolkitDetails { /* as a rule sees them by action.lookup(); NULL: not said */
        const char *domain_name, *domain_uuid, *user, *command, *path, *topic;
} PolkitDetails;

Polkit *polkit_new(sd_bus *bus, bool user, Quota *quota); /* quota is borrowed */
Polkit *polkit_free(Polkit *p);
/* verb: "inspect", "send", "exec", "push", "pull", "manage". 1: allowed; 0: the message will come again,
 * return 1 to sd-bus; negative errno with *error set to AccessDenied, InteractiveAuthorizationRequired or
 * LimitsExceeded. */
int polkit_check(Polkit *p, sd_bus_message *m, const Caller *caller, const char *verb,
                 const PolkitDetails *details, sd_bus_error *error);
void polkit_forget(Polkit *p, const char *sender); /* its questions are withdrawn */
