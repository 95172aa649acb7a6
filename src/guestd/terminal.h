/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Pseudo-terminals, see pty(7). The master goes to whoever carries the stream and to nobody else, so that
 * its end hangs the terminal up; resizing therefore works on the slave, by path, while it is still its
 * session's terminal.
 */

#include <stdint.h>
#include <sys/types.h>

#define TERMINAL_ROWS_DEFAULT 24
#define TERMINAL_COLUMNS_DEFAULT 80

typedef struct Terminal {
        int master, slave; /* close-on-exec */
        char path[32];     /* of the slave */
        dev_t device;
} Terminal;

/* rows, columns: 0 means the default. 0, -errno (-ENOSPC: no pty left). */
int terminal_open(uint16_t rows, uint16_t columns, Terminal *ret);
void terminal_done(Terminal *t);
/* Child, a session leader: makes the slave its controlling terminal, owned by that user. */
int terminal_enter(int slave, uid_t uid);
/* A dimension of 0 stays as it is. leader: the session's, a child of the caller's that was not waited for
 * yet. 0; -ENOTTY: it is not its terminal any more; -errno. */
int terminal_resize(const Terminal *t, pid_t leader, uint16_t rows, uint16_t columns);
