/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guestd.conf: what a line changes, and that a wrong one is told and changes nothing, or closes.
 */

#include <stdio.h>

#include "base/fs.h"
#include "guestd/config.h"
#include "guestd/log.h"
#include "../suite.h"

static Config config;

static void setup(void)
{
        log_init("test", true);
        log_set_max_level(LOG_EMERG);
        ck_assert_int_eq(config_init(&config), 0);
}

static void teardown(void)
{
        config_done(&config);
}

static unsigned take(const char *text)
{
        unsigned n = 0;

        ck_assert_int_eq(config_parse("test.conf", text, strlen(text), &config, &n), 0);
        return n;
}

START_TEST(defaults)
{
        ck_assert_str_eq(config.control_channel, "org.vmferry.ctl.0");
        ck_assert_str_eq(config.data_channel, "org.vmferry.data.0");
        ck_assert_str_eq(config.handlers_dir, "/etc/vmferry/handlers.d");
        for (unsigned i = 0; i < _POLICY_VERB_MAX; i++)
                ck_assert(policy_may(&config.policy, (PolicyVerb)i));
        ck_assert_ptr_null(config.policy.exec_users);
        ck_assert_ptr_null(config.policy.write_roots);
}
END_TEST

START_TEST(all_keys)
{
        ck_assert_uint_eq(take("[Guest]\n"
                               "ControlChannel=vm.ctl\n"
                               "DataChannel=/dev/vport0p2\n"
                               "LogLevel=debug\n"
                               "HandlersDirectory=/srv/handlers\n"
                               "HandlerTimeout=2min\n"
                               "HandlersMax=3\n"
                               "ProcessesMax=7\n"
                               "SpoolSize=1M\n"
                               "SpoolKeep=1h\n"
                               "PublishQueueMax=10\n"
                               "KillGrace=250ms\n"
                               "SocketMode=0600\n"
                               "SocketGroup=ferry\n"
                               "AllowExec=no\n"
                               "AllowPush=off\n"
                               "ExecUsers=www 1000, app\n"
                               "ExecCommands=/usr/bin/* /bin/true\n"
                               "WriteRoots=/srv/ /var/lib/x\n"
                               "ReadRoots=/\n"
                               "LocalTopics=app:metrics.* *:ping\n"),
                          0);
        ck_assert_str_eq(config.control_channel, "vm.ctl");
        ck_assert_str_eq(config.data_channel, "/dev/vport0p2");
        ck_assert_int_eq(config.log_level, LOG_DEBUG);
        ck_assert_str_eq(config.handlers_dir, "/srv/handlers");
        ck_assert_uint_eq(config.handler_timeout_usec, 120 * USEC_PER_SEC);
        ck_assert_uint_eq(config.handlers_max, 3);
        ck_assert_uint_eq(config.processes_max, 7);
        ck_assert_uint_eq(config.spool_bytes, 1024 * 1024);
        ck_assert_uint_eq(config.spool_keep_usec, 3600 * USEC_PER_SEC);
        ck_assert_uint_eq(config.publish_queue_max, 10);
        ck_assert_uint_eq(config.kill_grace_usec, 250000);
        ck_assert_uint_eq(config.socket_mode, 0600);
        ck_assert_str_eq(config.socket_group, "ferry");
        ck_assert(!policy_may(&config.policy, POLICY_EXEC));
        ck_assert(!policy_may(&config.policy, POLICY_PUSH));
        ck_assert(policy_may(&config.policy, POLICY_PULL));
        ck_assert_str_eq(config.policy.exec_users[0], "www");
        ck_assert_str_eq(config.policy.exec_users[1], "1000");
        ck_assert_str_eq(config.policy.exec_users[2], "app");
        ck_assert_ptr_null(config.policy.exec_users[3]);
        ck_assert_str_eq(config.policy.write_roots[0], "/srv");
        ck_assert_str_eq(config.policy.read_roots[0], "/");
        ck_assert_str_eq(config.policy.local_topics[1], "*:ping");
}
END_TEST

START_TEST(wrong_lines_are_told_and_the_rest_counts)
{
        ck_assert_uint_eq(
                take("[Guest]\nAllowExce=no\nHandlersMax=many\nHandlersMax=0\nnonsense\nKillGrace=1s\n"), 4);
        ck_assert_uint_eq(config.handlers_max, 16);
        ck_assert_uint_eq(config.kill_grace_usec, USEC_PER_SEC);
        ck_assert_uint_eq(take("[Guest]\nControlChannel=\nControlChannel=a/b\nControlChannel=/dev/../"
                               "x\nSocketMode=1777\n"
                               "SocketMode=9\nLogLevel=loud\nHandlersDirectory=relative\n"),
                          7);
        ck_assert_str_eq(config.control_channel, "org.vmferry.ctl.0");
        ck_assert_str_eq(config.handlers_dir, "/etc/vmferry/handlers.d");
}
END_TEST

START_TEST(other_sections_are_taken_with_one_complaint)
{
        ck_assert_uint_eq(take("HandlersMax=5\nProcessesMax=6\n[Other]\nKillGrace=2s\n"), 1);
        ck_assert_uint_eq(config.handlers_max, 5);
        ck_assert_uint_eq(config.processes_max, 6);
        ck_assert_uint_eq(config.kill_grace_usec, 2 * USEC_PER_SEC);
}
END_TEST

START_TEST(a_mistake_never_opens)
{
        ck_assert_uint_eq(take("[Guest]\nAllowPull=nope\n"), 1);
        ck_assert(!policy_may(&config.policy, POLICY_PULL));
        /* Roots of which none is right bound everything, not nothing. */
        ck_assert_uint_eq(take("[Guest]\nWriteRoots=srv ../x\nExecCommands=true\n"), 2);
        ck_assert_ptr_nonnull(config.policy.write_roots);
        ck_assert_ptr_null(config.policy.write_roots[0]);
        ck_assert(!policy_may_run(&config.policy, "/bin/true"));
}
END_TEST

START_TEST(lists_add_up_and_empty_ones_empty)
{
        ck_assert_uint_eq(take("[Guest]\nExecUsers=a b\nExecUsers=c\n"), 0);
        ck_assert_str_eq(config.policy.exec_users[2], "c");
        ck_assert_uint_eq(take("[Guest]\nExecUsers=\nExecUsers=d\n"), 0);
        ck_assert_str_eq(config.policy.exec_users[0], "d");
        ck_assert_ptr_null(config.policy.exec_users[1]);
        ck_assert_uint_eq(take("[Guest]\nExecUsers=\n"), 0);
        ck_assert(!policy_may_run_as(&config.policy, "root", 0));
}
END_TEST

START_TEST(file_that_is_not_there)
{
        Config c;

        ck_assert_int_eq(config_load("/nonexistent/guestd.conf", &c), -ENOENT);
}
END_TEST

SUITE_AROUND("guestd-config", setup, teardown,
             { defaults },
             { all_keys },
             { wrong_lines_are_told_and_the_rest_counts },
             { other_sections_are_taken_with_one_complaint },
             { a_mistake_never_opens },
             { lists_add_up_and_empty_ones_empty },
             { file_that_is_not_there })
