/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Every limit of the wire, in one place. man/vmferry-protocol.7 prints the same table; a unit test stands at
 * each limit and one past it. Limits of the host's policy (jobs, quotas) are in hostd.conf, not here.
 */

#include <stdint.h>

/* One write(2) of the guest and one slot of its output virtqueue (Linux drivers/char/virtio_console.c). */
#define FRAME_MAX 32768u
#define FRAME_HEADER_SIZE 40u
#define FRAME_SEAL_SIZE 8u
#define FRAME_BODY_MAX (FRAME_MAX - FRAME_HEADER_SIZE - FRAME_SEAL_SIZE)

/* Messages. */
#define TOPIC_MAX 128u           /* bytes of a topic's name */
#define PAYLOAD_MAX 65536u       /* bytes of a message's payload */
#define MESSAGE_JSON_MAX 262144u /* bytes of a control message's JSON text */
#define MESSAGE_MAX (MESSAGE_JSON_MAX + 1u + PAYLOAD_MAX)
#define MESSAGE_DEPTH_MAX 8    /* nesting of its JSON */
#define MESSAGE_PARTIAL_MAX 4u /* messages whose fragments may be under way at once */
#define REQUESTS_MAX 1024u     /* requests of one side without an answer yet */

/* Processes. */
#define ARGV_MAX 1024u                  /* elements of argv, and of env */
#define ARGV_BYTES_MAX 131072u          /* argv and env together, terminators included */
#define CAPTURE_MAX (16u * 1024 * 1024) /* each output of Run */

/* Paths and names. */
#define NAME_BYTES_MAX 255u
#define PATH_BYTES_MAX 4095u
#define FACT_BYTES_MAX 256u /* one string that the guest says about itself */
#define FACTS_MAX 32u

/* Streams on the data port. */
#define STREAMS_MAX 256u
#define STREAM_CREDIT (512u * 1024)      /* bytes in flight of one stream, one way */
#define PORT_WINDOW_BYTES (1024u * 1024) /* bytes in flight of one port, one way */
#define PORT_WINDOW_FRAMES 96u /* frames in flight: the guest's queue has 128 slots (VIRTIO 5.3.2) */
#define PORT_ACK_BYTES (PORT_WINDOW_BYTES / 4)
#define PORT_ACK_FRAMES 16u

/* What a side holds for a peer that does not read. */
#define OUTQ_BYTES_MAX (2u * 1024 * 1024)

/* Transfers (proto/entry.h). */
#define RECORD_BODY_MAX 262144u
#define TREE_DEPTH_MAX 512u
#define XATTRS_MAX 64u
#define XATTR_VALUE_MAX 65536u
#define OFFERS_MAX 256u /* offered entries without a WANT yet */

/* Times, in microseconds. */
#define HELLO_TIMEOUT_USEC (2u * 1000 * 1000) /* no HELLO_ACK: the link is deaf, or nobody is there */
#define STALL_USEC (250u * 1000)              /* half a frame lies still: look for a handshake inside it */
