/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The daemon put together: who tells whom. Wiring only.
 */

#include "base/base.h"
#include "guestd/loop.h"

typedef struct Agent Agent;

/* What the command line says, which wins over the files; borrowed for the object's life. */
typedef struct AgentConfig {
        const char *config_file;     /* NULL: the standard places */
        const char *control_channel; /* NULL: as configured */
        const char *data_channel;
        int log_level; /* -1 */
} AgentConfig;

int agent_new(Loop *l, const AgentConfig *config, Agent **ret); /* 0, -errno; what went wrong was logged */
Agent *agent_free(Agent *a);
DEFINE_CLEANUP(Agent *, agent_free);
void agent_reload(Agent *a);
void agent_stop(Agent *a); /* says goodbye, then stops the loop with 0; at once if asked twice */
