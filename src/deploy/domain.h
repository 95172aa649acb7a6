/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The domain that a guest lives in, as libvirt knows it: the only file here that talks to libvirt.
 */

#include <stdbool.h>

#include "base/base.h"

typedef struct Domain Domain;

/* By name or UUID. 0 and *ret; -ENOENT: no such domain; -errno. *ret_why is malloc'ed. */
int domain_open(const char *uri, const char *name, Domain **ret, char **ret_why);
Domain *domain_free(Domain *d);
DEFINE_CLEANUP(Domain *, domain_free);
bool domain_is_active(Domain *d);
bool domain_is_saved(Domain *d);         /* virsh managedsave: its next start goes on from there */
const char *domain_why(const Domain *d); /* libvirt's last words */
char *domain_xml(Domain *d);             /* of the next start; malloc'ed, or NULL */
/* One command to the QEMU guest agent, answered within that time. */
int domain_ask_agent(Domain *d, const char *command, unsigned timeout_seconds, char **ret_answer);
