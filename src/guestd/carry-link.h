/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What guestd and its carrier say to each other: packets on a SOCK_SEQPACKET pair, descriptors beside them.
 * Both ends are the same program, one forked from the other, so a packet is a struct. For carry.c and
 * carry-child.c only.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guestd/carry.h"
#include "guestd/config.h"
#include "proto/wire-error.h"

typedef enum CarryPacketType {
        /* guestd → carrier */
        CARRY_KEEP,  /* the host will need the port: answered by OPENED, or by the carrier's end if that is
                        near */
        CARRY_RESET, /* give up all streams, and end */
        CARRY_GRANT, /* the answer to ASK: error and text, or descriptors */
        /* carrier → guestd */
        CARRY_OPENED, /* error and text: the state of the port */
        CARRY_ASK,    /* which, id */
        CARRY_AUDIT,  /* verb, id, result; text: the further key=value pairs */
} CarryPacketType;

#define CARRY_TEXT_MAX 6144u

typedef struct CarryPacket {
        CarryPacketType type;
        WireError error;
        CarryStream which;
        bool has_read_fd, has_write_fd;
        char verb[8], id[36], result[32];
        char text[CARRY_TEXT_MAX]; /* the last: only its beginning is sent */
} CarryPacket;

int carry_link_new(int ret_fds[2]); /* 0, -errno */
/* Descriptors (-1: none) stay the caller's. Waits for room only if told to. 0; -EAGAIN; -ECONNRESET; -errno.
 */
int carry_link_send(int fd, CarryPacket *p, int read_fd, int write_fd, bool wait);
/* 1: a packet, its descriptors the caller's now (negative: none); 0: nothing now; -ECONNRESET: the other
 * side has gone. */
int carry_link_receive(int fd, CarryPacket *ret, int *ret_read_fd, int *ret_write_fd);

/* carry-child.c: the child's whole life, from fork to its exit status. */
int carry_child_run(const Config *config, int link_fd, pid_t parent);
