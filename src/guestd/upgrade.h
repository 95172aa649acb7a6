/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Another guestd in place of this one: copied beside it, checked by digest and by running it, then put in
 * its place, with a watcher (rollback.h) that goes back to this one if the new one never gets as far as a
 * session. The process stays: the agent ends its parts and executes the new program, so a service manager
 * sees no restart.
 */

#include <stdint.h>

#include "base/base.h"
#include "guestd/loop.h"
#include "proto/digest.h"
#include "proto/wire-error.h"

#define UPGRADE_EXIT 64 /* loop_run()'s code: now upgrade_execute() */
#define UPGRADE_CONFIRM_USEC (45 * USEC_PER_SEC)
#define UPGRADE_CONFIRM_MAX_USEC (600 * USEC_PER_SEC)

typedef struct Upgrade Upgrade;

typedef struct UpgradeOps {
        /* Once for each upgrade_start(). WIRE_OK: the new program is in place, text is what it calls itself:
         * leave the host and stop the loop with UPGRADE_EXIT. Else nothing has changed, and text is a
         * sentence. */
        void (*done)(void *userdata, uint64_t token, WireError error, const char *text);
} UpgradeOps;

/* Finds out which file this process runs from. argv is borrowed for the process's life. */
void upgrade_init(char **argv);
/* The digest of the running program, "xxh64:…"; "" where /proc is missing. */
const char *upgrade_build(void);
/* In place of this process: the program that is at its path now. Returns only if that fails: -errno. */
int upgrade_execute(void);
/* A session is up: tells the watcher, if this is the program that it waits for. */
void upgrade_confirm(void);

int upgrade_new(Loop *l, const UpgradeOps *ops, void *userdata, Upgrade **ret); /* 0, -ENOMEM */
Upgrade *upgrade_free(Upgrade *u);
DEFINE_CLEANUP(Upgrade *, upgrade_free);
/* path: the new program, absolute; taken away once it is in place. confirm_usec: how long the watcher waits.
 */
void upgrade_start(Upgrade *u, uint64_t token, const char *untrusted_path, const char *untrusted_digest,
                   uint64_t confirm_usec);
