/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Paths that try to leave their root, parents, roots of a policy, and files written in one step.
 */

#include <fcntl.h>
#include <stdio.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/base.h"
#include "base/fs.h"
#include "../suite.h"

static char dir[64];
static int root = -1;

static const char *at(const char *name)
{
        static char paths[16][256];
        static unsigned i;
        char *path = paths[i++ % ELEMENTSOF(paths)];

        (void)snprintf(path, 256, "%s/%s", dir, name);
        return path;
}

static void setup(void)
{
        char command[512];

        (void)strcpy(dir, "/tmp/vmferry-fs-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(dir));
        (void)snprintf(command, sizeof command,
                       "cd %s && mkdir -p root/a/b outside rootlike && echo in >root/a/b/f && echo out "
                       ">outside/f && "
                       "ln -s ../outside root/link && ln -s a root/inside && ln -s b/f root/a/flink && ln "
                       "-s root rlink",
                       dir);
        ck_assert_int_eq(system(command), 0);
        root = open(at("root"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(root, 0);
}

static void teardown(void)
{
        char command[128];

        root = fd_close(root);
        (void)snprintf(command, sizeof command, "rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
}

static void check_open_beneath(void)
{
        static const struct {
                const char *path;
                int flags, result;
        } cases[] = {
                { "a/b/f", O_RDONLY, 0 },
                { "a", O_RDONLY | O_DIRECTORY, 0 },
                { "a/", O_RDONLY | O_DIRECTORY, 0 },
                { "a/./b//f", O_RDONLY, 0 },
                { "", O_RDONLY | O_DIRECTORY, 0 },
                { ".", O_RDONLY | O_DIRECTORY, 0 },
                { "a/b/new", O_WRONLY | O_CREAT, 0 },
                { "none", O_RDONLY, -ENOENT },
                { "a/b/f/x", O_RDONLY, -ENOTDIR },
                { "link/f", O_RDONLY, -ELOOP },
                { "link", O_RDONLY, -ELOOP },
                { "inside/b/f", O_RDONLY, -ELOOP },
                { "a/flink", O_RDONLY, -ELOOP },
                { "..", O_RDONLY, -EXDEV },
                { "../outside/f", O_RDONLY, -EXDEV },
                { "/etc/passwd", O_RDONLY, -EXDEV },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int fd = fs_open_beneath(root, cases[i].path, cases[i].flags, 0600);

                ck_assert_msg(cases[i].result ? fd == cases[i].result : fd >= 0, "%s: %d", cases[i].path,
                              fd);
                if (fd >= 0) {
                        ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
                        (void)close(fd);
                }
        }
}

START_TEST(test_open_beneath)
{
        check_open_beneath();
}
END_TEST

/* The same on a kernel that has no openat2(2). */
START_TEST(test_open_beneath_by_components)
{
        struct sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = { ELEMENTSOF(filter), filter };

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return; /* no seccomp here */
        check_open_beneath();
}
END_TEST

START_TEST(test_open_parent)
{
        static const struct {
                const char *path, *name;
                int result;
        } cases[] = {
                { "root/a/new", "new", 0 },
                { "root/a/new/", "new", 0 },
                { "rlink/x", "x", 0 },
                { "nowhere/x", NULL, -ENOENT },
                { "root/..", NULL, -EINVAL },
                { "root/.", NULL, -EINVAL },
                { "root/a/b/f/x", NULL, -ENOTDIR },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *name = NULL;
                int fd = fs_open_parent(at(cases[i].path), &name);

                ck_assert_msg(cases[i].result ? fd == cases[i].result : fd >= 0, "%s: %d", cases[i].path,
                              fd);
                if (fd >= 0) {
                        ck_assert_str_eq(name, cases[i].name);
                        (void)close(fd);
                }
        }
        char *name;
        ck_assert_int_eq(fs_open_parent("relative", &name), -EINVAL);
        ck_assert_int_eq(fs_open_parent("/", &name), -EINVAL);
}
END_TEST

START_TEST(test_roots)
{
        const char *r = at("root"), *link = at("rlink"), *none = at("none");
        const char *const one[] = { r, NULL }, *const by_link[] = { none, link, NULL },
                          *const all[] = { "/", NULL }, *const empty[] = { NULL };
        int inside = open(at("root/a/b/f"), O_RDONLY | O_CLOEXEC),
            outside = open(at("outside/f"), O_RDONLY | O_CLOEXEC);
        int alike = open(at("rootlike"), O_RDONLY | O_CLOEXEC);

        ck_assert_int_eq(fs_is_beneath_roots(inside, NULL), 1);
        ck_assert_int_eq(fs_is_beneath_roots(inside, one), 1);
        ck_assert_int_eq(fs_is_beneath_roots(root, one), 1);
        ck_assert_int_eq(fs_is_beneath_roots(inside, by_link), 1);
        ck_assert_int_eq(fs_is_beneath_roots(inside, all), 1);
        ck_assert_int_eq(fs_is_beneath_roots(outside, one), 0);
        ck_assert_int_eq(fs_is_beneath_roots(alike, one), 0);
        ck_assert_int_eq(fs_is_beneath_roots(inside, empty), 0);
        (void)close(inside);
        (void)close(outside);
        (void)close(alike);
}
END_TEST

START_TEST(test_files)
{
        _cleanup_free_ char *text = NULL;
        struct stat st;
        size_t n;

        ck_assert_int_eq(fs_write_file_atomic(at("root/new"), "hello", 5, 0640), 0);
        ck_assert_int_eq(stat(at("root/new"), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0640);
        ck_assert_int_eq(fs_write_file_atomic(at("root/new"), "hello again", 11, 0600), 0);
        ck_assert_int_eq(fs_read_file(at("root/new"), 11, &text, &n), 0);
        ck_assert_str_eq(text, "hello again");
        ck_assert_uint_eq(n, 11);
        free(TAKE(text));
        ck_assert_int_eq(fs_read_file(at("root/new"), 10, &text, &n), -EFBIG);
        ck_assert_int_eq(fs_read_file(at("root/none"), 10, &text, &n), -ENOENT);
        ck_assert_int_eq(fs_read_file(at("root"), 10, &text, &n), -EISDIR);
        ck_assert_int_eq(fs_read_file("/dev/zero", 100000, &text, &n), -EFBIG);
        ck_assert_int_eq(fs_read_file("/proc/self/status", 100000, &text, &n), 0);
        ck_assert_uint_gt(n, 100);
        ck_assert_int_eq(fs_write_file_atomic(at("none/x"), "x", 1, 0600), -ENOENT);
        ck_assert_int_eq(fs_write_file_atomic(at("root/a"), "x", 1, 0600), -EISDIR);
        ck_assert_int_eq(system("test -z \"$(find /tmp/vmferry-fs-* -name '.#*')\""), 0);
}
END_TEST

/* In pieces, until there is enough or no more. */
START_TEST(test_read_all)
{
        char buf[8] = "";
        size_t n = 0;
        int fds[2];

        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        ck_assert_int_eq(fs_write_all(fds[1], "abcdef", 6), 0);
        ck_assert_int_eq(fs_read_all(fds[0], buf, 4, &n), 0);
        ck_assert_uint_eq(n, 4);
        ck_assert_str_eq(buf, "abcd");
        (void)fd_close(fds[1]);
        ck_assert_int_eq(fs_read_all(fds[0], buf, sizeof(buf), &n), 0);
        ck_assert_uint_eq(n, 2);
        ck_assert_int_eq(memcmp(buf, "ef", 2), 0);
        (void)fd_close(fds[0]);
        ck_assert_int_eq(fs_read_all(-1, buf, 1, &n), -EBADF);
}
END_TEST

SUITE_AROUND("fs", setup, teardown,
             { test_open_beneath },
             { test_open_beneath_by_components },
             { test_open_parent },
             { test_roots },
             { test_files },
             { test_read_all })
