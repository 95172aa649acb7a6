/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The guestd that is to be installed, from a file of the host, with the machine that it is for.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

typedef struct Program {
        uint8_t *data;
        size_t n;
        unsigned machine; /* ELF e_machine */
        bool is_64bit, is_big_endian;
} Program;

int program_load(const char *path, Program *ret); /* 0; -errno; -ENOEXEC: no ELF executable */
/* The header alone, without data: 0; -ENOEXEC. */
int program_parse(const uint8_t *untrusted_data, size_t n, Program *ret);
void program_done(Program *p);
const char *program_architecture(const Program *p); /* as libguestfs and uname(1) call it; "unknown" */
/* x86_64 runs i386's programs, and aarch64 arm's, where the kernel was built so: only equal ones are taken.
 */
bool program_fits(const Program *p, const char *architecture);
