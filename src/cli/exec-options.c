/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The options of Exec and Run, from those of the command line. */

#include <stdio.h>

#include "cli/exec-private.h"

int exec_append_options(const Exec *x, sd_bus_message *m)
{
        (void)sd_bus_message_open_container(m, 'a', "{sv}");
        if (x->n_env > 0) {
                (void)sd_bus_message_open_container(m, 'e', "sv");
                (void)sd_bus_message_append(m, "s", "env");
                (void)sd_bus_message_open_container(m, 'v', "a{ss}");
                (void)sd_bus_message_open_container(m, 'a', "{ss}");
                for (size_t i = 0; i < x->n_env; i++) {
                        char *eq = strchr(x->env[i], '=');

                        *eq = 0;
                        (void)sd_bus_message_append(m, "{ss}", x->env[i], eq + 1);
                        *eq = '=';
                }
                (void)sd_bus_message_close_container(m);
                (void)sd_bus_message_close_container(m);
                (void)sd_bus_message_close_container(m);
        }
        if (x->cwd)
                (void)sd_bus_message_append(m, "{sv}", "cwd", "s", x->cwd);
        if (x->user)
                (void)sd_bus_message_append(m, "{sv}", "user", "s", x->user);
        if (x->timeout != UINT64_MAX)
                (void)sd_bus_message_append(m, "{sv}", "timeout", "t", x->timeout);
        if (x->tty) {
                uint16_t rows, columns;

                terminal_size(&rows, &columns);
                (void)sd_bus_message_append(m, "{sv}{sv}{sv}", "tty", "b", true, "rows", "q", rows,
                                            "columns", "q", columns);
        }
        if (x->detach)
                (void)sd_bus_message_append(m, "{sv}", "detach", "b", true);
        if (x->queue)
                (void)sd_bus_message_append(m, "{sv}", "queue", "b", true);
        if (x->ttl != UINT64_MAX)
                (void)sd_bus_message_append(m, "{sv}", "ttl", "t", x->ttl);
        if (x->bytes) {
                (void)sd_bus_message_open_container(m, 'e', "sv");
                (void)sd_bus_message_append(m, "s", "stdin");
                (void)sd_bus_message_open_container(m, 'v', "ay");
                (void)sd_bus_message_append_array(m, 'y', x->bytes, x->n_bytes);
                (void)sd_bus_message_close_container(m);
                (void)sd_bus_message_close_container(m);
        }
        return sd_bus_message_close_container(m);
}

void exec_add_term(Exec *x, char **ret_term)
{
        for (size_t i = 0; i < x->n_env; i++)
                if (str_has_prefix(x->env[i], "TERM="))
                        return;
        if (!x->tty || !getenv("TERM"))
                return;
        if (asprintf(ret_term, "TERM=%s", getenv("TERM")) < 0)
                *ret_term = NULL;
        else
                x->env[x->n_env++] = *ret_term;
}
