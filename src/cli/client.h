/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The bus from a client's side: connecting, calls without a time limit of their own, errors in one line, and
 * messages turned into JSON objects, which is how every command reads them.
 */

#include "cli/cli.h"

/* The bus, connected; NULL after it has said why not. */
sd_bus *client_bus(Cli *c);
/* A method call to be filled, which is c's until the next one is made; NULL after it has said why not. */
sd_bus_message *client_call_new(Cli *c, const char *path, const char *interface, const char *method);
int client_append(sd_bus_message *m, const char *types, ...); /* says what cannot be sent; negative errno */
/* Sends it. 0 and *ret_reply (may be NULL), or a negative errno with *ret_error (may be NULL:
 * then the error is printed). timeout_usec: UINT64_MAX waits for ever. */
int client_call(Cli *c, sd_bus_message *m, uint64_t timeout_usec, sd_bus_error *ret_error,
                sd_bus_message **ret_reply);
/* The same with the option "queue" in it: *ret_id is that of the job. */
int client_call_queued(Cli *c, sd_bus_message *m, sd_bus_error *ret_error, uint32_t *ret_id);
void client_print_id(const Cli *c, uint64_t id); /* of a job or a message, on stdout */
/* "NotReady" of org.vmferry1.Error.NotReady, else NULL. */
const char *client_error_name(const sd_bus_error *e);
int client_print_error(const sd_bus_error *e, int r); /* returns EXIT_FAILED */

/* The object path of a guest; malloc'ed. 0, or a negative errno after printing why not. */
int client_guest_path(Cli *c, const char *guest, char **ret);
/* The next value(s) of a message: dicts of string keys become objects, ay becomes text where it is UTF-8. */
int client_read_json(sd_bus_message *m, json_object **ret);
/* All properties of one interface. 0 and an object, or a negative errno (printed unless quiet). */
int client_properties(Cli *c, const char *path, const char *interface, bool quiet, json_object **ret);
/* {path: {interface: {property: value}}} of the whole service. */
int client_objects(Cli *c, json_object **ret);

const char *json_str(json_object *o, const char *key); /* never NULL */
uint64_t json_u64(json_object *o, const char *key);

static inline void json_putp(json_object **o)
{
        if (*o)
                json_object_put(*o);
}
#define _cleanup_json_ _cleanup_(json_putp)
#define _cleanup_message_ _cleanup_(sd_bus_message_unrefp)
#define _cleanup_bus_error_ _cleanup_(sd_bus_error_free)
