/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Push and pull as endpoints of the guest's carrier: a Receiver or a Sender, within what the guest's policy
 * allows. For carry-child.c only.
 */

#include <json-c/json.h>

#include "carrier/carrier.h"
#include "guestd/policy.h"
#include "proto/wire-error.h"

/* One line for the guest's log, when a transfer has ended or was refused: as log_audit(). */
typedef void (*CarryAudit)(void *userdata, const char *verb, const char *id, const char *result,
                           const char *details);

/* From OPEN's parameters: preflight. WIRE_OK, or an error and a malloc'ed sentence; as CarrierOps.open. */
WireError carry_push_new(const Policy *policy, json_object *untrusted_params, CarryAudit audit,
                         void *userdata, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text);
WireError carry_pull_new(const Policy *policy, json_object *untrusted_params, CarryAudit audit,
                         void *userdata, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text);
