/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Included in front of every file of a coverage build: a child that ends with _exit(2) writes its counts
 * first, as exit(3) does.
 */

#include <unistd.h>

void __gcov_dump(void);
#define _exit(code)                                                                                         \
        ({                                                                                                  \
                int code_ = (code);                                                                         \
                __gcov_dump();                                                                              \
                _exit(code_);                                                                               \
        })
