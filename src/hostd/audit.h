/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One structured journal entry for each command, transfer and message, done or refused: who, what, how much,
 * with what result. Fields DOMAIN_UUID=, DOMAIN_NAME=, JOB_ID=, VMFERRY_*= as in vmferry-hostd(8).
 * Everything is escaped here.
 */

#include "hostd/job.h"
#include "hostd/quota.h"

typedef struct AuditEntry {   /* NULL, 0: not said */
        const char *verb;     /* "exec", "push", "pull", "send", "call", "publish", "manage", … */
        const Caller *caller; /* NULL: the guest itself */
        const char *guest_uuid, *guest_name;
        uint32_t job;
        const char *id; /* as the guest logs it */
        const char *const *command;
        const char *user, *path, *host_path, *topic, *digest;
        bool has_bytes;
        uint64_t n_bytes;
        bool has_exit;
        int exit_status;
        bool refused; /* by policy, a limit, or the state of things, before anything happened */
        WireError error;
        const char *text;
        uint32_t n_left_out; /* entries of the same guest before this one */
} AuditEntry;

void audit_write(const AuditEntry *a);

/* Refusals of one guest, which must not fill the journal. All zero: new. */
typedef struct AuditFlood {
        QuotaBucket bucket;
        uint32_t n_left_out;
} AuditFlood;
/* Writes the entry, as refused, or only counts it where there were too many lately. */
void audit_write_refusal(AuditFlood *f, const AuditEntry *a);
