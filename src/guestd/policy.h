/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The guest's last word on what its host may do. Pure: a struct and questions to it. Roots are enforced
 * where files are opened (base/fs.h, files/); this file only holds them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/base.h"

typedef enum PolicyVerb {
        POLICY_EXEC,
        POLICY_PUSH,
        POLICY_PULL,
        POLICY_SEND,
        POLICY_CALL,
        POLICY_UPGRADE, /* also needs what it amounts to: commands of any kind, as root, and push
                         * to where the new one is put */
        _POLICY_VERB_MAX,
} PolicyVerb;

/* Lists are NULL-terminated and owned; a NULL list sets no bound, an empty one admits nothing. */
typedef struct Policy {
        bool allow[_POLICY_VERB_MAX];
        char **exec_users;    /* names or numbers */
        char **exec_commands; /* globs on the absolute path that would be executed; '*' crosses no slash */
        char **write_roots;   /* absolute directories */
        char **read_roots;
        char **local_topics; /* "GLOB" or "USER:GLOB": what programs of users but root may do on the local
                                socket */
} Policy;

void policy_init(Policy *p); /* everything allowed */
void policy_done(Policy *p);

bool policy_may(const Policy *p, PolicyVerb verb);
/* user: the name, or NULL if the uid has none. */
bool policy_may_run_as(const Policy *p, const char *user, uid_t uid);
/* An empty, relative or ".."-ridden command is never matched by a bounded list. */
bool policy_may_run(const Policy *p, const char *command_path);
/* Publish, call, serve or subscribe on the local socket; root always may. */
bool policy_may_use_topic(const Policy *p, const char *user, uid_t uid, const char *topic);

const char *policy_verb_to_string(PolicyVerb verb); /* "exec", ... */
/* The capability's name in the handshake, absent if the verb is not allowed: "exec", "push", "pull", "send",
 * "call", "upgrade". */
#define policy_capability policy_verb_to_string
