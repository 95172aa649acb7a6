/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pair, a scratch directory and a comparison of trees for the tests of src/files.
 */

#include "pair.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/base.h"
#include "proto/entry.h"

const SenderConfig PAIR_SENDER = { .fd = -1, .expect_size = SIZE_UNKNOWN };
const ReceiverConfig PAIR_RECEIVER = {
        .fd = -1, .transfer_id = "c0ffee", .n_bytes = SIZE_UNKNOWN, .mode = UINT32_MAX
};

#define QUEUE 65536u

typedef struct Queue {
        uint8_t data[QUEUE];
        size_t n;
} Queue;

static size_t piece(Pair *p, size_t n)
{
        size_t max = MIN(p->n_max, n);

        return max <= 1 ? max : 1 + (size_t)rand_r(&p->seed) % max;
}

static void consume(Queue *q, size_t n)
{
        memmove(q->data, q->data + n, q->n - n);
        q->n -= n;
}

void pair_run(Pair *p, const SenderConfig *sc, const ReceiverConfig *rc)
{
        static Queue forth, back;
        ReceiverConfig config = *rc;
        SenderSource source;
        bool sender_ended = false, receiver_ended = false;
        int idle = 0;

        forth.n = back.n = 0;
        if (p->n_max == 0)
                p->n_max = SIZE_MAX;
        p->error = sender_new(sc, &p->sender, &p->text);
        if (p->error != WIRE_OK)
                return;
        while (sender_scan(p->sender, &source) > 0)
                ;
        config.is_tree = source.is_tree;
        config.n_bytes = source.n_bytes;
        if (!config.name)
                config.name = source.name;
        p->error = receiver_new(&config, &p->receiver, &p->text);
        if (p->error != WIRE_OK)
                return;

        while (!receiver_ended || !sender_ended || forth.n > 0 || back.n > 0) {
                bool moved = false;
                ssize_t k;

                if (!sender_ended && QUEUE - forth.n >= 4096) {
                        k = sender_fill(p->sender, forth.data + forth.n, QUEUE - forth.n);
                        if (k == -ENODATA)
                                sender_ended = moved = true;
                        else if (k > 0) {
                                forth.n += (size_t)k;
                                p->n_forth += (uint64_t)k;
                                moved = true;
                        }
                }
                if (p->n_forth >= p->cut_after)
                        return;
                if (forth.n > 0) {
                        size_t n = piece(p, forth.n);

                        k = receiver_feed(p->receiver, forth.data, n, &p->why);
                        if (k < 0)
                                break;
                        consume(&forth, (size_t)k);
                        moved |= k > 0;
                }
                if (!receiver_ended && QUEUE - back.n > 64) {
                        k = receiver_fill(p->receiver, back.data + back.n, QUEUE - back.n);
                        if (k == -ENODATA)
                                receiver_ended = moved = true;
                        else if (k > 0) {
                                back.n += (size_t)k;
                                p->n_back += (uint64_t)k;
                                moved = true;
                        }
                }
                if (back.n > 0) {
                        size_t n = piece(p, back.n);

                        if (sender_feed(p->sender, back.data, n, &p->why) < 0)
                                break;
                        consume(&back, n);
                        moved = true;
                }
                if (!moved) {
                        struct pollfd fds[2] = { { .fd = sender_fd(p->sender), .events = POLLIN },
                                                 { .fd = receiver_fd(p->receiver), .events = POLLOUT } };

                        if ((fds[0].fd < 0 && fds[1].fd < 0) || ++idle > 500) {
                                p->is_stuck = true;
                                break;
                        }
                        (void)poll(fds, 2, 20);
                }
        }
        p->sent = *sender_progress(p->sender);
        p->received = *receiver_progress(p->receiver);
        (void)snprintf(p->sent_text, sizeof p->sent_text, "%s", p->sent.text);
        (void)snprintf(p->sent_path, sizeof p->sent_path, "%s", p->sent.path);
}

void pair_done(Pair *p)
{
        p->sender = sender_free(p->sender);
        if (p->receiver && p->received.done)
                receiver_give_up(p->receiver);
        p->receiver = receiver_free(p->receiver);
        free(p->text);
        p->text = NULL;
}

static char scratch[256];

