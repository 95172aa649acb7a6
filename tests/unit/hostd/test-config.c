/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/config.h"

#include <glib.h>
#include <stdio.h>

#include "hostd/log.h"

#include "../suite.h"

static Config *load(const char *text)
{
        char path[] = "/tmp/vmferry-test-config-XXXXXX";
        int fd = mkstemp(path);
        Config *c;

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        close(fd);
        log_set_max_level(-1);
        c = config_load_file(false, path);
        unlink(path);
        return c;
}

START_TEST(test_defaults)
{
        _cleanup_(config_freep) Config *c = load("");

        ck_assert_str_eq(c->connect_uri, "qemu:///system");
        ck_assert_str_eq(c->control_channel, "org.vmferry.ctl.0");
        ck_assert_str_eq(c->data_channel, "org.vmferry.data.0");
        ck_assert_uint_eq(c->keepalive_usec, 30 * USEC_PER_SEC);
        ck_assert_uint_eq(c->job_retention_usec, 60 * USEC_PER_SEC);
        ck_assert_uint_eq(c->queue_ttl_usec, 7 * 86400 * USEC_PER_SEC);
        ck_assert_ptr_null(c->guest_calls[0]);
        ck_assert_uint_eq(c->n_warnings, 0);
}
END_TEST

START_TEST(test_values)
{
        _cleanup_(config_freep) Config *c =
                load("# comment\n[Host]\nConnectUri=test:///default\nControlChannel=vm.ctl\n"
                     "DataChannel=vm.data\nKeepAlive=0\nMaxJobs=1K\nQueueTtl=2h\n"
                     "AllowGuestCall=a.*:web-* b:*\nAllowGuestCall=c:d\n");

        ck_assert_uint_eq(c->n_warnings, 0);
        ck_assert_str_eq(c->connect_uri, "test:///default");
        ck_assert_str_eq(c->control_channel, "vm.ctl");
        ck_assert_str_eq(c->data_channel, "vm.data");
        ck_assert_uint_eq(c->keepalive_usec, 0);
        ck_assert_uint_eq(c->max_jobs, 1024);
        ck_assert_uint_eq(c->queue_ttl_usec, 7200 * USEC_PER_SEC);
        ck_assert_int_eq(g_strv_length(c->guest_calls), 3);
        ck_assert_str_eq(c->guest_calls[2], "c:d");
}
END_TEST

/* A wrong line costs itself and nothing else. */
START_TEST(test_wrong_lines)
{
        static const char *const lines[] = {
                "Bogus=1",          "KeepAlive=soon",       "MaxJobs=many",    "MaxJobs=99999999999",
                "ControlChannel=",  "ControlChannel=a/b",   "DataChannel=a b", "ConnectUri=",
                "AllowGuestCall=x", "no assignment at all",
        };

        for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
                g_autofree char *text = g_strdup_printf("[Host]\n%s\nMaxTransfers=7\n", lines[i]);
                _cleanup_(config_freep) Config *c = load(text);

                ck_assert_msg(c->n_warnings == 1, "%s: %u", lines[i], c->n_warnings);
                ck_assert_uint_eq(c->max_transfers, 7);
                ck_assert_uint_eq(c->max_jobs, 4096);
                ck_assert_str_eq(c->control_channel, "org.vmferry.ctl.0");
        }
}
END_TEST

START_TEST(test_other_section)
{
        _cleanup_(config_freep) Config *c = load("MaxTransfers=7\n[Guest]\nMaxJobs=9\n");

        ck_assert_uint_eq(c->max_transfers, 7);
        ck_assert_uint_eq(c->max_jobs, 9);
        ck_assert_uint_eq(c->n_warnings, 2);
}
END_TEST

START_TEST(test_forget_calls)
{
        _cleanup_(config_freep) Config *c =
                load("[Host]\nAllowGuestCall=a:b\nAllowGuestCall=\nAllowGuestCall=c:d\n");

        ck_assert_int_eq(g_strv_length(c->guest_calls), 1);
        ck_assert_str_eq(c->guest_calls[0], "c:d");
}
END_TEST

START_TEST(test_directories)
{
        setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two", 1);
        setenv("RUNTIME_DIRECTORY", "/run/three", 1);
        _cleanup_(config_freep) Config *c = load("");

        ck_assert_str_eq(c->state_dir, "/var/lib/one");
        ck_assert_str_eq(c->runtime_dir, "/run/three");
        unsetenv("STATE_DIRECTORY");
        unsetenv("RUNTIME_DIRECTORY");
        setenv("XDG_STATE_HOME", "/home/a/state", 1);
        setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
        config_freep(&c);
        log_set_max_level(-1);
        c = config_load_file(true, "/nonexistent/hostd.conf");
        ck_assert_uint_eq(c->n_warnings, 1);
        ck_assert_str_eq(c->state_dir, "/home/a/state/vmferry");
        ck_assert_str_eq(c->runtime_dir, "/run/user/7/vmferry");
        ck_assert_str_eq(c->connect_uri, "qemu:///session");
}
END_TEST

START_TEST(test_drop_ins)
{
        g_autofree char *dir = g_dir_make_tmp("vmferry-test-XXXXXX", NULL), *own = NULL, *d = NULL,
                        *a = NULL, *b = NULL;

        own = g_build_filename(dir, "vmferry", NULL);
        d = g_build_filename(own, "hostd.conf.d", NULL);
        a = g_build_filename(own, "hostd.conf", NULL);
        b = g_build_filename(d, "50-more.conf", NULL);
        ck_assert_int_eq(g_mkdir_with_parents(d, 0700), 0);
        ck_assert(g_file_set_contents(a, "[Host]\nMaxJobs=5\nMaxTransfers=5\n", -1, NULL));
        ck_assert(g_file_set_contents(b, "[Host]\nMaxJobs=6\n", -1, NULL));
        setenv("XDG_CONFIG_HOME", dir, 1);
        log_set_max_level(-1);
        _cleanup_(config_freep) Config *c = config_load(true);

        ck_assert_uint_eq(c->max_jobs, 6);
        ck_assert_uint_eq(c->max_transfers, 5);
        unlink(b), unlink(a), rmdir(d), rmdir(own), rmdir(dir);
}
END_TEST

SUITE("config",
      { test_defaults },
      { test_values },
      { test_wrong_lines },
      { test_other_section },
      { test_forget_calls },
      { test_directories },
      { test_drop_ins })
