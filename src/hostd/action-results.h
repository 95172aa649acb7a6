/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What came of each action for each guest: the last run's end, which outlives hostd in the store, and over
 * it what is under way.
 */

#include <stdint.h>

#include "hostd/store.h"

typedef struct ActionResult { /* of the last run for a guest */
        const char *guest_name;
        const char *result; /* "waiting", "running", "done", "failed" */
        const char *reason; /* "" unless failed */
        uint64_t at;        /* µs since the epoch; 0: not known */
} ActionResult;

typedef struct ActionResults ActionResults;

ActionResults *action_results_new(Store *s); /* s may be NULL */
ActionResults *action_results_free(ActionResults *rs);
/* "waiting" or "running" */
void action_results_set(ActionResults *rs, const char *action, const char *guest_uuid,
                        const char *guest_name, const char *result);
/* "done", or "failed" for a reason */
void action_results_end(ActionResults *rs, const char *action, const char *guest_uuid,
                        const char *guest_name, const char *reason);
/* A run that was not needed: the end of the one before counts again, "done" if it is not known. */
void action_results_keep(ActionResults *rs, const char *action, const char *guest_uuid,
                         const char *guest_name);
void action_results_each(const ActionResults *rs, const char *action,
                         void (*each)(void *userdata, const ActionResult *r), void *userdata);
