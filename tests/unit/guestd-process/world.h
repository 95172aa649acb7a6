/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* guestd's processes without the rest of guestd: a loop, the last reply and the last exit told. */

#include "guestd/process.h"

typedef struct World {
        Loop *loop;
        LoopTimer *patience;
        Processes *processes;
        Policy policy;
        char jobs_dir[64];
        json_object *reply, *exited; /* the last ones */
        unsigned n_replies, n_exited;
} World;

extern World w;

void wait_until(const unsigned *counter, unsigned n); /* runs the loop; patient, not for ever */
void run_for(uint64_t usec);
void processes_up(uint64_t grace_usec);
void setup(void);
void teardown(void);
const char *call(const char *method, const char *params); /* the error of the reply, "" for none */
const char *start(const char *params);                    /* process.start */
/* sh -c script, with these further members. */
void start_script(const char *id, const char *script, const char *more);
void read_all(int fd, char *buf, size_t n); /* closes fd */
void take_output(const char *id, char *buf, size_t n);
size_t count_dir(const char *path);
void wait_no_children(void);
bool is_alive(pid_t pid);
pid_t read_pid(const char *name); /* that a script has written to JOBS_DIR.name */
/* A tree that holds on: the first has a session of its own, the second ignores SIGTERM. */
void start_hydra(const char *id, const char *more, pid_t ret_pids[2]);
