/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is written for which init, in a tree of this machine: once, and not again.
 */

#include <stdio.h>

#include "deploy/install.h"
#include "deploy/tree.h"
#include "../suite.h"

static char dir[64];
static Tree tree;
static Program program = { .data = (uint8_t *)"guestd", .n = 6 };

static int shell(const char *script)
{
        char command[1024];

        (void)snprintf(command, sizeof(command), "cd %s && %s", dir, script);
        return system(command);
}

static void setup(void)
{
        (void)strcpy(dir, "/tmp/vmferry-install-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(dir));
        ck_assert_int_eq(tree_open(&tree, dir), 0);
}

static void teardown(void)
{
        char command[128];

        tree_done(&tree);
        (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
}

static const struct {
        const char *make;
        InitSystem init;
        unsigned n_written;
        const char *check;
} cases[] = {
        { "mkdir -p usr/lib/systemd usr/lib/udev/rules.d && touch usr/lib/systemd/systemd", INIT_SYSTEMD, 5,
          "grep -q ExecStart=/usr/sbin/vmferry-guestd etc/systemd/system/vmferry-guestd.service && "
          "! grep -q @ etc/systemd/system/vmferry-guestd.service && "
          "[ $(readlink etc/systemd/system/multi-user.target.wants/vmferry-guestd.service) = "
          "/etc/systemd/system/vmferry-guestd.service ] && grep -q virtio-ports etc/udev/rules.d/60-*" },
        /* The package is there already: its unit stays the one. */
        { "mkdir -p usr/lib/systemd/system && touch usr/lib/systemd/systemd "
          "usr/lib/systemd/system/vmferry-guestd.service",
          INIT_SYSTEMD, 3, "! [ -e etc/systemd/system/vmferry-guestd.service ]" },
        { "mkdir -p sbin etc && touch sbin/openrc-run && echo ::sysinit:x > etc/inittab", INIT_OPENRC, 4,
          "[ -x etc/init.d/vmferry-guestd ] && [ -L etc/runlevels/default/vmferry-guestd ]" },
        { "mkdir -p etc/init.d etc/rc3.d", INIT_SYSV, 4,
          "sh -n etc/init.d/vmferry-guestd && [ -x etc/rc3.d/S20vmferry-guestd ] && ! [ -e etc/rc2.d ]" },
        /* Debian's, with systemd's package beside it. */
        { "mkdir -p etc/init.d etc/rc2.d sbin lib/systemd && touch sbin/init lib/systemd/systemd && "
          "printf '# ::sysinit:x\nid:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\n' > etc/inittab",
          INIT_SYSV, 4, "[ -L etc/rc2.d/S20vmferry-guestd ] && ! grep -q vmferry etc/inittab" },
        /* Its sysvinit was left behind, and its inittab. */
        { "mkdir -p etc/init.d sbin lib/systemd && ln -s /lib/systemd/systemd sbin/init && "
          "touch lib/systemd/systemd && printf 'id:2:initdefault:\nsi::sysinit:/x\n' > etc/inittab",
          INIT_SYSTEMD, 4, "[ -e etc/systemd/system/vmferry-guestd.service ]" },
        { "mkdir -p etc/init.d && printf 'null::sysinit:x\n' > etc/inittab", INIT_BUSYBOX, 3,
          "tail -n 1 etc/inittab | grep -qx ::respawn:/usr/sbin/vmferry-guestd" },
        { "mkdir -p etc/init.d sbin usr/lib/systemd && ln -s ../bin/busybox sbin/init && "
          "touch usr/lib/systemd/systemd && echo tty1::askfirst:/bin/sh > etc/inittab",
          INIT_BUSYBOX, 3, "grep -qx ::respawn:/usr/sbin/vmferry-guestd etc/inittab" },
        { "mkdir -p sbin etc && ln -s /bin/busybox sbin/init && touch sbin/openrc-run && "
          "echo ::sysinit:/sbin/openrc > etc/inittab",
          INIT_OPENRC, 4, "! grep -q vmferry etc/inittab" },
        { "mkdir -p etc && printf '::sysinit:x' > etc/inittab", INIT_BUSYBOX, 3,
          "[ \"$(cat etc/inittab)\" = \"$(printf '::sysinit:x\\n::respawn:/usr/sbin/vmferry-guestd')\" ]" },
};

static int install(bool dry_run, Install *ret)
{
        *ret = (Install){ .dry_run = dry_run };

        int r = install_look(ret, &tree.target, true);

        return r < 0 ? r : install_run(ret, &tree.target, &program);
}

START_TEST(test_inits)
{
        Install i;

        ck_assert_int_eq(shell(cases[_i].make), 0);
        ck_assert_int_eq(shell("find . | sort > ../$(basename $PWD).before"), 0);
        ck_assert_int_eq(install(true, &i), 0);
        ck_assert_uint_eq(i.n_written, 0);
        ck_assert_int_eq(
                shell("find . | sort | cmp - ../$(basename $PWD).before && rm ../$(basename $PWD).before"),
                0);
        ck_assert_int_eq(install(false, &i), 0);
        ck_assert_int_eq(i.init, cases[_i].init);
        ck_assert_uint_eq(i.n_written, cases[_i].n_written);
        ck_assert_int_eq(shell(cases[_i].check), 0);
        ck_assert_int_eq(
                shell("[ $(cat usr/sbin/vmferry-guestd) = guestd ] && [ -x usr/sbin/vmferry-guestd ]"), 0);
        ck_assert_int_eq(shell("! find . -name '*vmferry-new*' | grep ."), 0);
        ck_assert_int_eq(install(false, &i), 0);
        ck_assert_uint_eq(i.n_written, 0);
}
END_TEST

START_TEST(test_a_configuration_stays)
{
        Install i;

        ck_assert_int_eq(shell("mkdir -p etc/init.d etc/vmferry && echo mine > etc/vmferry/guestd.conf"), 0);
        ck_assert_int_eq(install(false, &i), 0);
        ck_assert_int_eq(shell("[ $(cat etc/vmferry/guestd.conf) = mine ]"), 0);
}
END_TEST

START_TEST(test_nothing_that_would_start_it)
{
        Install i;

        ck_assert_int_eq(shell("mkdir -p etc usr/sbin"), 0);
        ck_assert_int_eq(install(false, &i), -EOPNOTSUPP);
        ck_assert_uint_eq(i.n_written, 0);
        ck_assert_int_eq(shell("! find . -type f | grep ."), 0);
}
END_TEST

START_TEST(test_a_signal)
{
        static const volatile sig_atomic_t came = 1;
        Install i;

        ck_assert_int_eq(shell("mkdir -p etc/init.d"), 0);
        tree.target.interrupted = &came;
        ck_assert_int_eq(install(false, &i), -EINTR);
        ck_assert_int_eq(shell("! find . -type f | grep ."), 0);
}
END_TEST

SUITE_AROUND("install", setup, teardown,
             { test_inits, ELEMENTSOF(cases) },
             { test_a_configuration_stays },
             { test_nothing_that_would_start_it },
             { test_a_signal })
