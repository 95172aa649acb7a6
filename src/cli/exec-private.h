/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The inside of exec and shell, for exec.c (the command's life) and exec-options.c (what is asked for).
 * Nobody else includes this.
 */

#include "cli/client.h"
#include "cli/pump.h"
#include "cli/terminal.h"

typedef struct Exec {
        Cli *cli;
        bool tty, input, detach, queue;
        const char *user, *cwd;
        const uint8_t *bytes; /* for stdin, where no descriptor can pass; NULL */
        size_t n_bytes;
        char **env;
        size_t n_env;
        uint64_t timeout, ttl;
        char *job;
        bool attached; /* looks at a detached process: never ends it */
        bool finished, left;
        bool job_gone;
        bool asked;
        json_object *process; /* its properties, asked for at its end; NULL */
        int left_status;
        char *result, *error;
        Pump in, out, err;
        unsigned n_interrupts;
        uint64_t moved, moved_at; /* bytes of output written, and when it was last less */
        Escape escape;
        int keyboard; /* of its terminal, where our input is none and may end before it; 0: closed */
} Exec;

int exec_append_options(const Exec *x, sd_bus_message *m);
/* What is on this terminal is there too. *ret_term is x's as long as x lives. */
void exec_add_term(Exec *x, char **ret_term);
