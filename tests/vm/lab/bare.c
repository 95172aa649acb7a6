/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bare virtio-serial port in a lab guest, without vmferry. "hold" keeps ports open for as long as the
 * guest runs and hands the same open file to whoever asks, so that single commands can look at what a
 * long-lived program would see.
 *
 *   bare hold PORT...            bare PORT open | close | poll | spin MSEC | read | write BYTES BLOCK
 *   bare kexec KERNEL INITRD     into another kernel, with the command line of this one
 *   bare shell PORT              runs the lines that come, without an answer
 *   bare limit PID SECONDS       no descriptor more than it has, for so long
 *   bare busy MSEC               nothing else runs, no thread of the kernel either; interrupts are taken
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RECORD 8 /* "0000123\n": each says where in the stream it stood */

static void die(const char *what)
{
        fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
        exit(1);
}

static int port_open(const char *name)
{
        DIR *d = opendir("/sys/class/virtio-ports");
        char path[512], found[256];

        for (struct dirent *e; d && (e = readdir(d));) {
                snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
                FILE *f = fopen(path, "r");
                if (!f)
                        continue;
                int is_ours = fgets(found, sizeof(found), f) && strcspn(found, "\n") == strlen(name) &&
                              strncmp(found, name, strlen(name)) == 0;
                fclose(f);
                if (is_ours) {
                        snprintf(path, sizeof(path), "/dev/%s", e->d_name);
                        closedir(d);
                        return open(path, O_RDWR | O_NONBLOCK);
                }
        }
        if (d)
                closedir(d);
        errno = ENOENT;
        return -1;
}

static struct sockaddr_un address(const char *name)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        snprintf(sa.sun_path + 1, sizeof(sa.sun_path) - 1, "bare-%s", name); /* abstract: no file is left */
        return sa;
}

static void hand_out(int client, int port)
{
        char answer = port >= 0 ? 0 : 1, control[CMSG_SPACE(sizeof(int))] = { 0 };
        struct iovec iov = { &answer, 1 };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (port >= 0) {
                m.msg_control = control;
                m.msg_controllen = sizeof(control);
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(c), &port, sizeof(port));
        }
        (void)!sendmsg(client, &m, MSG_NOSIGNAL);
}

static void hold(const char *name)
{
        struct sockaddr_un sa = address(name);
        int server = socket(AF_UNIX, SOCK_STREAM, 0), port = port_open(name), is_closed = 0;

        if (bind(server, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(server, 16) < 0)
                die("bind");
        if (fork() > 0)
                return;
        setsid();
        for (;;) {
                int client = accept(server, NULL, NULL);
                char verb;

                if (client < 0 || read(client, &verb, 1) != 1)
                        verb = 0;
                if (verb == 'c') {
                        close(port);
                        port = -1;
                        is_closed = 1;
                } else if (verb == 'o')
                        is_closed = 0;
                /* At boot its name may come later than the device. */
                if (verb && port < 0 && !is_closed)
                        port = port_open(name);
                if (verb)
                        hand_out(client, port);
                close(client);
        }
}

static int borrow(const char *name, char verb)
{
        struct sockaddr_un sa = address(name);
        int s = socket(AF_UNIX, SOCK_STREAM, 0), fd = -1;
        char answer, control[CMSG_SPACE(sizeof(int))];
        struct iovec iov = { &answer, 1 };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
        };

        if (connect(s, (struct sockaddr *)&sa, sizeof(sa)) < 0 || write(s, &verb, 1) != 1 ||
            recvmsg(s, &m, 0) != 1)
                die(name);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
                memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        close(s);
        return fd;
}

static long long now_msec(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void show_flags(int fd)
{
        struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT };

        poll(&p, 1, 0);
        printf("%s%s%s\n", p.revents & POLLIN ? "IN " : "", p.revents & POLLOUT ? "OUT " : "",
               p.revents & POLLHUP ? "HUP " : "");
}

static void spin(int fd, int msec)
{
        long long end = now_msec() + msec;
        struct pollfd p = { .fd = fd, .events = POLLIN };
        unsigned n = 0;

        while (now_msec() < end)
                if (poll(&p, 1, (int)(end - now_msec())) > 0)
                        n++;
        printf("%u\n", n);
}

static void read_all(int fd)
{
        char buf[65536];

        for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0;)
                if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
                        die("stdout");
}

static char digit(size_t at)
{
        static const size_t scale[RECORD - 1] = { 1000000, 100000, 10000, 1000, 100, 10, 1 };
        size_t place = at % RECORD;

        return place == RECORD - 1 ? '\n' : (char)('0' + at / RECORD / scale[place] % 10);
}

