/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* hostd/bus-options: a{sv} as callers send it, right and wrong. Messages go over a socket pair, as sd-bus
 * wants them sealed. */

#include <glib.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/base.h"
#include "hostd/bus-options.h"
#include "../suite.h"

typedef struct Values {
        bool flag;
        uint32_t mode;
        uint16_t rows;
        uint64_t timeout;
        const char *owner;
        BusBytes input;
        char **env;
} Values;

static const BusOption table[] = {
        { "flag", "b", offsetof(Values, flag) },   { "mode", "u", offsetof(Values, mode) },
        { "rows", "q", offsetof(Values, rows) },   { "timeout", "t", offsetof(Values, timeout) },
        { "owner", "s", offsetof(Values, owner) }, { "stdin", "ay", offsetof(Values, input) },
        { "env", "a{ss}", offsetof(Values, env) }, {},
};

static sd_bus *bus;

/* Starts the bus object without a peer: building and reading messages needs no more. */
static void open_bus(void)
{
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        ck_assert_int_ge(sd_bus_new(&bus), 0);
        ck_assert_int_ge(sd_bus_set_fd(bus, fds[0], fds[0]), 0);
        ck_assert_int_ge(sd_bus_start(bus), 0);
        (void)close(fds[1]);
}

static void close_bus(void)
{
        bus = sd_bus_close_unref(bus);
}

static sd_bus_message *message_new(void)
{
        sd_bus_message *m = NULL;

        ck_assert_int_ge(sd_bus_message_new_method_call(bus, &m, "a.b", "/", "a.b", "Push"), 0);
        return m;
}

static int read_options(sd_bus_message *m, const BusOption *options, Values *v, sd_bus_error *e)
{
        ck_assert_int_ge(sd_bus_message_seal(m, 1, 0), 0);
        return bus_options_read(m, options, v, e);
}

START_TEST(all_types)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message_new();
        _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
        Values v = { .timeout = 7 };

        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 6, "flag", "b", 1, "mode", "u", 0644, "rows", "q",
                                               24, "owner", "s", "root:root", "stdin", "ay", 3, 'a', 0, 'c',
                                               "env", "a{ss}", 2, "A", "1", "B", "x=y"),
                         0);
        ck_assert_int_eq(read_options(m, table, &v, &e), 1);
        ck_assert(v.flag);
        ck_assert_uint_eq(v.mode, 0644);
        ck_assert_uint_eq(v.rows, 24);
        ck_assert_uint_eq(v.timeout, 7);
        ck_assert_str_eq(v.owner, "root:root");
        ck_assert_uint_eq(v.input.n, 3);
        ck_assert_mem_eq(v.input.data, "a\0c", 3);
        ck_assert_str_eq(v.env[0], "A=1");
        ck_assert_str_eq(v.env[1], "B=x=y");
        ck_assert_ptr_null(v.env[2]);
        g_strfreev(v.env);
}
END_TEST

START_TEST(none)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message_new();
        _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
        Values v = { .mode = UINT32_MAX };

        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 0), 0);
        ck_assert_int_ge(read_options(m, table, &v, &e), 0);
        ck_assert_uint_eq(v.mode, UINT32_MAX);
        ck_assert_ptr_null(v.owner);
        ck_assert_ptr_null(v.input.data);
}
END_TEST

START_TEST(empty_bytes_are_bytes)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message_new();
        _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
        Values v = {};

        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "stdin", "ay", 0), 0);
        ck_assert_int_ge(read_options(m, table, &v, &e), 0);
        ck_assert_ptr_nonnull(v.input.data);
        ck_assert_uint_eq(v.input.n, 0);
}
END_TEST

static void check_refused(sd_bus_message *m, const BusOption *options, const char *key)
{
        _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
        Values v = {};

        ck_assert_int_lt(read_options(m, options, &v, &e), 0);
        ck_assert_str_eq(e.name, SD_BUS_ERROR_INVALID_ARGS);
        ck_assert_ptr_nonnull(strstr(e.message, key));
        g_strfreev(v.env);
        sd_bus_message_unref(m);
}

START_TEST(unknown_key)
{
        sd_bus_message *m = message_new();

        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 2, "mode", "u", 1, "mdoe", "u", 1), 0);
        check_refused(m, table, "\"mdoe\"");
        m = message_new();
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "mode", "u", 1), 0);
        check_refused(m, NULL, "\"mode\"");
}
END_TEST

START_TEST(wrong_type)
{
        static const char *const types[] = { "s", "i", "t" };

        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                sd_bus_message *m = message_new();

                ck_assert_int_ge(str_eq(types[i], "s")
                                         ? sd_bus_message_append(m, "a{sv}", 1, "mode", "s", "1")
                                 : str_eq(types[i], "i")
                                         ? sd_bus_message_append(m, "a{sv}", 1, "mode", "i", 1)
                                         : sd_bus_message_append(m, "a{sv}", 1, "mode", "t", (uint64_t)1),
                                 0);
                check_refused(m, table, "\"mode\"");
        }
}
END_TEST

START_TEST(twice)
{
        sd_bus_message *m = message_new();

        ck_assert_int_ge(
                sd_bus_message_append(m, "a{sv}", 2, "env", "a{ss}", 1, "A", "1", "env", "a{ss}", 0), 0);
        check_refused(m, table, "\"env\"");
}
END_TEST

START_TEST(bad_variable)
{
        sd_bus_message *m = message_new();

        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "env", "a{ss}", 1, "A=B", "1"), 0);
        check_refused(m, table, "A=B");
        m = message_new();
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "env", "a{ss}", 1, "", "1"), 0);
        check_refused(m, table, "\"env\"");
}
END_TEST

SUITE_AROUND("hostd/bus-options", open_bus, close_bus,
             { all_types },
             { none },
             { empty_bytes_are_bytes },
             { unknown_key },
             { wrong_type },
             { twice },
             { bad_variable })
