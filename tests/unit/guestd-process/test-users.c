/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "base/fs.h"
#include "guestd/users.h"
#include "../suite.h"

static char passwd[] = "/tmp/vmferry-test-passwd-XXXXXX", group[] = "/tmp/vmferry-test-group-XXXXXX";

static void setup(void)
{
        static const char users[] = "root:x:0:0:root:/root:/bin/bash\n"
                                    "broken:x:zero:0::/:/bin/sh\n"
                                    "short:x:5\n"
                                    "\n"
                                    "+::::::\n"
                                    "alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh\n"
                                    "alice2:x:1001:1000::nowhere:\n"
                                    "huge:x:4294967295:1::/:/bin/sh\n"
                                    "1000:x:2000:2000::/home/number:/bin/sh\n"
                                    "last:x:7:7::/:/bin/sh";
        static const char groups[] = "root:x:0:\nalice:x:1000:\nwheel:x:10:root,alice\nbad:x:ten:alice\n"
                                     "twice:x:11:alice,alice\nclose:x:12:alice2,ali\nends:x:13:bob,alice";
        int fd = mkstemp(passwd);
        ck_assert_int_eq(fs_write_all(fd, users, strlen(users)), 0);
        (void)close(fd);
        fd = mkstemp(group);
        ck_assert_int_eq(fs_write_all(fd, groups, strlen(groups)), 0);
        (void)close(fd);
        users_set_files(passwd, group);
}

static void teardown(void)
{
        (void)unlink(passwd);
        (void)unlink(group);
        users_set_files(NULL, NULL);
}

START_TEST(table_of_names)
{
        static const struct {
                const char *name;
                int r;
                uid_t uid;
                gid_t gid;
                const char *home, *shell;
                size_t n_groups;
        } table[] = {
                { "root", 0, 0, 0, "/root", "/bin/bash", 2 },
                { "alice", 0, 1000, 1000, "/home/alice", "/bin/zsh", 4 },
                { "alice2", 0, 1001, 1000, "/", "/bin/sh", 2 },
                { "1001", 0, 1001, 1000, "/", "/bin/sh", 2 },
                { "1000", 0, 2000, 2000, "/home/number", "/bin/sh", 1 }, /* a name goes before a number */
                { "last", 0, 7, 7, "/", "/bin/sh", 1 },
                { "ali", -ENOENT },
                { "broken", -ENOENT },
                { "short", -ENOENT },
                { "huge", -ENOENT },
                { "4294967295", -ENOENT },
                { "99999999999999999999", -ENOENT },
                { "3", -ENOENT },
                { "", -EINVAL },
                { "a:b", -EINVAL },
                { "-x", -EINVAL },
                { "a\nb", -EINVAL },
                { "+", -ENOENT },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                User u = { 0 };
                ck_assert_msg(users_find(table[i].name, &u) == table[i].r, "%s", table[i].name);
                if (table[i].r == 0) {
                        ck_assert_uint_eq(u.uid, table[i].uid);
                        ck_assert_uint_eq(u.gid, table[i].gid);
                        ck_assert_str_eq(u.home, table[i].home);
                        ck_assert_str_eq(u.shell, table[i].shell);
                        ck_assert_msg(u.n_groups == table[i].n_groups, "%s", table[i].name);
                        ck_assert_uint_eq(u.groups[0], table[i].gid);
                }
                user_done(&u);
        }
        gid_t gid;
        ck_assert_int_eq(users_find_group("wheel", &gid), 0);
        ck_assert_uint_eq(gid, 10);
        ck_assert_int_eq(users_find_group("44", &gid), 0);
        ck_assert_uint_eq(gid, 44);
        ck_assert_int_eq(users_find_group("bad", &gid), -ENOENT);
}
END_TEST

START_TEST(without_files)
{
        users_set_files("/no/such/file", "/no/such/file");
        User u;
        ck_assert_int_eq(users_find("root", &u), 0);
        ck_assert_uint_eq(u.uid, 0);
        user_done(&u);
        ck_assert_int_eq(users_find("0", &u), 0);
        user_done(&u);
        ck_assert_int_eq(users_find("alice", &u), -ENOENT);
}
END_TEST

START_TEST(asked_of_getent)
{
        users_set_files("/no/such/file", "/no/such/file");
        User u;
        ck_assert_int_eq(users_find_slow("daemon", &u), 0);
        ck_assert_uint_eq(u.uid, 1);
        ck_assert_uint_ge(u.n_groups, 1);
        user_done(&u);
        ck_assert_int_eq(users_find_slow("no-such-user-here", &u), -ENOENT);
}
END_TEST

static const char *get(char *const *env, const char *name)
{
        const char *found = NULL;
        for (; *env; env++)
                if (strncmp(*env, name, strlen(name)) == 0 && (*env)[strlen(name)] == '=') {
                        ck_assert_ptr_null(found);
                        found = *env + strlen(name) + 1;
                }
        return found;
}

START_TEST(environment)
{
        User u;
        char *const extra[] = { (char *)"HOME=/else", (char *)"A=1", (char *)"A=2", (char *)"HOMER=x",
                                NULL };
        ck_assert_int_eq(users_find("alice", &u), 0);
        ck_assert_int_eq(unsetenv("PATH"), 0);
        char **env = users_environment(&u, true, extra);
        ck_assert_str_eq(get(env, "HOME"), "/else");
        ck_assert_str_eq(get(env, "HOMER"), "x");
        ck_assert_str_eq(get(env, "USER"), "alice");
        ck_assert_str_eq(get(env, "LOGNAME"), "alice");
        ck_assert_str_eq(get(env, "SHELL"), "/bin/zsh");
        ck_assert_str_eq(get(env, "PATH"), "/usr/local/bin:/usr/bin:/bin");
        ck_assert_str_eq(get(env, "A"), "2");
        ck_assert_ptr_nonnull(get(env, "TERM"));
        (void)users_environment_free(env);
        env = users_environment(&u, false, NULL);
        ck_assert_str_eq(get(env, "HOME"), "/home/alice");
        ck_assert_ptr_null(get(env, "TERM"));
        (void)users_environment_free(env);
        user_done(&u);
}
END_TEST

SUITE_AROUND("users", setup, teardown,
             { table_of_names },
             { without_files },
             { asked_of_getent },
             { environment })
