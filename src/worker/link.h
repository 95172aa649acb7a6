/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The packets between hostd and a worker, one JSON object each, told apart by "do"; see ARCHITECTURE.md,
 * "Worker".
 */

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/wire-error.h"

#define LINK_FD 3
#define LINK_IN_FD 4
#define LINK_OUT_FD 5
#define LINK_EXTRA_FD 6

/* 0 and an object; -EAGAIN: none yet; -ECONNRESET: hostd is gone, or talks nonsense. */
int link_receive(bool wait, json_object **ret);
void link_send(json_object *o); /* takes o */
json_object *link_packet_new(const char *what);
void link_put_text(json_object *o, const char *key, const char *untrusted); /* escaped */
void link_put_size(json_object *o, const char *key, uint64_t value);        /* absent if unknown */

typedef struct LinkResult {
        WireError error;
        const char *text, *path; /* may be NULL */
        uint64_t n_bytes, n_files, n_failed;
        bool has_digest;
        uint64_t digest;
} LinkResult;
void link_send_done(const LinkResult *result);
