/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Our one peer: the control Session over the control port. Says HELLO_REQ once when there is something to
 * say it to, and believes no poll flag: the host's frames drive the rest. Requests are passed up by their
 * method; answers may come later, and are dropped if the session that asked has ended meanwhile.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

#include "base/base.h"
#include "guestd/loop.h"
#include "proto/message.h"
#include "proto/session.h"

typedef struct Host Host;

typedef struct HostOps {
        /* Facts for the next handshake; the caller frees them. NULL: no memory. */
        json_object *(*hello)(void *userdata);
        /* hello is borrowed: what the host says about itself, unchecked. */
        void (*up)(void *userdata, json_object *hello);
        /* Once for each `up`. */
        void (*down)(void *userdata, const char *why);
        /* Answer by host_reply(token) or host_refuse(token), once. method: not checked beyond being text. */
        void (*request)(void *userdata, uint64_t token, const char *method, const Message *m);
        void (*reply)(void *userdata, uint32_t request, WireError error, const char *text, const Message *m);
        void (*notify)(void *userdata, const char *method, const Message *m);
} HostOps;

int host_new(Loop *l, const char *channel, const HostOps *ops, void *userdata, Host **ret); /* 0, -ENOMEM */
Host *host_free(Host *h);
DEFINE_CLEANUP(Host *, host_free);

void host_start(Host *h); /* looks for the port, and opens it as soon as it is there */
bool host_is_up(const Host *h);
/* Asks for a new handshake: what `hello` says has changed. */
void host_renew(Host *h);
/* BYE; `done` is called when the host has answered, or half a second is over, or there is no session. */
void host_leave(Host *h, void (*done)(void *userdata));

/* JSON objects are taken over, NULL is an empty one. */
void host_reply(Host *h, uint64_t token, json_object *json, const void *payload, size_t n_payload);
void host_refuse(Host *h, uint64_t token, WireError error, const char *format, ...) _printf_(4, 5);
/* 0 and *ret_request; -ENOTCONN, -ENOBUFS, -E2BIG, -ENOMEM. */
int host_request(Host *h, json_object *json, const void *payload, size_t n_payload, uint32_t *ret_request);
void host_forget(Host *h, uint32_t request);
int host_notify(Host *h, json_object *borrowed); /* 0, -ENOTCONN, -ENOBUFS, -ENOMEM */
