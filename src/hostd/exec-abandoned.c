/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Commands whose caller was told that they failed, while they may run: the guest never confirmed their
 * start, or was lost, or paused, before it told of their end. The job stays, unseen, with its place among
 * the limits, until the guest says that nothing runs by its id. A guest that only pretends to end it is
 * believed after some asking; one that stops has ended it.
 */

#include "hostd/exec-private.h"

#include <signal.h>

#include "base/base.h"
#include "base/fs.h"

#define KILL_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define WORD_USEC (5 * USEC_PER_SEC) /* from SIGKILL to the word of its end */
#define KILLS_MAX 3u                 /* in one session */

static void drop(Process *p)
{
        Job *j = p->job;

        if (!p->has_spool)
                exec_tell(j, exec_request_new("process.forget", j->wire_id));
        jobs_forget(p->jobs, j);
        jobs_drop(p->jobs, j); /* p is gone */
}

static void on_killed(void *userdata, WireError error, const char *text, const Message *m)
{
        Process *p = userdata;

        p->request = 0;
        if (!p->job->guest || error == WIRE_NOT_FOUND)
                drop(p);
        else if (m || (error != WIRE_INTERRUPTED && error != WIRE_NOT_READY)) /* else the next session's */
                loop_timer_set(p->timer, fs_now_usec() + WORD_USEC, USEC_PER_SEC / 10);
}

static void ask(Process *p)
{
        guest_cancel(p->job->guest, p->request);
        loop_timer_set(p->timer, USEC_INFINITY, 0);
        p->n_kills++;
        p->request = guest_request(p->job->guest, exec_request_signal(p->job, SIGKILL), NULL, 0,
                                   KILL_TIMEOUT_USEC, on_killed, p);
}

static bool is_off(const Job *j)
{
        return !j->guest || guest_state(j->guest) == GUEST_OFF;
}

bool exec_abandon(Process *p)
{
        const Job *j = p->job;

        if (is_off(j))
                return false;
        exec_done_outputs(p);
        p->is_abandoned = true;
        exec_keep(p);
        if (exec_can_ask(j))
                ask(p);
        return true;
}

void exec_abandon_running(Process *p)
{
        Process *left;

        if (p->exited || p->is_unknown || is_off(p->job))
                return;
        if (p->job->detached && p->ending == IN_TIME)
                return; /* it is to go on by itself */
        left = exec_process_new(p->jobs, (const char *const *)p->argv, p->user);
        left->has_spool = p->job->detached;
        left->job = jobs_reserve_after(p->jobs, p->job, &exec_job_ops, left);
        (void)exec_abandon(left);
}

void exec_abandoned_timer(Process *p)
{
        if (!exec_can_ask(p->job))
                return; /* its next session is a new beginning */
        if (p->n_kills < KILLS_MAX)
                ask(p);
        else
                drop(p);
}

void exec_abandoned_guest_state(Process *p)
{
        const Job *j = p->job;

        p->n_kills = 0;
        if (!j->guest && p->request)
                return; /* which ends with the guest */
        if (is_off(j))
                drop(p);
        else if (guest_state(j->guest) == GUEST_READY)
                ask(p);
}

void exec_abandoned_ended(Process *p)
{
        drop(p);
}
