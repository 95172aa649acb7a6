/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Control messages: a JSON object, and a payload of raw bytes behind a NUL. The only file of src/proto that
 * knows json-c. Reading accessors never fail: what is absent or of another type is the default given.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

#include "proto/limits.h"
#include "proto/wire-error.h"

typedef struct Message {
        json_object *json;      /* owned; an object, never NULL once parsed */
        const uint8_t *payload; /* into `raw`; NULL: none */
        size_t n_payload;
        uint8_t *raw; /* owned */
} Message;

/* 0; -EBADMSG: no JSON object, nested too deep, NUL or UTF-8 trouble in its text; -E2BIG; -ENOMEM. Keeps
 * nothing of `data`. */
int message_parse(const uint8_t *untrusted_data, size_t n, Message *ret);
void message_done(Message *m);
/* 0 and a malloc'ed body (json is borrowed; payload NULL: none); -E2BIG: json or payload is past its limit;
 * -EILSEQ: text in it that is no UTF-8 or has a NUL; -ENOMEM. */
int message_format(json_object *json, const void *payload, size_t n_payload, uint8_t **ret_body,
                   size_t *ret_n);

const char *message_str(json_object *o, const char *key, const char *otherwise);
int64_t message_int(json_object *o, const char *key, int64_t otherwise);
bool message_bool(json_object *o, const char *key, bool otherwise);
json_object *message_obj(json_object *o, const char *key); /* borrowed, or NULL */
/* A NULL-terminated array of malloc'ed strings. -ENOENT: absent; -EBADMSG: no array of strings, or a NUL in
 * one; -E2BIG. */
int message_strv(json_object *o, const char *key, size_t max, char ***ret);
char **message_strv_free(char **strv);

/* {"error": name, "message": text}; text is formatted printf-wise, cut at 1 KiB, and made UTF-8. NULL: no
 * memory. */
json_object *message_error(WireError error, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Reads one; WIRE_OK if there is no "error". *ret_text is borrowed and never NULL. */
WireError message_get_error(json_object *o, const char **ret_text);
