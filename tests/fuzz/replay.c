/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Runs a harness over the files of the directories given: the corpus as an ordinary test. Each file is also
 * cut at a few places and spoilt in a few.
 */

#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/base.h"

#define INPUT_MAX ((size_t)1024 * 1024)

static void run(const uint8_t *data, size_t n)
{
        /* a block of its own size, so that reading past its end is seen */
        uint8_t *copy = calloc(1, n > 0 ? n : 1);

        if (!copy)
                abort();
        if (n > 0)
                memcpy(copy, data, n);
        (void)LLVMFuzzerTestOneInput(copy, n);
        free(copy);
}

static void replay(uint8_t *data, size_t n)
{
        run(data, n);
        for (size_t i = 1; i < 4; i++)
                run(data, n * i / 4);
        for (size_t i = 0; i < 4 && n > 0; i++) {
                size_t at = i * 2654435761u % n;
                uint8_t byte = data[at];

                data[at] = (uint8_t)(byte ^ (1u << i % 8));
                run(data, n);
                data[at] = byte;
        }
}

static int replay_file(int dir_fd, const char *name, uint8_t *data)
{
        int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = read(fd, data, INPUT_MAX);
        (void)close(fd);
        if (n < 0)
                return -EIO;
        replay(data, (size_t)n);
        return 0;
}

int main(int argc, char **argv)
{
        _cleanup_free_ uint8_t *data = calloc(1, INPUT_MAX);
        unsigned n_files = 0;

        if (!data)
                return EXIT_FAILURE;
        run(data, 0);
        for (int i = 1; i < argc; i++) {
                DIR *d = opendir(argv[i]);
                struct dirent *de;

                if (!d) {
                        fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
                        return EXIT_FAILURE;
                }
                while ((de = readdir(d))) {
                        if (de->d_name[0] == '.')
                                continue;
                        if (replay_file(dirfd(d), de->d_name, data) < 0) {
                                fprintf(stderr, "%s/%s can't be read\n", argv[i], de->d_name);
                                return EXIT_FAILURE;
                        }
                        n_files++;
                }
                (void)closedir(d);
        }
        printf("%u files\n", n_files);
        return n_files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
