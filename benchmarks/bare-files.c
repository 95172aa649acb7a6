/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What many small files cost where they are made, without any transfer: run in the guest, it makes N files
 * of 1 KiB, a hundred to a directory, and prints seconds: under a temporary name and renamed, as a transfer
 * must; under their own names; and empty under their own names. The directory is left full.
 *
 *   bare-files DIRECTORY N
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PER_DIRECTORY 100u

typedef enum Way { NAMED_LATER, NAMED_AT_ONCE, EMPTY, N_WAYS } Way;

static void die(const char *what)
{
        perror(what);
        exit(1);
}

static double now(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int enter(int parent, const char *name)
{
        int fd;

        if (mkdirat(parent, name, 0755) < 0)
                die(name);
        fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                die(name);
        return fd;
}

static void make(int dir, Way way, const char *name)
{
        static const char content[1024];
        const char *made = way == NAMED_LATER ? ".temporary" : name;
        int fd = openat(dir, made, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

        if (fd < 0)
                die(name);
        if (way != EMPTY && pwrite(fd, content, sizeof(content), 0) != (ssize_t)sizeof(content))
                die(name);
        close(fd);
        if (way == NAMED_LATER && renameat(dir, made, dir, name) < 0)
                die(name);
}

int main(int argc, char **argv)
{
        static const char *const names[N_WAYS] = { "renamed", "direct", "empty" };
        unsigned n;
        int top;

        if (argc != 3) {
                fprintf(stderr, "usage: bare-files DIRECTORY N\n");
                return 2;
        }
        n = (unsigned)strtoul(argv[2], NULL, 10);
        top = enter(AT_FDCWD, argv[1]);
        for (Way way = 0; way < N_WAYS; way++) {
                double start = now();
                int dir = -1, base = enter(top, names[way]);

                for (unsigned i = 0; i < n; i++) {
                        char name[32];

                        (void)snprintf(name, sizeof(name), "%u", i);
                        if (i % PER_DIRECTORY == 0) {
                                if (dir >= 0)
                                        close(dir);
                                dir = enter(base, name);
                        }
                        make(dir, way, name);
                }
                printf("%s %.6f\n", names[way], now() - start);
                if (dir >= 0)
                        close(dir);
                close(base);
        }
        return 0;
}
