/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the bus*.c files share, and nobody else sees: the Bus, its objects' vtables, and how a method call
 * gets at its guest and its permission. Handlers and getters have the Bus as userdata and find their object
 * by its path each time.
 */

#include <systemd/sd-bus.h>

#include "hostd/bus-peers.h"
#include "hostd/bus.h"
#include "hostd/polkit.h"
#include "hostd/queue.h"
#include "hostd/services.h"
#include "hostd/units.h"

struct Bus {
        sd_bus *bus;
        Host *host;
        Jobs *jobs;
        Queue *queue;
        Actions *actions;
        Loop *loop;
        bool user;
        bool published; /* the name was asked for */
        BusPeers *peers;
        Polkit *polkit;
        Services *services;
        Units *units;
        LoopTimer *counts; /* tells the Manager's counters, together */
        GHashTable *shown; /* guest uuid → what its properties were when last told */
        GQueue waits;      /* BusWait* */
};

/* A WaitReady or Wait that is not over. */
typedef struct BusWait {
        Bus *bus;
        sd_bus_message *call;
        char *guest_uuid; /* or NULL: */
        uint32_t job;
        LoopTimer *timer;
} BusWait;
int bus_wait_new(Bus *b, sd_bus_message *call, const char *guest_uuid, uint32_t job, uint64_t timeout_usec);
BusWait *bus_wait_free(BusWait *w);

extern const sd_bus_vtable bus_manager_vtable[], bus_guest_vtable[], bus_job_vtable[], bus_process_vtable[];

/* Paths, malloc'ed. */
char *bus_guest_path(const char *uuid);
char *bus_job_path(uint32_t id);
Guest *bus_find_guest_path(Bus *b, const char *path);
Job *bus_find_job_path(Bus *b, const char *path);

/* 1: go on, *ret_caller (may be NULL) is borrowed; 0: return 1 to sd-bus; negative: refused, audited, *error
 * is set. */
int bus_authorize(Bus *b, sd_bus_message *m, const char *verb, const PolkitDetails *details,
                  const Caller **ret_caller, sd_bus_error *error);
/* The guest that a call is about: its first argument at the Manager, its path at a Guest. *ret may be NULL
 * (no such guest); name and uuid go into the details either way, borrowed from message and guest. */
int bus_read_guest(Bus *b, sd_bus_message *m, Guest **ret, PolkitDetails *details);
void bus_emit_removed(Bus *b, const char *path, const char *iface, const char *second_iface);
int bus_no_such_guest(Bus *b, sd_bus_error *error, const char *asked);
/* Whether GetManagedObjects fits into a message: 0, or negative and *error is set (bus-room.c). */
int bus_room_objects(Bus *b, sd_bus_error *error);

/* Methods that Manager and Guest have both (bus-verbs.c). */
int bus_verb_ping(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_send(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_call(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_run(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_push(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_pull(sd_bus_message *m, void *userdata, sd_bus_error *error);
/* Manager only (bus-upgrade.c). */
int bus_verb_upgrade(sd_bus_message *m, void *userdata, sd_bus_error *error);
/* Guest only. */
int bus_verb_exec(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_push_fd(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_verb_pull_fd(sd_bus_message *m, void *userdata, sd_bus_error *error);

/* Of the Manager (bus-queue.c), and the answer to a call that was queued: userdata is the call, referenced.
 */
int bus_method_list_queue(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_method_list_actions(sd_bus_message *m, void *userdata, sd_bus_error *error);
int bus_method_drop_queued(sd_bus_message *m, void *userdata, sd_bus_error *error);
void bus_on_queued(void *userdata, WireError error, const char *text, const Job *j);

/* News, from host and jobs to the bus. */
extern const HostListener bus_guest_listener;
extern const JobsOps bus_job_ops;
void bus_manager_counts_changed(Bus *b); /* told a moment later, once */
void bus_manager_tell_counts(void *userdata);
