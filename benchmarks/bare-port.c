/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The bare port, for comparison: what a read(2)/write(2) loop over a virtio-serial port reaches between two
 * files, and what an echo of 64 bytes takes. No framing, no digest, no fsync. The guest runs `serve`, the
 * host the others.
 *
 *   bare-port serve DEVICE                    in the guest, for ever
 *   bare-port push SOCKET FILE GUEST-FILE     prints seconds
 *   bare-port pull SOCKET GUEST-FILE FILE
 *   bare-port echo SOCKET COUNT EVERY         prints one round trip a line, in microseconds
 *   bare-port flood SOCKET SECONDS FILE GUEST-FILE      pushes the file, again and again
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "pace.h"

#define BLOCK 32768u /* what one write(2) to the port takes, and what reads best on the host */
#define NAME_SIZE 240u

typedef struct Request { /* host and guest are one machine: no byte order */
        char verb;
        char name[NAME_SIZE];
        uint64_t size;
} Request;

static uint8_t block[BLOCK];

static void die(const char *what)
{
        fprintf(stderr, "bare-port: %s: %s\n", what, strerror(errno));
        exit(1);
}

/* A port without a client reads as empty at once, and polls as hung up: what tells of a client is SIGIO,
 * asked for here alone, so that it costs nothing while there is one. */
static ssize_t port_wait(int fd, void *buf, size_t n)
{
        int flags = fcntl(fd, F_GETFL);
        sigset_t sigio;
        ssize_t l;

        (void)sigemptyset(&sigio);
        (void)sigaddset(&sigio, SIGIO);
        if (sigprocmask(SIG_BLOCK, &sigio, NULL) < 0 || fcntl(fd, F_SETOWN, getpid()) < 0 ||
            fcntl(fd, F_SETFL, flags | O_ASYNC) < 0)
                die("SIGIO");
        while ((l = read(fd, buf, n)) == 0)
                (void)sigtimedwait(&sigio, NULL, &(struct timespec){ .tv_sec = 1 });
        (void)fcntl(fd, F_SETFL, flags);
        return l;
}

static size_t port_read(int fd, void *buf, size_t n)
{
        for (;;) {
                ssize_t l = read(fd, buf, n);

                if (l == 0)
                        l = port_wait(fd, buf, n);
                if (l > 0)
                        return (size_t)l;
                if (errno != EINTR && errno != EAGAIN)
                        die("read");
        }
}

static void read_whole(int fd, void *buf, size_t n)
{
        for (size_t done = 0; done < n;)
                done += port_read(fd, (uint8_t *)buf + done, n - done);
}

static void write_whole(int fd, const void *buf, size_t n)
{
        while (n > 0) {
                ssize_t l = write(fd, buf, n);

                if (l < 0 && errno != EINTR)
                        die("write");
                if (l > 0) {
                        buf = (const uint8_t *)buf + l;
                        n -= (size_t)l;
                }
        }
}

static void port_to_file(int port, int file, uint64_t size)
{
        while (size > 0) {
                size_t n = port_read(port, block, size < BLOCK ? (size_t)size : BLOCK);

                write_whole(file, block, n);
                size -= n;
        }
}

static void file_to_port(int file, int port, uint64_t size)
{
        while (size > 0) {
                ssize_t n = read(file, block, BLOCK);

                if (n <= 0)
                        die("the file is shorter than it was");
                write_whole(port, block, (size_t)n);
                size -= (uint64_t)n;
        }
}

static void serve(const char *device)
{
        int port = open(device, O_RDWR | O_CLOEXEC), file;
        Request q;
        struct stat st;

        if (port < 0)
                die(device);
        for (;;) {
                read_whole(port, &q, sizeof(q));
                q.name[NAME_SIZE - 1] = 0;
                switch (q.verb) {
                case 'w':
                        file = open(q.name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
                        if (file < 0)
                                die(q.name);
                        port_to_file(port, file, q.size);
                        close(file);
                        write_whole(port, "k", 1);
                        break;
                case 'r':
                        file = open(q.name, O_RDONLY | O_CLOEXEC);
                        if (file < 0 || fstat(file, &st) < 0)
                                die(q.name);
                        q.size = (uint64_t)st.st_size;
                        write_whole(port, &q, sizeof(q));
                        file_to_port(file, port, q.size);
                        close(file);
                        break;
                case 'e':
                        for (uint64_t i = 0; i < q.size; i++) {
                                read_whole(port, block, 64);
                                write_whole(port, block, 64);
                        }
                        break;
                default:
                        fprintf(stderr, "bare-port: what is '%c'?\n", q.verb);
                        exit(1);
                }
        }
}

static int dial(const char *path)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
        if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
                die(path);
        return fd;
}

static void request(int fd, char verb, const char *name, uint64_t size)
{
        Request q = { .verb = verb, .size = size };

        (void)snprintf(q.name, sizeof(q.name), "%s", name);
        write_whole(fd, &q, sizeof(q));
}

static void hang_up(int fd)
{
        (void)shutdown(fd, SHUT_WR);
        while (read(fd, block, sizeof(block)) > 0)
                ;
        close(fd);
}

int main(int argc, char **argv)
{
        struct stat st;
        double start;
        int fd, file;
        Request q;

        if (argc == 3 && strcmp(argv[1], "serve") == 0)
                serve(argv[2]);
        if (argc < 4) {
                fprintf(stderr, "usage: bare-port serve DEVICE | push SOCKET FILE GUEST-FILE | pull SOCKET "
                                "GUEST-FILE FILE | "
                                "echo SOCKET COUNT EVERY | flood SOCKET SECONDS FILE GUEST-FILE\n");
                return 2;
        }
        fd = dial(argv[2]);
        start = pace_now();
        if (argc == 5 && strcmp(argv[1], "push") == 0) {
                file = open(argv[3], O_RDONLY | O_CLOEXEC);
                if (file < 0 || fstat(file, &st) < 0)
                        die(argv[3]);
                request(fd, 'w', argv[4], (uint64_t)st.st_size);
                file_to_port(file, fd, (uint64_t)st.st_size);
                read_whole(fd, block, 1);
                printf("%.6f\n", pace_now() - start);
        } else if (argc == 5 && strcmp(argv[1], "pull") == 0) {
                file = open(argv[4], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
                if (file < 0)
                        die(argv[4]);
                request(fd, 'r', argv[3], 0);
                read_whole(fd, &q, sizeof(q));
                port_to_file(fd, file, q.size);
                printf("%.6f\n", pace_now() - start);
        } else if (argc == 5 && strcmp(argv[1], "echo") == 0) {
                uint64_t n = strtoull(argv[3], NULL, 10);
                Pace pace;

                request(fd, 'e', "", n);
                memset(block, 'x', 64);
                pace_init(&pace, argv[4]);
                for (uint64_t i = 0; i < n; i++) {
                        pace_begin(&pace);
                        write_whole(fd, block, 64);
                        read_whole(fd, block, 64);
                        printf("%.1f\n", pace_end(&pace));
                }
        } else if (argc == 6 && strcmp(argv[1], "flood") == 0) {
                double end = start + strtod(argv[3], NULL);

                file = open(argv[4], O_RDONLY | O_CLOEXEC);
                if (file < 0 || fstat(file, &st) < 0)
                        die(argv[4]);
                while (pace_now() < end) {
                        request(fd, 'w', argv[5], (uint64_t)st.st_size);
                        (void)lseek(file, 0, SEEK_SET);
                        file_to_port(file, fd, (uint64_t)st.st_size);
                        read_whole(fd, block, 1);
                }
        } else
                return 2;
        hang_up(fd);
        return 0;
}
