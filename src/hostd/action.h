/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One *.action file: what it says and which guests it is for. Pure: text in, a struct and complaints out.
 * When and how it is carried out is actions.c's business.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ActionOn { ACTION_ON_READY, ACTION_ON_STARTED, ACTION_ON_STOPPED, ACTION_ON_MESSAGE } ActionOn;
typedef enum ActionOnce { ACTION_ONCE_BOOT, ACTION_ONCE_GUEST, ACTION_ONCE_ALWAYS } ActionOnce;
typedef enum StepVerb { STEP_PUSH, STEP_PULL, STEP_RUN, STEP_SEND, STEP_CALL } StepVerb;

#define ACTION_STEP_OPTIONS 8u

typedef struct ActionStep {
        char *name;
        unsigned line; /* of its verb; without one, of its header */
        bool has_verb;
        StepVerb verb;
        char *from, *to;                      /* Push=HOST:GUEST, Pull=GUEST:HOST */
        char **argv;                          /* Run= */
        char *topic, *text;                   /* Send=TOPIC TEXT, Call=TOPIC TEXT; text may be empty */
        uint32_t mode;                        /* UINT32_MAX: the source's */
        char *owner, *overwrite, *user, *cwd; /* NULL */
        bool preserve;
        char **env;                                 /* K=V, NULL-terminated; NULL */
        uint64_t timeout_usec;                      /* 0: the action's */
        unsigned option_lines[ACTION_STEP_OPTIONS]; /* 0: it is not there */
} ActionStep;

typedef struct Action {
        char *name; /* file name without ".action" */
        char *file;
        char *description;
        char **guests;              /* globs and uuid:… */
        unsigned line, guests_line; /* of [Action], of Guests= */
        ActionOn on;
        char *topic; /* ACTION_ON_MESSAGE */
        ActionOnce once;
        uint64_t timeout_usec; /* of one attempt of one step */
        unsigned n_retries;
        ActionStep *steps;
        size_t n_steps;
} Action;

typedef void (*ActionComplain)(void *userdata, const char *file, unsigned line, const char *why);

/* 0 and *ret; -EINVAL: the file has an error and is not used (every error was told, with its line); -errno.
 */
int action_parse(const char *file, const char *text, size_t n, ActionComplain complain, void *userdata,
                 Action **ret);
int action_load(const char *file, ActionComplain complain, void *userdata, Action **ret);
Action *action_free(Action *a);
bool action_is_for(const Action *a, const char *name, const char *uuid);
bool action_pattern_matches(const char *pattern, const char *name, const char *uuid); /* one of a->guests */
/* "ready", "message:TOPIC"; "boot". Static or borrowed from the action. */
const char *action_on_to_string(const Action *a);
const char *action_once_to_string(ActionOnce once);
const char *step_verb_to_string(StepVerb v);
/* Where the files are, later ones over earlier ones, NULL-terminated; g_strfreev(), or free() each and all.
 */
char **action_directories(bool user);
/* The files in them, as ini_list_files() has it; ini_files_free(). A directory that cannot be read is told
 * of and passed over. 0, -errno. */
int action_list_files(char **dirs, void (*unreadable)(void *userdata, const char *dir, int r),
                      void *userdata, char ***ret);
