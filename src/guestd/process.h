/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The commands that the host had started here, by the host's ids: the methods process.* of the control port.
 * Each command has a supervisor (supervisor.h), a forked child that knows its tree; this file keeps the
 * records and the descriptors. The policy is asked in here, where user and path are known: by the
 * supervisor, before it executes anything.
 */

#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

#include "base/base.h"
#include "guestd/loop.h"
#include "guestd/policy.h"
#include "proto/wire-error.h"

#define PROCESS_METHOD_PREFIX "process."
#define PROCESS_JOBS_DIR                                                                                    \
        "/run/vmferry/jobs" /* of detached processes: they end with the boot, so does this */

typedef struct Processes Processes;

typedef struct ProcessesConfig { /* strings and policy are borrowed for the object's life */
        const char *jobs_dir;
        unsigned n_max;           /* at once, detached ones included */
        uint64_t spool_bytes;     /* each output of a detached process */
        uint64_t spool_keep_usec; /* after its end, if the host doesn't forget it */
        uint64_t kill_grace_usec; /* from SIGTERM to SIGKILL */
        const Policy *policy;
} ProcessesConfig;

typedef struct ProcessesOps {
        /* The answer to process_call(), once each; reply is taken over. */
        void (*reply)(void *userdata, uint64_t token, json_object *reply);
        /* NOTIFY process.exited; borrowed. Send it if the host is there; else it comes again with
         * processes_resend(). A timeout that ends what a finished command has left behind tells the same id
         * again, with "timed_out". */
        void (*exited)(void *userdata, json_object *notification);
} ProcessesOps;

/* Takes up detached processes that an earlier guestd has left. 0, -ENOMEM, -errno. */
int processes_new(Loop *loop, const ProcessesConfig *config, const ProcessesOps *ops, void *userdata,
                  Processes **ret);
/* Ends all trees that aren't detached (the supervisors do it, with the grace time, after this has returned).
 */
Processes *processes_free(Processes *p);
DEFINE_CLEANUP(Processes *, processes_free);

/* For what starts or ends from now on. */
void processes_set_config(Processes *p, const ProcessesConfig *config);

/* process.start, kill, resize, list, forget, as ARCHITECTURE.md has them. `reply` may be called before this
 * returns, and is called for everything, Unsupported included. Writes the guest's audit lines of exec. */
void process_call(Processes *p, uint64_t token, const char *method, json_object *params);
/* The host is back: `exited` once more for all that it hasn't forgotten. process.forget is its word that it
 * has it; records of processes that aren't detached also go by themselves, a minute after their end. */
void processes_resend(Processes *p);
/* The host has gone for good (another one says HELLO): ends what isn't detached, and drops its descriptors.
 */
void processes_end_attached(Processes *p);
size_t processes_n_running(const Processes *p);

typedef enum ProcessOutput {
        PROCESS_STDIO,
        PROCESS_STDERR,
        PROCESS_SPOOL_STDOUT,
        PROCESS_SPOOL_STDERR
} ProcessOutput;
/* The descriptors behind a stream, close-on-exec, given away once (STDIO, STDERR) or as often as asked
 * (SPOOL: the output from the start of what is kept, then as it comes, fed by a small child). *ret_in: to
 * write its stdin; *ret_out: to read its output; -EBADF where there is none. With a tty both are the pty's
 * master, where the end reads as EIO. 0; -ENOENT: no such process, or it has no such stream; -EALREADY:
 * given away before; -errno. */
int process_take_fds(Processes *p, const char *id, ProcessOutput which, int *ret_in, int *ret_out);
/* The same on the wire: "stdio", "stderr", "spool" with its "output". -EINVAL. */
int process_output_from_string(const char *kind, const char *output, ProcessOutput *ret);
