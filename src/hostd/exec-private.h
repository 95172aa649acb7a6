/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The inside of an exec job, for exec.c (its life), exec-request.c (what is asked of the guest),
 * exec-call.c (what is done to a running process), exec-detached.c (what outlives hostd) and
 * exec-abandoned.c (what may run although its caller was told of a failure). Nobody else includes this.
 */

#include <glib.h>

#include "hostd/capture.h"
#include "hostd/exec.h"
#include "hostd/loop.h"

typedef struct Process {
        Jobs *jobs;
        Job *job; /* NULL: freed, while streams are still to end */
        bool is_run, tty;
        uint64_t timeout_usec;
        uint64_t grace_usec; /* the guest's own, from SIGTERM to SIGKILL */
        uint64_t kill_at;    /* when SIGKILL is due from us: a moment behind the guest's */
        char **argv, *user;

        uint64_t request; /* process.start under way, or of an abandoned one process.kill */
        uint64_t listing; /* process.list under way */
        ExecStarted started;
        RunDone run_done;
        void *userdata;
        int ours[3], callers[3]; /* of stdin, stdout, stderr */
        GuestStream *stdio, *err;
        bool out_ended; /* nothing more comes; the stream may live on for stdin */
        uint64_t n_bytes;

        bool running, exited, timed_out;
        bool is_unknown;   /* to the guest: nothing of it is there */
        bool is_abandoned; /* nobody waits for it any more: it is to be ended */
        bool has_spool;    /* an abandoned one, which the guest is not to forget with it */
        unsigned n_kills;  /* of an abandoned one, in this session */
        int exit_status, exit_signal;
        WireError error; /* WIRE_OK so far */
        char *text;
        LoopTimer *timer;
        enum { IN_TIME, TERMINATED, KILLED } ending;

        Capture *captures[2]; /* of Run: stdout, stderr */
        uint8_t *input;
        size_t n_input, n_input_done;
        LoopWatch *input_watch;
} Process;

extern const JobOps exec_job_ops;
Process *exec_process_new(Jobs *js, const char *const *argv, const char *user);
void exec_set_grace(Process *p, json_object *untrusted); /* by its "grace" */
void exec_done_outputs(Process *p); /* closes what was made for them and for its input */
bool exec_can_ask(const Job *j);    /* NULL: no */
/* A request whose answer changes nothing. Takes json over; nothing happens while the guest is not ready. */
void exec_tell(const Job *j, json_object *json);
int exec_tell_signal(const Job *j, int signal); /* -ENOTCONN */
void exec_show(Process *p, uint32_t guest_pid); /* puts org.vmferry1.Process onto the job */
void exec_show_exit(Process *p);

json_object *exec_request_new(const char *method, const char *id); /* id NULL: none */
json_object *exec_request_signal(const Job *j, int signal);        /* to all of its tree */
json_object *exec_request_start(const Job *j, const char *const *argv, const ExecOptions *o, bool is_run);

/* Of detached ones, else nothing happens. */
void exec_keep(Process *p);   /* writes down the job as it is */
void exec_forget(Process *p); /* drops what was written down, and in the guest the output */

/* A command whose caller was told that it failed, while the guest may have started it: the job goes on
 * hidden until the guest has ended it. false: nothing of it can run, and all is as it was. */
bool exec_abandon(Process *p);
/* The same of one that runs and is about to finish without the guest's word: by another, hidden job. */
void exec_abandon_running(Process *p);
/* Of an abandoned one, p may be gone behind each. */
void exec_abandoned_timer(Process *p);
void exec_abandoned_guest_state(Process *p);
void exec_abandoned_ended(Process *p);
