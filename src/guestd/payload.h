/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A message's bytes inside a JSON line of guestd.sock: "text" where they are UTF-8 without NUL, else
 * "data64". Both ends of the socket use it.
 */

#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

/* 0, -ENOMEM. */
int payload_put(json_object *o, const void *data, size_t n);
/* 0 and malloc'ed bytes (with a NUL behind them), neither key: none; -EBADMSG: not text, not base64, or
 * both; -E2BIG: past PAYLOAD_MAX; -ENOMEM. */
int payload_get(json_object *untrusted_o, uint8_t **ret_data, size_t *ret_n);
