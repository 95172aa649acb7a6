/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A process's record, shared by process.c (records, exits, descriptors), process-start.c (from a spec to a
 * supervisor) and process-call.c (the methods). Nobody else includes this.
 */

#include <sys/wait.h>

#include "guestd/process-spec.h"
#include "guestd/process.h"
#include "guestd/supervisor.h"

#define PROCESS_COMMAND_MAX 256u /* bytes of argv, in lists and logs */
#define PROCESS_META_FILE "meta" /* in a detached one's directory; JSON: "argv", "tty" */

typedef enum ProcessState { PROCESS_STARTING, PROCESS_RUNNING, PROCESS_EXITED } ProcessState;

typedef struct Process {
        Processes *owner;
        uint64_t serial; /* ascending in the list */
        char *id, *command, *user;
        json_object *argv; /* cut at COMMAND_BYTES_MAX */
        char *dir;         /* detached: its job's directory */
        ProcessState state;
        bool detached, tty, has_timed_out, gave_stdio, gave_stderr;
        bool is_forgotten; /* the host has its exit */
        uint64_t token;    /* of process.start, while starting */
        pid_t pid;
        int wait_status;
        int control; /* the supervisor; -EBADF: it has ended */
        LoopFd *control_source;
        int in, out, err; /* our ends, until they are given away; with a tty out is the master */
        uint64_t drop_at;
} Process;

struct Processes {
        Loop *loop;
        ProcessesConfig config;
        const ProcessesOps *ops;
        void *userdata;
        LoopTimer *timer;
        Process **items; /* oldest first */
        size_t n, n_allocated;
        uint64_t n_serials;
};

Process *process_new(Processes *owner, const char *id);
Process *process_free(Process *p);
DEFINE_CLEANUP(Process *, process_free);
int process_attach(Process *p, int control); /* takes the socket over, in any case */
/* The command did not start: answers process.start and drops the record. */
void process_fail(Process *p, SupervisorStage stage, int error);
/* After an exit and after the supervisor's end: drops the record, or says when. */
void process_settle(Process *p);
void process_put_exit(const Process *p, json_object *o);
int process_fork(Process *p, const ProcessSpec *spec); /* process-start.c; 0, -errno */
json_object *process_shorten_argv(char *const *argv);  /* process-start.c; NULL: no memory */

Process *processes_find(const Processes *ps, const char *id);
int processes_add(Processes *ps, Process *p); /* takes it over on success */
