/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the words of cp mean: which side is the guest's, and every path as hostd takes it.
 */

#include <stdbool.h>
#include <stddef.h>

typedef struct CopySource {
        const char *given; /* without GUEST: */
        char *path;        /* as hostd takes it; NULL: a stream of ours, or error */
        bool is_contents;  /* of the directory, not the directory */
        int error;         /* errno, told when its turn comes */
        const char *twin;  /* what was given before it and goes to the same place; NULL */
} CopySource;

typedef struct CopySides {
        const char *host; /* of -H: then no path is of this machine; NULL */
        bool push;
        char *guest;
        CopySource *sources;
        size_t n_sources;
        char *destination; /* as hostd takes it, or what stands for a stream of ours */
} CopySides;

/* Fills what was zero but for host; the words must outlive it. An exit status; what is not EXIT_DONE was
 * told. */
int copy_sides_read(CopySides *s, char **words, size_t n, const char *to);
void copy_sides_done(CopySides *s);

/* Whether a word of our side is our standard input or output. */
bool copy_sides_is_standard(const CopySides *s, const char *word);
/* Whether it is what hostd cannot open for us: that, another descriptor of ours (<(command) of a shell is
 * one), or a device, which is hidden from it. */
bool copy_sides_is_ours(const CopySides *s, const char *word);
