/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A sender with a small tree, and a receiver that says what the input says. Whatever that is, what the
 * sender yields is records that our own parser takes, and it comes to an end.
 *
 * First byte: bit 0 offers, bit 1 with owners, bit 2 a single file; second: in what pieces it is fed.
 */

#include "fuzz.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/fs.h"
#include "files/sender.h"
#include "proto/entry.h"

#define FILES 12u
#define OUTPUT_MAX (8u * 1024 * 1024)

static char root[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static void clean(void)
{
        (void)nftw(root, remove_one, 16, FTW_PHYS | FTW_DEPTH);
}

static void prepare(void)
{
        static char content[300000];
        char path[128], other[128];

        memset(content, 'v', sizeof(content));
        (void)snprintf(root, sizeof(root), "/dev/shm/vmferry-fuzz-source-%d", (int)getpid());
        (void)snprintf(path, sizeof(path), "%s/sub", root);
        if (mkdir(root, 0755) < 0 || mkdir(path, 0755) < 0)
                abort();
        (void)atexit(clean);
        for (unsigned i = 0; i < FILES; i++) {
                _cleanup_close_ int fd = -EBADF;

                (void)snprintf(path, sizeof(path), "%s/%sf%u", root, i % 2 ? "sub/" : "", i);
                fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
                if (fd < 0 || fs_write_all(fd, content, i == 0 ? sizeof(content) : 100 * i) < 0)
                        abort();
        }
        (void)snprintf(other, sizeof(other), "%s/sub/linked", root);
        (void)snprintf(path, sizeof(path), "%s/f2", root);
        if (link(path, other) < 0)
                abort();
        (void)snprintf(path, sizeof(path), "%s/symbolic", root);
        if (symlink("f2", path) < 0)
                abort();
}

/* All that the sender has to say at present; whether that was END. */
static bool listen_to(Sender *s, RecordParser *p, size_t *n_output)
{
        uint8_t out[8192], *at;
        bool has_ended = false;
        ssize_t r;

        while ((r = sender_fill(s, out, sizeof(out))) > 0) {
                size_t n = (size_t)r, taken;
                const char *why;
                Record record;
                int k;

                at = out;
                while (n > 0) {
                        k = record_parser_next(p, at, n, &taken, &record, &why);
                        if (k < 0)
                                abort();
                        at += taken, n -= taken;
                        has_ended |= k > 0 && record.type == RECORD_END;
                }
                if ((*n_output += (size_t)r) > OUTPUT_MAX)
                        abort();
        }
        if (r < 0 && r != -ENODATA)
                abort();
        return has_ended;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        SenderConfig config = { .fd = -1, .expect_size = SIZE_UNKNOWN };
        _cleanup_free_ char *text = NULL;
        size_t piece, n_output = 0;
        bool has_ended;
        SenderSource source;
        RecordParser *p;
        char path[128];
        Sender *s;

        if (!*root)
                prepare();
        if (n < 2)
                return 0;
        config.negotiate = data[0] & 1;
        config.preserve = data[0] & 2;
        (void)snprintf(path, sizeof(path), "%s%s", root, data[0] & 4 ? "/f0" : "");
        config.path = path;
        piece = data[1] + 1u;
        data += 2, n -= 2;
        if (sender_new(&config, &s, &text) != WIRE_OK)
                abort();
        p = record_parser_new();
        while (sender_scan(s, &source) > 0)
                ;
        has_ended = listen_to(s, p, &n_output);
        while (n > 0) {
                size_t m = MIN(piece, n);
                const char *why = NULL;

                if (sender_feed(s, data, m, &why) < 0) {
                        if (!why)
                                abort();
                        break;
                }
                data += m, n -= m;
                has_ended |= listen_to(s, p, &n_output);
        }
        if (sender_progress(s)->done && sender_progress(s)->error == WIRE_OK && !has_ended)
                abort(); /* it believes that the receiver has what was never sent */
        (void)record_parser_free(p);
        (void)sender_free(s);
        return 0;
}
