/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A receiver with a real directory behind it: whatever a sender says, nothing beside the destination is
 * touched, and no temporary stays. The first byte says how the receiver is configured, the second in what
 * pieces it is fed.
 */

#include "fuzz.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "files/receiver.h"
#include "proto/entry.h"

static unsigned n_temporaries;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        n_temporaries += receiver_is_temporary(path + ftw->base, NULL);
        return remove(path) < 0 ? -1 : 0;
}

static int open_up(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return type == FTW_D || type == FTW_DNR ? chmod(path, 0700) : 0;
}

static void prepare(const char *dir)
{
        char path[128];
        int fd;

        if (mkdir(dir, 0700) < 0)
                abort();
        (void)snprintf(path, sizeof path, "%s/precious", dir);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
                abort();
        (void)close(fd);
        (void)snprintf(path, sizeof path, "%s/dst", dir);
        if (mkdir(path, 0700) < 0)
                abort();
        (void)snprintf(path, sizeof path, "%s/dst/up", dir);
        if (symlink("..", path) < 0)
                abort();
}

static void check(const char *dir)
{
        struct stat st;
        char path[128];

        (void)snprintf(path, sizeof path, "%s/precious", dir);
        if (lstat(path, &st) < 0 || st.st_size != 0 || !S_ISREG(st.st_mode) ||
            (st.st_mode & 07777) != 0600 || st.st_nlink != 1)
                abort();
        if (lstat(dir, &st) < 0 || st.st_nlink != 3 || (st.st_mode & 07777) != 0700)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        static unsigned serial;
        const char *why = NULL;
        char dir[64], path[80], *text = NULL;
        ReceiverConfig config = {
                .fd = -1, .transfer_id = "abc", .n_bytes = SIZE_UNKNOWN, .mode = UINT32_MAX
        };
        Receiver *r = NULL;
        size_t piece;

        if (n < 2)
                return 0;
        (void)snprintf(dir, sizeof dir, "/dev/shm/vmferry-fuzz-%d-%u", (int)getpid(), serial++);
        (void)snprintf(path, sizeof path, "%s/dst", dir);
        prepare(dir);
        config.path = path;
        config.name = "name";
        config.is_tree = data[0] & 1;
        config.resume = data[0] & 2;
        config.keep_partial = data[0] & 4;
        config.preserve = data[0] & 8;
        config.overwrite = (ReceiverOverwrite)((data[0] >> 4) % 3);
        piece = data[1] * 16u + 1;
        data += 2, n -= 2;
        if (receiver_new(&config, &r, &text) != WIRE_OK)
                abort();
        for (unsigned stalled = 0; n > 0 && stalled < 4;) {
                ssize_t k = receiver_feed(r, data, MIN(piece, n), &why);
                uint8_t out[4096];

                if (k < 0) {
                        if (!why || receiver_progress(r)->error == WIRE_OK)
                                abort();
                        break;
                }
                stalled = k > 0 ? 0 : stalled + 1;
                data += k, n -= (size_t)k;
                if (receiver_fill(r, out, sizeof out) > (ssize_t)sizeof out)
                        abort();
        }
        receiver_give_up(r);
        (void)receiver_free(r);
        check(dir);
        n_temporaries = 0;
        (void)nftw(dir, open_up, 16, FTW_PHYS);
        if (nftw(dir, remove_one, 16, FTW_PHYS | FTW_DEPTH) < 0 || n_temporaries > 0)
                abort();
        return 0;
}
