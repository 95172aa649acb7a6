/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Where a transfer's object goes: the directory and the name in it, as cp(1) understands a destination,
 * judged before the first byte.
 */

#include "files/receiver.h"

typedef struct Place {
        int dir_fd;
        char *name;   /* "": the contents of a tree go into dir_fd itself */
        bool is_ours; /* a resume: this transfer made the directory that is there */
} Place;

void place_done(Place *p);
/* WIRE_OK, or an error and a malloc'ed sentence. */
WireError place_find(const ReceiverConfig *config, Place *ret, char **ret_text);
