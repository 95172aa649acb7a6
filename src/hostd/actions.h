/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The actions (action.h): loads them, waits for their events, carries out their steps with hostd's own
 * identity. Those of one guest run one after the other, in the order of their files' names; guests don't
 * wait for each other.
 */

#include "hostd/action-results.h"
#include "hostd/action.h"
#include "hostd/jobs.h"
#include "hostd/queue.h"

typedef struct Actions Actions;

Actions *actions_new(Jobs *js, Queue *q);
Actions *actions_free(Actions *as); /* before queue and jobs, behind the bus */

typedef struct ActionsEach {
        void (*action)(void *userdata, const Action *a);       /* in order */
        void (*result)(void *userdata, const ActionResult *r); /* of that action, before the next one */
        void (*action_end)(void *userdata);
} ActionsEach;
void actions_each(const Actions *as, const ActionsEach *each, void *userdata);
