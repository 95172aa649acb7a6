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

#define PROCESS_ASKED_MAX 32u /* calls that wait for a supervisor's word */

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
        bool supervisor_answers;
        struct {
                uint32_t serial;
                uint64_t token;
        } asked[PROCESS_ASKED_MAX];
        size_t n_asked;
        uint32_t n_asked_ever;
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
/* Asks the supervisor, and answers the call when it has done so (process-call.c). */
void process_ask(Process *p, uint64_t token, SupervisorWordType type, int32_t a, int32_t b);
void process_on_done(Process *p, uint32_t serial, int error);
void process_forget_asked(Process *p);                 /* the supervisor has ended: so has the process */
int process_fork(Process *p, const ProcessSpec *spec); /* process-start.c; 0, -errno */
json_object *process_shorten_argv(char *const *argv);  /* process-start.c; NULL: no memory */

Process *processes_find(const Processes *ps, const char *id);
int processes_add(Processes *ps, Process *p); /* takes it over on success */
