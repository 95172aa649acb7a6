/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The parent of one command: a forked child of guestd that is the subreaper of everything the command
 * starts, ends that tree when told, in time, or when guestd is gone, and pumps a detached command's output
 * into its spool. A detached one outlives guestd and is found again by the socket in its job's directory.
 *
 * After the command has ended by itself, what it has left running is its own affair, as with ssh: only as
 * long as somebody holds an output open is the job not over, and its tree can be killed or run out of
 * time. Then the supervisor leaves.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guestd/policy.h"
#include "guestd/terminal.h"

/* The files in a detached job's directory. */
#define SUPERVISOR_SOCKET "control"
#define SUPERVISOR_STATUS "status" /* text: "exit N" or "signal N", and "timeout" behind it */
#define SUPERVISOR_STDOUT "stdout" /* spools, see spool.h */
#define SUPERVISOR_STDERR "stderr"

/* What went wrong before the command ran. */
typedef enum SupervisorStage {
        SUPERVISOR_SETUP,    /* fork, memory, a pty */
        SUPERVISOR_USER,     /* no such user */
        SUPERVISOR_POLICY,   /* not allowed: EPERM the user, EACCES the command */
        SUPERVISOR_IDENTITY, /* setuid(2) and its kin */
        SUPERVISOR_CWD,
        SUPERVISOR_EXEC,
} SupervisorStage;

/* Words on the control socket (SOCK_SEQPACKET, one a packet). Layout and numbers outlive an upgrade of
 * guestd: only add. */
typedef enum SupervisorWordType {
        SUPERVISOR_STARTED = 1, /* a: pid, b: uid */
        SUPERVISOR_FAILED,      /* a: SupervisorStage, b: errno */
        SUPERVISOR_EXITED,      /* a: wait status, b: 1 if the time was over */
        SUPERVISOR_MORE,        /* to followers: the spool has grown */
        SUPERVISOR_DONE,        /* to a word with a serial, echoed here: b: errno, 0 if it was done */
        SUPERVISOR_STATE = 16,  /* guestd: tell STARTED or EXITED, now and later */
        SUPERVISOR_FOLLOW,  /* a follower: a: 0 stdout, 1 stderr; the socket is closed when that output has
                               ended */
        SUPERVISOR_SIGNAL,  /* a: signal, b: to all of the tree. SIGTERM to all is followed by SIGKILL;
                               SIGKILL to all  leaves none */
        SUPERVISOR_RESIZE,  /* a: rows, b: columns */
        SUPERVISOR_RELEASE, /* the host knows the exit and has done with the job */
} SupervisorWordType;

typedef struct SupervisorWord {
        uint32_t type;
        int32_t a, b;
        uint32_t serial; /* of SIGNAL, RESIZE: not 0 asks for DONE; of STARTED: not 0 promises it (earlier
                            versions are silent) */
} SupervisorWord;

typedef struct SupervisorSpec {
        const char *id;
        char **argv;
        char **env;                             /* NAME=value, over the login environment; NULL: none */
        const char *user;                       /* NULL: guestd's own, and cwd "/" */
        const char *cwd;                        /* NULL: the home of user */
        uint64_t timeout_usec, kill_grace_usec; /* USEC_INFINITY: none */
        const Policy *policy;
        int stdio[3]; /* the command's ends; with a tty the slave, thrice the same; closed after the fork */
        const Terminal *terminal; /* NULL: no tty */
        bool detach;
        int output[2];       /* detached: the other ends of stdout and stderr; -EBADF: none */
        const char *job_dir; /* detached: exists */
        uint64_t spool_bytes;
        int control_fd; /* to guestd */
} SupervisorSpec;

/* In a child of loop_fork(). */
_Noreturn void supervisor_run(const SupervisorSpec *spec);

/* Connects to the socket in a job's directory. The fd (nonblocking), or -errno: ENOENT, ECONNREFUSED: it has
 * ended. */
int supervisor_connect(const char *job_dir);
/* 0, -errno; never blocks, no SIGPIPE. */
int supervisor_say(int fd, SupervisorWordType type, int32_t a, int32_t b);
int supervisor_ask(int fd, SupervisorWordType type, int32_t a, int32_t b, uint32_t serial);
/* In a child of loop_fork(): copies a spool to out_fd from its start until the output has ended. */
_Noreturn void supervisor_follow(const char *job_dir, bool is_stderr, int out_fd);
