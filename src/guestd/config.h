/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * guestd.conf and its drop-ins, section [Guest]; documented in guestd.conf(5). A line that is wrong is told
 * with file, line and key, and the rest counts.
 */

#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"
#include "guestd/policy.h"

#define CONTROL_CHANNEL_DEFAULT "org.vmferry.ctl.0"
#define DATA_CHANNEL_DEFAULT "org.vmferry.data.0"
#define RUNTIME_DIR "/run/vmferry"
#define SOCKET_PATH RUNTIME_DIR "/guestd.sock"
#define STATE_DIR "/var/lib/vmferry"

typedef struct Config {
        char *control_channel; /* ControlChannel=: a port's name, or the absolute path of a device node */
        char *data_channel;    /* DataChannel= */
        int log_level;         /* LogLevel= */
        char *handlers_dir;    /* HandlersDirectory= */
        uint64_t handler_timeout_usec; /* HandlerTimeout=: when the host names none */
        unsigned handlers_max;         /* HandlersMax=: at once */
        unsigned processes_max;        /* ProcessesMax=: at once, detached ones included */
        uint64_t spool_bytes;          /* SpoolSize=: output kept of each detached process's streams */
        uint64_t spool_keep_usec;      /* SpoolKeep=: how long after its end, if nobody forgets it */
        unsigned publish_queue_max;    /* PublishQueueMax=: messages kept while the host is away */
        uint64_t kill_grace_usec;      /* KillGrace=: from SIGTERM to SIGKILL */
        mode_t socket_mode;            /* SocketMode=: of guestd.sock */
        char *socket_group;            /* SocketGroup=: NULL: root's */
        Policy policy;
} Config;

/* Defaults, then the files: `file` alone if given, else guestd.conf and the guestd.conf.d directories.
 * Complaints are logged. 0, -ENOMEM; -errno if `file` was given and can't be read. */
int config_load(const char *file, Config *ret);
/* For tests: one text, no files; complaints are counted. */
int config_parse(const char *name, const char *text, size_t n, Config *config, unsigned *ret_n_complaints);
int config_init(Config *c); /* defaults; 0, -ENOMEM */
void config_done(Config *c);
