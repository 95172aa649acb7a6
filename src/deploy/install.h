/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What belongs into a guest so that guestd runs there: the program, the udev rule, the configuration where
 * there is none, and what the guest's init wants. The same for every way into it, and nothing if it is all
 * there already.
 */

#include "deploy/program.h"
#include "deploy/target.h"

typedef enum InitSystem { INIT_SYSTEMD, INIT_OPENRC, INIT_BUSYBOX, INIT_SYSV, INIT_NONE } InitSystem;
const char *init_system_to_string(InitSystem i);

typedef struct Install {
        bool dry_run;
        InitSystem init; /* found */
        unsigned n_written, n_labelled;
} Install;

/* Which init it has. 0, -errno with t->why. required: a guest without a known one is refused. */
int install_look(Install *i, Target *t, bool required);
int install_run(Install *i, Target *t, const Program *p); /* after that; 0, -errno with t->why */
