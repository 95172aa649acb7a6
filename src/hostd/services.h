/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What guests ask of the host: messages for whoever listens (MessageReceived), and calls, which go to the
 * program that registered the topic, where hostd.conf lets this guest call it. Answers every request of
 * every guest.
 */

#include <systemd/sd-bus.h>

#include "hostd/host.h"
#include "hostd/quota.h"

typedef struct Services Services;

Services *services_new(sd_bus *bus, Host *h, Quota *quota); /* listens to host; both borrowed */
Services *services_free(Services *s);
/* WIRE_OK, or WIRE_INVALID_ARGS, WIRE_EXISTS (somebody else has it), WIRE_NOT_FOUND with a malloc'ed
 * sentence. */
WireError services_register(Services *s, const char *topic, const char *owner, char **ret_text);
WireError services_unregister(Services *s, const char *topic, const char *owner, char **ret_text);
void services_owner_left(Services *s, const char *owner);
/* Pure: does one of the rules, TOPIC-GLOB:GUEST-GLOB, let this guest call that topic? NULL: no rules, no. */
bool services_may_call(const char *const *rules, const char *topic, const char *guest);
