/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Globs are matched here and not by fnmatch(3), whose answers depend on the locale and which a static binary
 * pays for with its collation tables.
 */

#include <stdio.h>

#include "guestd/policy.h"
#include "proto/name.h"

#define GLOB_STEPS_MAX 65536u

static char **list_free(char **list)
{
        for (char **s = list; s && *s; s++)
                free(*s);
        free(list);
        return NULL;
}

void policy_init(Policy *p)
{
        *p = (Policy){ 0 };
        for (size_t i = 0; i < _POLICY_VERB_MAX; i++)
                p->allow[i] = true;
}

void policy_done(Policy *p)
{
        p->exec_users = list_free(p->exec_users);
        p->exec_commands = list_free(p->exec_commands);
        p->write_roots = list_free(p->write_roots);
        p->read_roots = list_free(p->read_roots);
        p->local_topics = list_free(p->local_topics);
}

/* By its name: a root that leads there by a link does not count, as links change. */
static bool may_stage(const Policy *p)
{
        for (char **root = p->write_roots; root && *root; root++) {
                size_t n = strlen(*root);

                if (str_eq(*root, "/") ||
                    (str_has_prefix(NAME_UPGRADE_STAGE, *root) && NAME_UPGRADE_STAGE[n] == '/'))
                        return true;
        }
        return !p->write_roots;
}

bool policy_may(const Policy *p, PolicyVerb verb)
{
        if ((unsigned)verb >= _POLICY_VERB_MAX || !p->allow[verb])
                return false;
        /* Who may replace the daemon may do everything; and the new one has to get here. */
        return verb != POLICY_UPGRADE ||
               (p->allow[POLICY_EXEC] && p->allow[POLICY_PUSH] && !p->exec_commands &&
                policy_may_run_as(p, "root", 0) && may_stage(p));
}

const char *policy_verb_to_string(PolicyVerb verb)
{
        static const char *const names[_POLICY_VERB_MAX] = { "exec", "push", "pull",
                                                             "send", "call", "upgrade" };

        return (unsigned)verb < _POLICY_VERB_MAX ? names[verb] : "unknown";
}

/*
 * '*' (not across '/' if within_component) and '?'; everything else is itself. Goes back to the last star
 * only, so it is at worst quadratic; a bound of steps makes that sure for long names against long patterns.
 */
static bool glob_matches(const char *pattern, const char *text, bool within_component)
{
        const char *star = NULL, *retry = NULL;

        for (unsigned steps = 0; steps < GLOB_STEPS_MAX; steps++) {
                if (*pattern == '*') {
                        star = ++pattern;
                        retry = text;
                        continue;
                }
                if (*text &&
                    (*pattern == *text || (*pattern == '?' && (!within_component || *text != '/')))) {
                        pattern++;
                        text++;
                        continue;
                }
                if (!*text && !*pattern)
                        return true;
                /* Here the last star takes one character more. A star that would swallow a slash ends the
                 * search: no earlier one can help, as it would have to swallow that slash too or leave it to
                 * this one. */
                if (!star || !*retry || (within_component && *retry == '/'))
                        return false;
                text = ++retry;
                pattern = star;
        }
        return false;
}

static bool user_matches(const char *entry, size_t n, const char *user, uid_t uid)
{
        if (user && strlen(user) == n && memcmp(user, entry, n) == 0)
                return true;
        char number[16];
        int n_number = snprintf(number, sizeof(number), "%u", (unsigned)uid);
        return n_number > 0 && (size_t)n_number == n && memcmp(number, entry, n) == 0;
}

bool policy_may_run_as(const Policy *p, const char *user, uid_t uid)
{
        if (!p->exec_users)
                return true;
        for (char **e = p->exec_users; *e; e++)
                if (user_matches(*e, strlen(*e), user, uid))
                        return true;
        return false;
}

bool policy_may_run(const Policy *p, const char *command_path)
{
        if (!p->exec_commands)
                return true;
        if (!command_path || !name_is_absolute_path(command_path) ||
            command_path[strlen(command_path) - 1] == '/')
                return false;
        for (char **e = p->exec_commands; *e; e++)
                if (glob_matches(*e, command_path, true))
                        return true;
        return false;
}

bool policy_may_use_topic(const Policy *p, const char *user, uid_t uid, const char *topic)
{
        if (uid == 0 || !p->local_topics)
                return true;
        for (char **e = p->local_topics; *e; e++) {
                const char *colon = strchr(*e, ':');
                if (colon && !(colon == *e + 1 && **e == '*') &&
                    !user_matches(*e, (size_t)(colon - *e), user, uid))
                        continue;
                if (glob_matches(colon ? colon + 1 : *e, topic, false))
                        return true;
        }
        return false;
}
