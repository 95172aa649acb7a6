/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device is free if it has no size: the kernel gives it one when a server is connected
 * (drivers/block/nbd.c, nbd_set_size), and takes it when it is disconnected. Two who want the same one are
 * told apart by qemu-nbd, which fails for the second.
 */

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "deploy/command.h"
#include "deploy/nbd.h"

#define DEVICES_MAX 64u
#define CONNECT_USEC (20 * USEC_PER_SEC)
#define DISCONNECT_USEC (60 * USEC_PER_SEC)
#define TERMINATE_USEC (10 * USEC_PER_SEC)
#define STEP_USEC (20 * USEC_PER_MSEC)

static const char *base_name(const Nbd *n)
{
        return n->device + strlen("/dev/");
}

/* -1: there is no such device. */
static int64_t size_of(const Nbd *n)
{
        _cleanup_free_ char *text = NULL;
        char path[64];
        size_t length;

        (void)snprintf(path, sizeof(path), "/sys/block/%s/size", base_name(n));
        return fs_read_file(path, 64, &text, &length) < 0 ? -1 : strtoll(text, NULL, 10);
}

static bool has_server(const Nbd *n)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/sys/block/%s/pid", base_name(n));
        return access(path, F_OK) == 0;
}

/* Whether qemu-nbd has ended; it is reaped then. */
static bool has_ended(Nbd *n)
{
        if (n->pid <= 0)
                return true;
        pid_t pid = waitpid(n->pid, NULL, WNOHANG);
        if (pid == 0 || (pid < 0 && errno == EINTR))
                return false;
        n->pid = 0;
        return true;
}

static bool wait_ended(Nbd *n, uint64_t timeout_usec)
{
        uint64_t deadline = fs_now_usec() + timeout_usec;

        while (!has_ended(n)) {
                if (fs_now_usec() >= deadline)
                        return false;
                (void)usleep(STEP_USEC);
        }
        return true;
}

/* Partitions that the kernel has not looked for by itself, and the nodes that udev is still making. */
static void settle(const Nbd *n)
{
        static const char *const argv[] = { "udevadm", "settle", "--timeout=10", NULL };
        Target ignored = {};
        _cleanup_close_ int fd = open(n->device, O_RDONLY | O_CLOEXEC);

        if (access("/run/udev/control", F_OK) == 0)
                (void)command_run(&ignored, argv, NULL);
        if (fd >= 0 && nbd_partitions(n, NULL, 0) == 0)
                (void)ioctl(fd, BLKRRPART);
        if (access("/run/udev/control", F_OK) == 0)
                (void)command_run(&ignored, argv, NULL);
}

static int serve(Nbd *n, Target *t, const Disk *d, bool read_only)
{
        char connect[48], format[64], complaint[256];
        /* Verbose: or it would leave for the background, and for others to end. */
        const char *argv[] = {
                "qemu-nbd", "--verbose", connect, format, read_only ? "--read-only" : "--discard=unmap",
                "--",       d->path,     NULL
        };
        uint64_t deadline = fs_now_usec() + CONNECT_USEC;

        (void)snprintf(connect, sizeof(connect), "--connect=%s", n->device);
        (void)snprintf(format, sizeof(format), "--format=%s", d->format);
        int r = command_start(t, argv, &n->pid, &n->complaints);
        if (r < 0)
                return r;
        while (size_of(n) <= 0 || !has_server(n)) {
                if (has_ended(n)) {
                        command_complaint(n->complaints, complaint, sizeof(complaint));
                        n->complaints = fd_close(n->complaints);
                        return target_fail(t, -EIO, "%s", complaint);
                }
                if (fs_now_usec() >= deadline)
                        return target_fail(t, -ETIMEDOUT, "qemu-nbd does not connect %s", n->device);
                (void)usleep(STEP_USEC);
        }
        return 0;
}

static int load_module(Target *t)
{
        static const char *const argv[] = { "modprobe", "nbd", "max_part=16", NULL };
        char why[sizeof(t->why)];

        if (access("/sys/block/nbd0", F_OK) == 0)
                return 0;
        int r = command_run(t, argv, NULL);
        if (r == 0 && access("/sys/block/nbd0", F_OK) == 0)
                return 0;
        memcpy(why, t->why, sizeof(why));
        return target_fail(t, -ENODEV, "this host's kernel has no nbd device (%.200s)",
                           r < 0 ? why : "modprobe nbd brought none");
}

int nbd_connect(Nbd *n, Target *t, const Disk *d, bool read_only)
{
        int r = load_module(t);

        if (r < 0)
                return r;
        r = target_fail(t, -EBUSY, "all nbd devices of this host are in use");
        for (unsigned i = 0; i < DEVICES_MAX; i++) {
                (void)snprintf(n->device, sizeof(n->device), "/dev/nbd%u", i);
                if (size_of(n) != 0 || has_server(n))
                        continue;
                r = serve(n, t, d, read_only);
                if (r == 0) {
                        settle(n);
                        return 0;
                }
                /* Somebody else was quicker; anything else fails on the next device, too. */
                if (n->pid > 0 || size_of(n) <= 0)
                        return r;
        }
        n->device[0] = '\0';
        return r;
}

int nbd_disconnect(Nbd *n, Target *t)
{
        uint64_t deadline = fs_now_usec() + DISCONNECT_USEC;
        int r = 0;

        if (!n->device[0])
                return 0;
        int fd = open(n->device, O_RDWR | O_CLOEXEC);
        if (fd < 0)
                fd = open(n->device, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && n->pid > 0) {
                if (fsync(fd) < 0)
                        r = target_fail(t, -errno, "%s: %s", n->device, strerror(errno));
                (void)ioctl(fd, NBD_DISCONNECT);
        }
        (void)fd_close(fd);
        if (!wait_ended(n, DISCONNECT_USEC)) {
                (void)kill(n->pid, SIGTERM);
                if (!wait_ended(n, TERMINATE_USEC)) {
                        (void)kill(n->pid, SIGKILL);
                        (void)wait_ended(n, TERMINATE_USEC);
                }
                r = target_fail(t, -ETIMEDOUT, "qemu-nbd did not let go of %s and was ended", n->device);
        }
        while (size_of(n) > 0 || has_server(n)) {
                if (fs_now_usec() >= deadline) {
                        r = target_fail(t, -EBUSY, "%s is still connected: something has it open",
                                        n->device);
                        break;
                }
                (void)usleep(STEP_USEC);
        }
        n->complaints = fd_close(n->complaints);
        n->device[0] = '\0';
        return r;
}

static int compare(const void *a, const void *b)
{
        unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

        return x < y ? -1 : x > y;
}

unsigned nbd_partitions(const Nbd *n, unsigned *ret, unsigned max)
{
        char path[64];
        unsigned count = 0;
        size_t prefix = strlen(base_name(n));

        (void)snprintf(path, sizeof(path), "/sys/block/%s", base_name(n));
        DIR *directory = opendir(path);
        for (struct dirent *e; directory && (e = readdir(directory));) {
                const char *name = e->d_name;
                if (!str_has_prefix(name, base_name(n)) || name[prefix] != 'p')
                        continue;
                if (count < max)
                        ret[count] = (unsigned)strtoul(name + prefix + 1, NULL, 10);
                count++;
        }
        if (directory)
                (void)closedir(directory);
        if (ret)
                qsort(ret, MIN(count, max), sizeof(*ret), compare);
        return ret ? MIN(count, max) : count;
}
