/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's tree, whose links lead nowhere but into it.
 */

#include <stdio.h>
#include <sys/stat.h>

#include "deploy/system.h"
#include "deploy/tree.h"
#include "../suite.h"

static char dir[64];
static Tree tree;

static void setup(void)
{
        char command[1024];

        (void)strcpy(dir, "/tmp/vmferry-tree-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(dir));
        (void)snprintf(
                command, sizeof(command),
                "cd %s && mkdir -p outside guest/etc guest/usr/sbin guest/usr/lib && echo host "
                ">outside/file && "
                "ln -s %s/outside guest/absolute && ln -s ../../../../../../tmp guest/relative && "
                "ln -s usr/sbin guest/sbin && ln -s /usr/lib guest/lib && ln -s nowhere guest/dangling && "
                "ln -s %s/outside/file guest/etc/passwd && mkfifo guest/etc/fifo && echo text "
                ">guest/etc/text",
                dir, dir, dir);
        ck_assert_int_eq(system(command), 0);
        (void)snprintf(command, sizeof(command), "%s/guest", dir);
        ck_assert_int_eq(tree_open(&tree, command), 0);
}

static void teardown(void)
{
        char command[128];

        tree_done(&tree);
        (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
}

static int put(const char *path)
{
        return tree.target.ops->put(&tree.target, path, "new", 3, 0750);
}

static bool is_in(const char *path)
{
        char full[128];
        struct stat st;

        (void)snprintf(full, sizeof(full), "%s/%s", dir, path);
        return lstat(full, &st) == 0;
}

START_TEST(test_links_stay_inside)
{
        _cleanup_free_ char *text = NULL;
        const TargetOps *ops = tree.target.ops;

        /* The host's directory is there; the guest has no such one. */
        ck_assert_int_eq(put("/absolute/file"), -ENOENT);
        ck_assert_int_eq(ops->is_there(&tree.target, "/absolute/file"), 0);
        ck_assert_int_eq(ops->read(&tree.target, "/etc/passwd", &text), -ENOENT);
        ck_assert_int_eq(ops->is_there(&tree.target, "/etc/passwd"), 1);
        ck_assert_int_eq(ops->is_there(&tree.target, "/../../../../../../etc/hostname"), 0);
        ck_assert_int_lt(put("/relative/vmferry-must-not-be"), 0);
        ck_assert(access("/tmp/vmferry-must-not-be", F_OK) < 0);
        /* A link in the place of a file is replaced, not followed. */
        ck_assert_int_eq(put("/etc/passwd"), 0);
        ck_assert_int_eq(ops->is_same(&tree.target, "/etc/passwd", "new", 3), 1);
        ck_assert(is_in("outside/file"));
        ck_assert_int_eq(put("/sbin/program"), 0);
        ck_assert(is_in("guest/usr/sbin/program"));
        ck_assert_int_eq(put("/lib/file"), 0);
        ck_assert(is_in("guest/usr/lib/file"));
}
END_TEST

START_TEST(test_files)
{
        const TargetOps *ops = tree.target.ops;
        _cleanup_free_ char *text = NULL, *to = NULL;
        struct stat st;
        char path[128];

        ck_assert_int_eq(ops->read(&tree.target, "/etc/text", &text), 0);
        ck_assert_str_eq(text, "text\n");
        ck_assert_int_eq(ops->read(&tree.target, "/etc/fifo", &text), -EINVAL);
        ck_assert_int_eq(ops->read_link(&tree.target, "/dangling", &to), 1);
        ck_assert_str_eq(to, "nowhere");
        ck_assert_int_eq(ops->read_link(&tree.target, "/etc/text", &to), 0);
        ck_assert_int_eq(ops->read_link(&tree.target, "/etc/none", &to), 0);
        ck_assert_int_eq(ops->is_same(&tree.target, "/etc/fifo", "", 0), 0);
        ck_assert_int_eq(ops->is_same(&tree.target, "/etc/text", "text\n", 5), 1);
        ck_assert_int_eq(ops->is_same(&tree.target, "/etc/text", "texT\n", 5), 0);
        ck_assert_int_eq(ops->is_same(&tree.target, "/etc/none", "", 0), 0);
        ck_assert_int_eq(ops->make_directory(&tree.target, "/etc/new"), 0);
        ck_assert_int_eq(put("/etc/new/file"), 0);
        (void)snprintf(path, sizeof(path), "%s/guest/etc/new/file", dir);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0750);
        ck_assert_int_eq(ops->link(&tree.target, "/etc/new/file", "/somewhere"), 0);
        ck_assert(lstat(path, &st) == 0 && S_ISLNK(st.st_mode));
        /* A directory is in the way: nothing is left beside it. */
        ck_assert_int_eq(put("/usr/sbin"), -EISDIR);
        ck_assert_str_ne(tree.target.why, "");
        ck_assert(!is_in("guest/usr/.sbin.vmferry-new"));
        /* Without SELinux there are no labels. */
        ck_assert_int_eq(ops->label(&tree.target, "/etc/new", "/etc"), 0);
}
END_TEST

START_TEST(test_system)
{
        _cleanup_free_ char *usr = NULL, *home = NULL;
        char name[32], command[512];

        ck_assert(!system_is_there(&tree.target));
        ck_assert_ptr_null(system_architecture(&tree));
        (void)snprintf(command, sizeof(command),
                       "cd %s/guest && mkdir bin && cp /proc/self/exe bin/sh && "
                       "printf 'ID=x\\nPRETTY_NAME=\"A \\047b\\047\"\\n' >etc/os-release && "
                       "printf '# /usr\\n\\nUUID=1 / ext4\\n#UUID=2 /usr x\\n  LABEL=u\\t/usr ext4 ro 0 "
                       "0\\n' >etc/fstab",
                       dir);
        ck_assert_int_eq(system(command), 0);
        ck_assert(system_is_there(&tree.target));
        ck_assert_ptr_nonnull(system_architecture(&tree));
        system_read_name(&tree.target, name, sizeof(name));
        ck_assert_str_eq(name, "A 'b'");
        usr = system_fstab_source(&tree, "/usr");
        ck_assert_str_eq(usr, "LABEL=u");
        home = system_fstab_source(&tree, "/home");
        ck_assert_ptr_null(home);
}
END_TEST

SUITE_AROUND("tree", setup, teardown,
             { test_links_stay_inside },
             { test_files },
             { test_system })
