/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's policy as a table: question, lists, answer.
 */


#include "guestd/policy.h"
#include "../suite.h"

static char *list[4];

static Policy policy_with(char ***field_of(Policy *), const char *a, const char *b)
{
        static Policy p;

        policy_init(&p);
        list[0] = (char *)a;
        list[1] = (char *)b;
        list[2] = NULL;
        *field_of(&p) = list;
        return p;
}

static char ***commands(Policy *p)
{
        return &p->exec_commands;
}

static char ***users(Policy *p)
{
        return &p->exec_users;
}

static char ***topics(Policy *p)
{
        return &p->local_topics;
}

START_TEST(without_lists_everything_goes)
{
        Policy p;

        policy_init(&p);
        ck_assert(policy_may_run(&p, "/bin/sh"));
        ck_assert(policy_may_run(&p, NULL));
        ck_assert(policy_may_run_as(&p, NULL, 4242));
        ck_assert(policy_may_use_topic(&p, "nobody", 65534, "x"));
        for (unsigned i = 0; i < _POLICY_VERB_MAX; i++)
                ck_assert(policy_may(&p, (PolicyVerb)i));
        ck_assert(!policy_may(&p, _POLICY_VERB_MAX));
}
END_TEST

static char ***write_roots(Policy *p)
{
        return &p->write_roots;
}

static const struct {
        const char *first, *second;
        bool may;
} stages[] = {
        { "/srv", NULL, false },
        { "/srv", "/", true },
        { "/srv", "/run", true },
        { "/run/vmferry", "/srv", true },
        { "/run/vmfer", NULL, false },
        { "/run/vmferry/x", NULL, false },
        { "/run/vmferry/guestd.new", NULL, false },
        { NULL, NULL, false },
};

/* What could not be pushed is not offered. */
START_TEST(upgrade_needs_a_place)
{
        Policy p = policy_with(write_roots, stages[_i].first, stages[_i].second);

        ck_assert_int_eq(policy_may(&p, POLICY_UPGRADE), stages[_i].may);
        ck_assert(policy_may(&p, POLICY_PUSH));
}
END_TEST

static const struct {
        const char *glob, *command;
        bool may;
} runs[] = {
        { "/bin/true", "/bin/true", true },
        { "/bin/true", "/bin/truex", false },
        { "/bin/true", "/bin/tru", false },
        { "/usr/bin/*", "/usr/bin/env", true },
        { "/usr/bin/*", "/usr/bin/", false }, /* no command */
        { "/usr/bin/*", "/usr/bin/x/y", false },
        { "/usr/*/env", "/usr/bin/env", true },
        { "/usr/*/env", "/usr/local/bin/env", false },
        { "/opt/a*b*c", "/opt/aXbYbc", true },
        { "/opt/a*b*c", "/opt/aXbYb", false },
        { "/opt/a?c", "/opt/abc", true },
        { "/opt?abc", "/opt/abc", false },
        { "/opt/?", "/opt/", false },
        { "/opt/*", "/opt/../bin/sh", false },
        { "/opt/**", "/opt/x", true },
        { "/*", "/bin/sh", false },
        { "/bin/*", "sh", false },
        { "/bin/*", "bin/sh", false },
        { "/bin/*", "", false },
        { "/bin/*", NULL, false },
        { "/opt/*/*/c", "/opt/a/b/c", true },
        { "/opt/*/c", "/opt/a/b/c", false },
};

START_TEST(commands_by_glob)
{
        Policy p = policy_with(commands, runs[_i].glob, NULL);

        ck_assert_msg(policy_may_run(&p, runs[_i].command) == runs[_i].may, "%s against %s",
                      runs[_i].command, runs[_i].glob);
}
END_TEST

START_TEST(a_hostile_name_takes_no_time)
{
        static char text[4096], glob[256];

        memset(text, 'a', sizeof(text) - 1);
        text[0] = '/';
        glob[0] = '/';
        for (size_t i = 1; i + 2 < sizeof(glob); i += 2)
                glob[i] = '*', glob[i + 1] = 'a';
        glob[sizeof(glob) - 2] = 'b';
        Policy p = policy_with(commands, glob, NULL);
        ck_assert(!policy_may_run(&p, text));
}
END_TEST

START_TEST(users_by_name_and_number)
{
        Policy p = policy_with(users, "www", "1000");

        ck_assert(policy_may_run_as(&p, "www", 33));
        ck_assert(policy_may_run_as(&p, "anybody", 1000));
        ck_assert(policy_may_run_as(&p, NULL, 1000));
        ck_assert(!policy_may_run_as(&p, "ww", 33));
        ck_assert(!policy_may_run_as(&p, "wwwx", 33));
        ck_assert(!policy_may_run_as(&p, "root", 0));
        ck_assert(!policy_may_run_as(&p, NULL, 100));
        p = policy_with(users, NULL, NULL);
        ck_assert(!policy_may_run_as(&p, "www", 33));
}
END_TEST

START_TEST(topics_of_local_users)
{
        Policy p = policy_with(topics, "app:metrics.*", "*:ping");

        ck_assert(policy_may_use_topic(&p, "app", 1000, "metrics.cpu"));
        ck_assert(!policy_may_use_topic(&p, "web", 1001, "metrics.cpu"));
        ck_assert(policy_may_use_topic(&p, "web", 1001, "ping"));
        ck_assert(!policy_may_use_topic(&p, "app", 1000, "pong"));
        ck_assert(policy_may_use_topic(&p, "root", 0, "anything"));
        p = policy_with(topics, "news.?", NULL);
        ck_assert(policy_may_use_topic(&p, NULL, 7, "news.1"));
        ck_assert(!policy_may_use_topic(&p, NULL, 7, "news."));
}
END_TEST

START_TEST(verbs_have_names)
{
        ck_assert_str_eq(policy_verb_to_string(POLICY_EXEC), "exec");
        ck_assert_str_eq(policy_verb_to_string(POLICY_CALL), "call");
        ck_assert_str_eq(policy_verb_to_string(_POLICY_VERB_MAX), "unknown");
}
END_TEST

SUITE("guestd-policy",
      { without_lists_everything_goes },
      { commands_by_glob, ELEMENTSOF(runs) },
      { a_hostile_name_takes_no_time },
      { users_by_name_and_number },
      { topics_of_local_users },
      { upgrade_needs_a_place, ELEMENTSOF(stages) },
      { verbs_have_names })
