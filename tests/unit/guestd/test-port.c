/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding a port by name in a made-up sysfs, and reading poll(2) flags. The device itself is tested in
 * virtual machines.
 */

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "guestd/port.h"
#include "../suite.h"

static char root[] = "/tmp/vmferry-test-port-XXXXXX";

static void make_port(const char *device, const char *name)
{
        char path[256];

        (void)snprintf(path, sizeof(path), "%s/class/virtio-ports/%s", root, device);
        ck_assert_int_eq(mkdir(path, 0755), 0);
        if (!name)
                return;
        (void)snprintf(path, sizeof(path), "%s/class/virtio-ports/%s/name", root, device);
        ck_assert_int_eq(fs_write_file_atomic(path, name, strlen(name), 0644), 0);
}

static void setup(void)
{
        char path[256];

        ck_assert_ptr_nonnull(mkdtemp(root));
        (void)snprintf(path, sizeof(path), "%s/class", root);
        ck_assert_int_eq(mkdir(path, 0755), 0);
        (void)snprintf(path, sizeof(path), "%s/class/virtio-ports", root);
        ck_assert_int_eq(mkdir(path, 0755), 0);
}

static void teardown(void)
{
        char command[256];

        (void)snprintf(command, sizeof(command), "rm -rf '%s'", root);
        ck_assert_int_eq(system(command), 0);
        memcpy(root + strlen(root) - 6, "XXXXXX", 6);
}

START_TEST(by_name)
{
        _cleanup_free_ char *node = NULL, *other = NULL;

        make_port("vport0p1", "org.qemu.guest_agent.0\n");
        make_port("vport0p2", NULL); /* its name has not come yet */
        make_port("vport3p7", "org.vmferry.ctl.0\n");
        make_port("vport3p8", "org.vmferry.ctl.0.other\n");
        ck_assert_int_eq(port_find(root, "/dev", "org.vmferry.ctl.0", &node), 0);
        ck_assert_str_eq(node, "/dev/vport3p7");
        ck_assert_int_eq(port_find(root, "/dev", "org.vmferry.ctl", &other), -ENOENT);
        ck_assert_int_eq(port_find(root, "/dev", "", &other), -ENOENT);
        ck_assert_ptr_null(other);
}
END_TEST

START_TEST(name_that_comes_late)
{
        _cleanup_free_ char *node = NULL;
        char path[256];

        make_port("vport1p1", NULL);
        ck_assert_int_eq(port_find(root, "/dev", "late", &node), -ENOENT);
        (void)snprintf(path, sizeof(path), "%s/class/virtio-ports/vport1p1/name", root);
        ck_assert_int_eq(fs_write_file_atomic(path, "late", 4, 0644), 0);
        ck_assert_int_eq(port_find(root, "/dev", "late", &node), 0);
        ck_assert_str_eq(node, "/dev/vport1p1");
}
END_TEST

START_TEST(by_path)
{
        _cleanup_free_ char *node = NULL;

        ck_assert_int_eq(port_find("/nonexistent", "/dev", "/dev/vport0p1", &node), 0);
        ck_assert_str_eq(node, "/dev/vport0p1");
}
END_TEST

START_TEST(no_driver)
{
        _cleanup_free_ char *node = NULL;

        ck_assert_int_eq(port_find("/nonexistent", "/dev", "org.vmferry.ctl.0", &node), -ENOENT);
}
END_TEST

START_TEST(what_is_no_port_is_not_opened)
{
        ck_assert_int_eq(port_open("/dev/no-such-port"), -ENOENT);
        ck_assert_int_lt(port_open("/tmp"), 0);
        ck_assert_int_eq(port_open("/etc/passwd"), -ENXIO);
}
END_TEST

/* The table of virtio_console's port_fops_poll(). */
static const struct {
        short revents;
        PortPeer peer;
} flags[] = {
        { POLLIN | POLLHUP, PORT_PEER_ABSENT },
        { POLLIN | POLLRDNORM | POLLHUP, PORT_PEER_ABSENT },
        { POLLOUT, PORT_PEER_PRESENT },
        { POLLIN | POLLOUT, PORT_PEER_PRESENT },
        { POLLIN, PORT_PEER_PRESENT },
        { 0, PORT_PEER_PRESENT }, /* its queue is full */
        { POLLHUP, PORT_UNPLUGGED },
};

START_TEST(who_is_there)
{
        ck_assert_int_eq(port_peer(flags[_i].revents), flags[_i].peer);
}
END_TEST

START_TEST(a_watch_tells_edges)
{
        int pair[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
        _cleanup_close_ int watch = port_watch_new(pair[0]);
        struct pollfd p = { .fd = watch, .events = POLLIN };
        ck_assert_int_ge(watch, 0);
        ck_assert_int_eq(port_watch_take(watch) & POLLOUT, POLLOUT);
        ck_assert_int_eq(port_watch_take(watch), 0);
        ck_assert_int_eq(poll(&p, 1, 0), 0);
        ck_assert_int_eq(write(pair[1], "x", 1), 1);
        ck_assert_int_eq(poll(&p, 1, 0), 1);
        ck_assert_int_eq(port_watch_take(watch) & POLLIN, POLLIN);
        ck_assert_int_eq(poll(&p, 1, 0), 0); /* though nobody has read it */
        (void)close(pair[0]);
        (void)close(pair[1]);
}
END_TEST

SUITE_AROUND("guestd-port", setup, teardown,
             { by_name },
             { name_that_comes_late },
             { by_path },
             { no_driver },
             { what_is_no_port_is_not_opened },
             { who_is_there, ELEMENTSOF(flags) },
             { a_watch_tells_edges })
