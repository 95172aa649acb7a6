/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What process.start asks for, checked: nothing of the host's words goes further than this unexamined.
 */

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

#include "proto/wire-error.h"

typedef struct ProcessSpec {
        char **argv, **env;    /* env: NAME=value */
        char *id, *cwd, *user; /* cwd, user: NULL: not given */
        uint64_t timeout_usec; /* USEC_INFINITY: none */
        uint16_t rows, columns;
        bool tty, detach, in, out, err;
} ProcessSpec;

/* WIRE_OK; InvalidArgs, InvalidPath, TooLarge, Failed (no memory), and a sentence, static. */
WireError process_spec_parse(json_object *untrusted_params, ProcessSpec *ret, const char **ret_why);
void process_spec_done(ProcessSpec *s);
/* argv as one line for logs and lists: escaped, cut at max bytes. malloc'ed; NULL: no memory. */
char *process_spec_command(const ProcessSpec *s, size_t max);
/* "rows" and "columns" of a request. */
WireError process_size_parse(json_object *untrusted_params, uint16_t *ret_rows, uint16_t *ret_columns);
