/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * hostd.conf and its drop-ins: /usr/lib/vmferry/hostd.conf(.d/), /etc/vmferry/hostd.conf(.d/),
 * /run/vmferry/hostd.conf.d/, with --user $XDG_CONFIG_HOME/vmferry/hostd.conf(.d/). Section [Host]. A wrong
 * line is logged with file, line and key, and passed over.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

typedef struct Config {
        bool user;               /* --user: session bus, qemu:///session */
        char *connect_uri;       /* ConnectUri= */
        char *control_channel;   /* ControlChannel= */
        char *data_channel;      /* DataChannel= */
        uint64_t keepalive_usec; /* KeepAlive=30s: an idle guest is asked that often whether it is there; 0:
                                    never */
        uint64_t job_retention_usec;      /* JobRetention=60s */
        uint64_t detached_retention_usec; /* DetachedRetention=1d, after the end of a detached process */
        uint32_t max_jobs;                /* MaxJobs=4096 */
        uint32_t max_jobs_per_caller;     /* MaxJobsPerCaller=256 (per uid; root is not limited) */
        uint32_t max_transfers;           /* MaxTransfers=64 running at once; more wait as `queued` */
        uint32_t max_transfers_per_guest; /* MaxTransfersPerGuest=16 */
        uint32_t max_processes_per_guest; /* MaxProcessesPerGuest=64 */
        uint32_t max_calls_per_guest;     /* MaxCallsPerGuest=256 under way */
        uint32_t max_calls_per_caller;    /* MaxCallsPerCaller=128 with one guest (root is not limited) */
        uint32_t max_messages_per_second; /* MaxMessagesPerSecond=1000 from one guest to the bus */
        uint32_t max_queued_per_guest;    /* MaxQueuedPerGuest=1000 */
        uint32_t max_queued_per_caller;   /* MaxQueuedPerCaller=10000 */
        uint64_t queue_ttl_usec;          /* QueueTtl=7d: default ttl */
        char **guest_calls;  /* AllowGuestCall=TOPIC-GLOB:GUEST-GLOB …: calls that guests may make; default
                                none */
        char *state_dir;     /* /var/lib/vmferry, $STATE_DIRECTORY, or $XDG_STATE_HOME/vmferry */
        char *runtime_dir;   /* /run/vmferry, $RUNTIME_DIRECTORY, or $XDG_RUNTIME_DIR/vmferry */
        char *file;          /* --config=: read instead of all the others; NULL */
        unsigned n_warnings; /* lines passed over */
} Config;

/* Never fails: what cannot be read is logged and has its default. */
Config *config_load(bool user);
Config *config_load_file(bool user, const char *file); /* this one instead; -ENOENT is a warning too */
Config *config_free(Config *c);

DEFINE_CLEANUP(Config *, config_free);
