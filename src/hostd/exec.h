/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Commands in a guest: as jobs with live descriptors (Exec), or run to the end with their output captured
 * (Run).
 */

#include "hostd/jobs.h"

typedef struct ExecOptions {    /* checked by the bus */
        const char *const *env; /* K=V, NULL-terminated; NULL */
        const char *cwd, *user; /* NULL: the guest's default */
        uint64_t timeout_usec;  /* USEC_INFINITY: none */
        bool tty;
        uint16_t rows, columns;
        bool detach;
        const uint8_t *input; /* Run: stdin; NULL: none */
        size_t n_input;
} ExecOptions;

/* fds: the caller's ends of stdin, stdout, stderr, borrowed (with tty stderr, with detach all three are
 * /dev/null). `started` is called once, perhaps before exec_start() returns: with WIRE_OK and the job once
 * the guest has started the process, or with why not (WIRE_NOT_FOUND and WIRE_PERMISSION_DENIED: the guest
 * could not execute argv[0]). The job is announced behind it. */
/* WIRE_OK, or WIRE_INVALID_ARGS or WIRE_TOO_LARGE and a malloc'ed sentence. */
WireError exec_check_command(const char *const *argv, const ExecOptions *options, char **ret_text);
typedef void (*ExecStarted)(void *userdata, WireError error, const char *text, Job *j, const int fds[3]);
void exec_start(Jobs *js, Guest *g, const Caller *caller, const char *const *argv,
                const ExecOptions *options, ExecStarted started, void *userdata);

typedef struct RunResult {
        int exit_status; /* 128 + N if signal N ended it; 126, 127: could not be executed, not found */
        const uint8_t *out, *err;
        size_t n_out, n_err;
} RunResult;
/* May be called before exec_run() returns. The result is borrowed. */
typedef void (*RunDone)(void *userdata, WireError error, const char *text, const RunResult *r);
/* As a job too (kind exec), so that it is seen, limited and cancelled like one. TooLarge past CAPTURE_MAX.
 */
void exec_run(Jobs *js, Guest *g, const Caller *caller, const char *const *argv, const ExecOptions *options,
              RunDone done, void *userdata);

/* To a job that has a process, and has not ended. `answer` comes once, later, when the guest has done it or
 * has not (then text is a sentence), unless an error is returned: -ENOTCONN: the guest is not ready;
 * -ENOTTY. */
typedef void (*ExecAnswer)(void *userdata, WireError error, const char *text);
int exec_kill(const Job *j, int signal, ExecAnswer answer, void *userdata);
int exec_resize(const Job *j, uint16_t rows, uint16_t columns, ExecAnswer answer, void *userdata);
/* Descriptors of a detached process's output, from the start. -ENOTCONN, -ENOTSUP: it has no such output;
 * -errno. */
int exec_attach(const Job *j, int ret_fds[2]);

/* A detached process that an earlier hostd has left in the store (JOB_EXEC): its job is there again, with
 * its id. 0, -EINVAL: it is no such thing. */
int exec_restore(Jobs *js, const StoreItem *item);
