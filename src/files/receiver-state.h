/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the rooms of the receiver share: its state, and what they call of each other. receiver.c has the
 * conversation, receiver-entry.c puts objects into their places, receiver-content.c fills the files.
 */

#include "files/incoming.h"
#include "files/missing.h"
#include "files/publish.h"
#include "files/receiver.h"
#include "files/temporaries.h"
#include "proto/entry.h"

typedef enum Current { CURRENT_NONE, CURRENT_OPEN, CURRENT_FINISHING, CURRENT_SWALLOWED } Current;

struct Receiver {
        bool is_tree, resume, keep_partial;
        ReceiverOverwrite overwrite;
        char id[TEMPORARY_ID_SIZE];
        char *name;
        int sink_fd;
        AttributeRules rules;
        FailureSink sink;
        EntryReported reported; /* may be NULL */
        void *reported_userdata;
        PublishConfig publish_config;
        Publish *publish;
        Directory *base, *top; /* where the destination is; the directory entered last */
        int root_fd;           /* of the tree; targets of hard links are beneath it */
        Missing missing;       /* from it */
        unsigned depth;
        bool is_marked; /* the temporary of entry 0 says that the root is ours */

        RecordParser *parser;
        RecordBuffer out;
        uint64_t n_entries;
        Current state;
        uint64_t current_number;
        Incoming *current;
        bool is_behind; /* it has to catch up before it takes more */
        uint64_t final_size, final_digest;
        Incoming *offers[OFFERS_MAX];
        size_t offers_first, n_offers, n_offered_bytes;
        uint8_t small[INCOMING_SMALL_MAX];

        int verify_fd; /* the complete file of an earlier attempt, to know its digest */
        Digest *verify;

        uint64_t acked_bytes, acked_files;
        bool is_ending, is_over, is_broken;
        const char *why;
        const char *noted;
        ReceiverProgress progress;
        char *text, *path; /* behind progress */
};

/* receiver.c */
/* A failure of one entry: counted, told to the sender, remembered if it is the first. */
void receiver_fail(Receiver *r, uint64_t number, const char *path, WireError error, const char *text);
/* Tells the owner. */
void receiver_report(const Receiver *r, WireError error, const char *text, const char *path);
void receiver_remember(Receiver *r, WireError error, const char *text, const char *path);
/* The same as a FailureSink has it; error 0: a note. */
void receiver_failed(void *userdata, uint64_t number, const char *path, int error, const char *what);
/* The peer broke the rules: everything begun is dropped. Always -EBADMSG; why is static. */
int receiver_break(Receiver *r, WireError error, const char *why);
int receiver_protocol(Receiver *r, const char *why); /* with WIRE_PROTOCOL */
void receiver_drop(Receiver *r, Incoming *in, bool discard);
void receiver_unref(Receiver *r, Directory *d);
Incoming *receiver_offer_at(Receiver *r, size_t i);
Incoming *receiver_take_offer(Receiver *r);
/* What still comes of this entry's content is dropped. */
void receiver_swallow(Receiver *r, uint64_t number);
/* END came, and all before it is settled: makes it durable and says DONE. */
void receiver_end(Receiver *r);

/* receiver-entry.c: 0 or -EBADMSG */
int receiver_on_entry(Receiver *r, const Entry *e);
int receiver_on_leave(Receiver *r);

/* receiver-content.c: 0 or -EBADMSG */
/* *ret_taken: how many bytes of the record's content were taken. */
int receiver_on_data(Receiver *r, const Record *record, size_t *ret_taken);
int receiver_on_file_end(Receiver *r, const Record *record);
int receiver_on_failed(Receiver *r, const Record *record); /* the sender could not read something */
void receiver_finish_current(Receiver *r);                 /* tries; CURRENT_FINISHING: not yet */
/* A slice of what takes long and needs nothing from the peer. False: there is nothing such. */
bool receiver_work(Receiver *r);
