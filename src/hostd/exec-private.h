/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The inside of an exec job, for exec.c (its life), exec-request.c (what is asked of the guest),
 * exec-call.c (what is done to a running process) and exec-detached.c (what outlives hostd). Nobody else
 * includes this.
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
        char **argv, *user;

        uint64_t request; /* process.start under way */
        uint64_t listing; /* process.list under way */
        ExecStarted started;
        RunDone run_done;
        void *userdata;
        int ours[3], callers[3]; /* of stdin, stdout, stderr */
        GuestStream *stdio, *err;
        bool out_ended; /* nothing more comes; the stream may live on for stdin */
        uint64_t n_bytes;

        bool running, exited, timed_out;
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
bool exec_can_ask(const Job *j); /* NULL: no */
/* A request whose answer changes nothing. Takes json over; nothing happens while the guest is not ready. */
void exec_tell(const Job *j, json_object *json);
int exec_tell_signal(const Job *j, int signal); /* -ENOTCONN */
void exec_show(Process *p, uint32_t guest_pid); /* puts org.vmferry1.Process onto the job */
void exec_show_exit(Process *p);

json_object *exec_request_new(const char *method, const char *id); /* id NULL: none */
json_object *exec_request_start(const Job *j, const char *const *argv, const ExecOptions *o, bool is_run);

/* Of detached ones, else nothing happens. */
void exec_keep(Process *p);   /* writes down the job as it is */
void exec_forget(Process *p); /* drops what was written down, and in the guest the output */
