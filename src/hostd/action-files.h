/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The action files of this host as they are now: read, watched, and read again when they change. One with an
 * error is told of in the log and left out.
 */

#include <glib.h>

#include "hostd/action.h"
#include "hostd/host.h"

typedef struct ActionFile {
        Action *action;
        unsigned n_refs; /* the list's, and one for each that works on it */
} ActionFile;
ActionFile *action_file_unref(ActionFile *f);

typedef struct ActionFiles ActionFiles;

ActionFiles *action_files_new(Host *h); /* NULL: no memory, no descriptors */
ActionFiles *action_files_free(ActionFiles *fs);
GPtrArray *action_files_all(const ActionFiles *fs); /* ActionFile*, in the order of file names; borrowed */
/* All domains are known: patterns that match none are told of, from now on at each reading. */
void action_files_meet_guests(ActionFiles *fs);
void action_files_load(ActionFiles *fs);
