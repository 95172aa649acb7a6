/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The other end of guestd.sock, for shell scripts: vmferry-guestd send TOPIC [TEXT|-], call TOPIC [TEXT|-],
 * listen [--json] TOPIC…. Blocking, a program of its own, which shares no state with the daemon.
 */

#include <stdbool.h>

/* Whether it is one of send, call, listen. */
bool local_client_is_verb(const char *verb);
/* argv[0] is the verb. Returns the exit status: 0 done, 1 failed (the reason on stderr, one line), 2 usage.
 * socket_path NULL: the default. */
int local_client_main(int argc, char *argv[], const char *socket_path);
/* The lines of --help that belong to these verbs. */
extern const char local_client_help[];
