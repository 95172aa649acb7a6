/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What this guest says about itself in the handshake, and its supply of random bytes. Read when asked: a
 * hostname that changes is told by the next handshake.
 */

#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

#include "base/base.h"
#include "guestd/policy.h"

#define INSTANCE_SIZE 33 /* 32 hex digits and NUL */

/* Of this run of the daemon. */
void facts_make_instance(char ret[INSTANCE_SIZE]);
/* "agent", "build", "capabilities", "boot_id", "instance", and "facts" with "hostname", "kernel", "machine",
 * "os_release" (an object), "uptime_usec". NULL: no memory. */
json_object *facts_hello(const Policy *policy, const char *instance, const char *build);
/* As SessionConfig.random wants it. Works without /dev and before the kernel's pool is full. */
void facts_random(void *userdata, void *buf, size_t n);