/* As much as goes without waiting for longer than a second; says how much that was. */
static void write_records(int fd, size_t n, size_t block)
{
        char *buf = malloc(block);
        size_t done = 0;

        while (done < n) {
                struct pollfd p = { .fd = fd, .events = POLLOUT };
                size_t wanted = n - done < block ? n - done : block;

                for (size_t i = 0; i < wanted; i++)
                        buf[i] = digit(done + i);
                ssize_t k = write(fd, buf, wanted);
                if (k > 0)
                        done += (size_t)k;
                else if (k == 0 || errno != EAGAIN || poll(&p, 1, 1000) == 0 || p.revents & POLLHUP)
                        break;
        }
        printf("%zu\n", done);
}

static void change_kernel(const char *kernel, const char *initrd)
{
        char line[2048] = "";
        FILE *f = fopen("/proc/cmdline", "r");

        if (!f || !fgets(line, sizeof(line), f))
                die("/proc/cmdline");
        line[strcspn(line, "\n")] = 0;
        if (syscall(SYS_kexec_file_load, open(kernel, O_RDONLY), open(initrd, O_RDONLY), strlen(line) + 1,
                    line, 0L) < 0)
                die("kexec_file_load");
        /* Whoever called this is to hear that it worked so far. */
        if (fork() > 0)
                return;
        reboot(0x45584543); /* LINUX_REBOOT_CMD_KEXEC */
        exit(1);
}

static void limit(pid_t pid, unsigned seconds)
{
        char path[64];
        unsigned n = 0;
        struct rlimit before;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));) {
                unsigned fd = (unsigned)atoi(e->d_name) + 1;
                n = fd > n ? fd : n;
        }
        if (prlimit(pid, RLIMIT_NOFILE, NULL, &before) < 0)
                die("prlimit");
        struct rlimit tight = { n, before.rlim_max };
        if (prlimit(pid, RLIMIT_NOFILE, &tight, NULL) < 0)
                die("prlimit");
        sleep(seconds);
        if (prlimit(pid, RLIMIT_NOFILE, &before, NULL) < 0)
                die("prlimit");
}

static void busy(int msec)
{
        const struct sched_param most = { .sched_priority = 99 };
        FILE *f = fopen("/proc/sys/kernel/sched_rt_runtime_us", "w");

        if (!f || fputs("-1", f) < 0 || fclose(f) != 0 || sched_setscheduler(0, SCHED_FIFO, &most) < 0)
                die("busy");
        for (long long end = now_msec() + msec; now_msec() < end;)
                ;
}

/* Blocking: poll(2) would not wait without a client, and neither does read(2). */
static void shell(const char *name)
{
        char line[4096];
        size_t n = 0;
        int fd = port_open(name);

        for (;;) {
                ssize_t k = read(fd, line + n, sizeof(line) - 1 - n);
                if (k <= 0) {
                        usleep(50000);
                        if (fd < 0)
                                fd = port_open(name);
                        continue;
                }
                n += (size_t)k;
                line[n] = 0;
                char *end = strchr(line, '\n');
                if (!end) {
                        n %= sizeof(line) - 1;
                        continue;
                }
                *end = 0;
                if (fork() == 0) {
                        signal(SIGCHLD, SIG_DFL);
                        execl("/bin/sh", "sh", "-c", line, NULL);
                        _exit(127);
                }
                n = strlen(end + 1);
                memmove(line, end + 1, n);
        }
}

int main(int argc, char **argv)
{
        signal(SIGCHLD, SIG_IGN);
        if (argc >= 3 && !strcmp(argv[1], "hold")) {
                for (int i = 2; i < argc; i++)
                        hold(argv[i]);
                return 0;
        }
        if (argc == 3 && !strcmp(argv[1], "shell"))
                shell(argv[2]);
        if (argc == 4 && !strcmp(argv[1], "kexec")) {
                change_kernel(argv[2], argv[3]);
                return 0;
        }
        if (argc == 4 && !strcmp(argv[1], "limit")) {
                limit(atoi(argv[2]), (unsigned)atoi(argv[3]));
                return 0;
        }
        if (argc == 3 && !strcmp(argv[1], "busy")) {
                busy(atoi(argv[2]));
                return 0;
        }
        if (argc < 3)
                return 2;
        const char *verb = argv[2];
        int fd = borrow(argv[1], !strcmp(verb, "close") ? 'c' : !strcmp(verb, "open") ? 'o' : 'f');
        if (!strcmp(verb, "close"))
                return fd >= 0;
        if (fd < 0)
                return 1;
        if (!strcmp(verb, "poll"))
                show_flags(fd);
        else if (!strcmp(verb, "spin") && argc == 4)
                spin(fd, atoi(argv[3]));
        else if (!strcmp(verb, "read"))
                read_all(fd);
        else if (!strcmp(verb, "write") && argc == 5)
                write_records(fd, strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
        else if (strcmp(verb, "open") != 0)
                return 2;
        return 0;
}
