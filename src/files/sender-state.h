/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the rooms of the sender share. sender.c has the conversation, sender-source.c opens and counts the
 * source, sender-object.c turns what is found into records.
 */

#include <sys/stat.h>

#include "files/attributes.h"
#include "files/content.h"
#include "files/links.h"
#include "files/sender.h"
#include "files/walk.h"
#include "proto/entry.h"

#define OFFERS_AHEAD 128u /* each holds a descriptor; at most OFFERS_MAX */

typedef struct Offer {
        uint64_t number;
        int fd;
        struct stat st;
        char *path;
        bool answered;
        WantWhat want;
        uint64_t size;
        uint8_t *blocks;
        size_t n_blocks;
} Offer;

struct Sender {
        SenderSource source;
        EntryReported reported; /* may be NULL */
        void *userdata;
        bool preserve, negotiate, is_pseudo;
        int root_fd;
        uint64_t base;
        struct stat root_st;

        Walk *scan, *walk; /* of a tree */
        Links *scan_links, *links;
        bool scan_done, started, walked, ended;
        uint64_t n_allocated;

        uint64_t n_entries;
        bool reading;
        Content content;
        char *content_path;
        Digest *digest;
        Attributes attributes;
        Offer offers[OFFERS_AHEAD];
        size_t offers_first, n_offers;
        char *held_path, *held_target; /* a hard link to what is still only offered */
        struct stat held_st;

        RecordBuffer out;
        RecordParser *parser;
        SenderProgress progress;
        char *text, *path; /* behind progress */
};

/* sender.c */
Offer *sender_offer_at(Sender *s, size_t i);

/* sender-source.c */
/* Files of procfs and its like tell a size that means nothing. */
bool sender_is_pseudo_file(int fd, const struct stat *st);

/* sender-object.c: records go to s->out. What cannot be said for want of memory ends the transfer in
 * disorder, as a lost channel would. */
void sender_put_failed(Sender *s, uint64_t number, bool skipped, WireError error, const char *what,
                       int error_number, const char *path);
void sender_put_errno(Sender *s, uint64_t number, const char *what, int error, const char *path);
void sender_put_link(Sender *s, EntryKind kind, const struct stat *st, const char *path, const char *target);
/* The next object of the walk; at its end s->walked is set. */
void sender_next_object(Sender *s);
