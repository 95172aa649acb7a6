/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The watcher of an upgrade: a process of the old program that waits for the new one's word, a file that
 * goes away. If it doesn't come in time, or the new one dies before, the old program gets its place back and
 * is started, by whatever started this one.
 */

#include <stdint.h>
#include <sys/types.h>

#include "guestd/config.h"

#define ROLLBACK_MARKER                                                                                     \
        RUNTIME_DIR "/upgrade" /* holds the new program's digest until that one removes it                  \
                                */

typedef struct Rollback {
        const char *program, *old_program; /* paths: the new one's place, and where the old one is kept */
        char *const *argv;                 /* to start the old one with, if nobody else does */
        pid_t pid;                         /* that becomes the new program */
        uint64_t confirm_usec;
} Rollback;

/* In a child of loop_fork(), before that pid executes the new program. */
_Noreturn void rollback_watch(const Rollback *r);
