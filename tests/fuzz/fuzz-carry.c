/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A host that asks guestd for a push or a pull, with whatever parameters, and then says whatever it likes:
 * JSON of OPEN, a NUL, bytes of the stream. "/r" at the start of its path stands for the directory that the
 * policy allows; what is beside it stays as it was. Never with root's rights.
 */

#include "fuzz.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "base/fs.h"
#include "guestd/carry-transfer.h"
#include "proto/message.h"

#define TURNS_MAX 200u

static char base[64], allowed[80];
static unsigned n_audits;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static int open_up(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return type == FTW_D || type == FTW_DNR ? chmod(path, 0700) : 0;
}

static void clean(void)
{
        (void)nftw(base, open_up, 16, FTW_PHYS);
        (void)nftw(base, remove_one, 16, FTW_PHYS | FTW_DEPTH);
}

static void put_file(const char *where, const char *name)
{
        char path[128];
        _cleanup_close_ int fd = -EBADF;

        (void)snprintf(path, sizeof(path), "%s/%s", where, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || fs_write_all(fd, "hello\n", 6) < 0)
                abort();
}

static void prepare(void)
{
        if (getuid() == 0 && (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
                abort();
        (void)snprintf(base, sizeof(base), "/dev/shm/vmferry-fuzz-carry-%d", (int)getpid());
        (void)snprintf(allowed, sizeof(allowed), "%s/r", base);
        (void)atexit(clean);
}

/* Whoever got out of /r would change one of these. */
static void check(void)
{
        struct stat st;
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/precious", base);
        if (lstat(path, &st) < 0 || st.st_size != 6 || !S_ISREG(st.st_mode) || st.st_nlink != 1)
                abort();
        if (lstat(base, &st) < 0 || st.st_nlink != 3)
                abort();
}

static void on_audit(void *userdata, const char *verb, const char *id, const char *result,
                     const char *details)
{
        if (!verb || !id || !result || !details)
                abort();
        n_audits++;
}

static void path_translate(json_object *o)
{
        const char *path = message_str(o, "path", "");
        char text[4300];

        if (strncmp(path, "/r", 2) != 0 || strlen(path) > 4200)
                return;
        (void)snprintf(text, sizeof(text), "%s%s", base, path);
        json_object_object_add(o, "path", json_object_new_string(text));
}

static void carry(const EndpointOps *ops, void *stream, const uint8_t *data, size_t n)
{
        static uint8_t out[FRAME_BODY_MAX];
        const char *text = NULL;
        WireError error = WIRE_OK;
        bool is_over = false;
        ssize_t r = 0;

        for (unsigned i = 0; i < TURNS_MAX && !is_over; i++) {
                r = ops->fill(stream, out, sizeof(out), &error, &text);
                if (r > (ssize_t)sizeof(out))
                        abort();
                is_over = r < 0 && r != -EAGAIN;
                if (n == 0 && r <= 0)
                        break;
                r = n > 0 ? ops->drain(stream, data, MIN(n, 1000u), &error, &text) : 0;
                if (r < 0)
                        break;
                data += r, n -= (size_t)r;
                if (n == 0 && r > 0)
                        ops->end(stream);
        }
        ops->closed(stream, error, "the fuzzer has enough", true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        const uint8_t *end = memchr(data, 0, n);
        size_t n_text = end ? (size_t)(end - data) : n;
        char *roots[] = { allowed, NULL };
        _cleanup_free_ char *text = NULL;
        const EndpointOps *ops = NULL;
        json_object *reply = NULL;
        void *stream = NULL;
        Policy policy;
        WireError e;
        Message m;

        if (!*base)
                prepare();
        if (message_parse(data, n_text, &m) < 0)
                return 0;
        if (mkdir(base, 0700) < 0 || mkdir(allowed, 0700) < 0)
                abort();
        put_file(base, "precious");
        put_file(allowed, "file");
        policy_init(&policy);
        policy.write_roots = policy.read_roots = roots;
        path_translate(m.json);
        n_audits = 0;
        e = (str_eq(message_str(m.json, "kind", ""), "pull") ? carry_pull_new : carry_push_new)(
                &policy, m.json, on_audit, NULL, &ops, &stream, &reply, &text);
        if (e == WIRE_OK)
                carry(ops, stream, end ? end + 1 : data + n, end ? n - n_text - 1 : 0);
        else if (!text || !*text)
                abort();
        if (n_audits != 1) /* every one leaves its line, once */
                abort();
        json_object_put(reply);
        message_done(&m);
        check();
        clean();
        return 0;
}