const char *scratch_new(void)
{
        const char *tmp = getenv("TMPDIR");

        (void)snprintf(scratch, sizeof scratch, "%s/vmferry-test-XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(scratch))
                abort();
        return scratch;
}

void scratch_done(void)
{
        (void)shell("chmod -R u+rwX '%s' 2>/dev/null; rm -rf '%s'", scratch, scratch);
}

const char *scratch_path(const char *format, ...)
{
        static char paths[8][1024];
        static unsigned at;
        char *path = paths[at++ % 8];
        size_t n = strlen(scratch);
        va_list ap;

        memcpy(path, scratch, n);
        path[n++] = '/';
        va_start(ap, format);
        (void)vsnprintf(path + n, 1024 - n, format, ap);
        va_end(ap);
        return path;
}

int shell(const char *format, ...)
{
        _cleanup_free_ char *command = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&command, format, ap);
        va_end(ap);
        if (r < 0)
                return -1;
        r = system(command);
        return WIFEXITED(r) ? WEXITSTATUS(r) : -1;
}

void scratch_write(const char *path, const void *data, size_t n)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        if (fd < 0 || write(fd, data, n) != (ssize_t)n)
                abort();
        (void)close(fd);
}

void scratch_fill(const char *path, size_t n, unsigned seed)
{
        uint32_t *data = malloc(n + 4);
        uint32_t x = seed * 2654435761u + 1;

        if (!data)
                abort();
        for (size_t i = 0; i < n / 4 + 1; i++) {
                x ^= x << 13, x ^= x >> 17, x ^= x << 5;
                data[i] = x;
        }
        scratch_write(path, data, n);
        free(data);
}

static int differ(const char *path, const char *what)
{
        (void)fprintf(stderr, "%s: %s differs\n", path, what);
        return 1;
}

static int contents_differ(const char *a, const char *b)
{
        int fa = open(a, O_RDONLY | O_CLOEXEC), fb = open(b, O_RDONLY | O_CLOEXEC), r = 0;

        if (fa < 0 || fb < 0)
                r = 1;
        while (r == 0) {
                static uint8_t ba[65536], bb[65536];
                ssize_t na = read(fa, ba, sizeof ba), nb = read(fb, bb, sizeof bb);

                if (na != nb || na < 0 || memcmp(ba, bb, (size_t)na) != 0)
                        r = 1;
                if (na <= 0)
                        break;
        }
        (void)close(fa);
        (void)close(fb);
        return r;
}

static int names(const char *path, struct dirent ***ret)
{
        return scandir(path, ret, NULL, alphasort);
}

int trees_differ(const char *a, const char *b)
{
        struct dirent **da = NULL, **db = NULL;
        struct stat sa, sb;
        int na, nb, r = 0;

        if (lstat(a, &sa) < 0 || lstat(b, &sb) < 0)
                return differ(a, "existence");
        if (sa.st_mode != sb.st_mode)
                return differ(b, "mode");
        if (sa.st_mtim.tv_sec != sb.st_mtim.tv_sec || sa.st_mtim.tv_nsec != sb.st_mtim.tv_nsec)
                return differ(b, "mtime");
        if (S_ISLNK(sa.st_mode)) {
                char ta[4096] = "", tb[4096] = "";

                if (readlink(a, ta, sizeof ta - 1) < 0 || readlink(b, tb, sizeof tb - 1) < 0 ||
                    !str_eq(ta, tb))
                        return differ(b, "target");
                return 0;
        }
        if (S_ISREG(sa.st_mode)) {
                if (sa.st_nlink != sb.st_nlink)
                        return differ(b, "link count");
                return contents_differ(a, b) ? differ(b, "content") : 0;
        }
        if (!S_ISDIR(sa.st_mode))
                return 0;
        na = names(a, &da);
        nb = names(b, &db);
        if (na != nb)
                r = differ(b, "number of entries");
        for (int i = 0; i < na; i++) {
                if (r == 0 && !str_eq(da[i]->d_name, db[i]->d_name))
                        r = differ(b, "an entry's name");
                if (r == 0 && !str_eq(da[i]->d_name, ".") && !str_eq(da[i]->d_name, "..")) {
                        _cleanup_free_ char *pa = NULL, *pb = NULL;

                        if (asprintf(&pa, "%s/%s", a, da[i]->d_name) < 0 ||
                            asprintf(&pb, "%s/%s", b, db[i]->d_name) < 0)
                                abort();
                        r = trees_differ(pa, pb);
                }
        }
        for (int i = 0; i < na; i++)
                free(da[i]);
        for (int i = 0; i < nb; i++)
                free(db[i]);
        free(da);
        free(db);
        return r;
}

int n_temporaries(const char *dir)
{
        _cleanup_free_ char *command = NULL;
        char line[64] = "0";
        FILE *f;

        if (asprintf(&command, "find '%s' -name '.vmferry-*.part' | wc -l", dir) < 0)
                abort();
        f = popen(command, "r");
        if (!f || !fgets(line, sizeof line, f))
                abort();
        (void)pclose(f);
        return atoi(line);
}
