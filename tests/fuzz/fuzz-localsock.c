/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The guest's local socket: two programs, one root's and one of another user, and the host behind it.
 *
 * The input is pieces, each ended by byte 1; a piece's first letter says what it is: a, b: a line of that
 * program, A, B: bytes without a line's end, x, y: it hangs up, d and c: "TOPIC payload" of the host as a
 * message and as a call, r: the host answers the last call, f: it refuses it, p: publishing is full, P: and
 * has room again. What a program hears is lines of JSON.
 */

#include "fuzz.h"

#include <stdio.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/fs.h"
#include "guestd/localsock-private.h"
#include "guestd/log.h"
#include "proto/message.h"

#define SEPARATOR 1

static Loop *loop;
static Localsock *sock;
static Policy policy;
static LoopTimer *pause_timer;
static bool is_full;
static uint64_t last_token, n_ids;
static unsigned n_open; /* calls of the host that were not answered yet */

static int on_publish(void *userdata, const char *topic, const void *payload, size_t n, uint64_t *ret_id)
{
        *ret_id = ++n_ids;
        return is_full ? -EAGAIN : n % 7 == 6 ? -ENOBUFS : 0;
}

static WireError on_call(void *userdata, uint64_t token, const char *topic, const void *payload, size_t n,
                         uint64_t timeout_usec)
{
        last_token = token;
        return n % 5 == 4 ? WIRE_NO_HANDLER : WIRE_OK;
}

static void on_called(void *userdata, uint64_t token, WireError error, const char *text, const void *payload,
                      size_t n)
{
        if (n_open-- == 0 || !text)
                abort();
}

static void on_pause(void *userdata)
{
        loop_stop(loop, 0);
}

static void turn(void)
{
        for (int i = 0; i < 2; i++) {
                loop_timer_set(pause_timer, 1);
                (void)loop_run(loop);
        }
}

static void clean(void)
{
        (void)localsock_free(sock);
        (void)loop_timer_free(pause_timer);
        (void)loop_free(loop);
        policy_done(&policy);
}

static void prepare(void)
{
        static const LocalsockOps ops = { on_publish, on_call, on_called };
        static char path[64];
        LocalsockConfig config = { .path = path, .mode = 0600, .policy = &policy };

        log_init("fuzz", true);
        log_set_max_level(LOG_EMERG);
        policy_init(&policy);
        policy.local_topics = calloc(2, sizeof(char *));
        policy.local_topics[0] = strdup("app.*");
        (void)snprintf(path, sizeof(path), "/dev/shm/vmferry-fuzz-%d.sock", (int)getpid());
        if (loop_new(&loop) < 0 || loop_add_timer(loop, on_pause, NULL, &pause_timer) < 0 ||
            localsock_new(loop, &config, &ops, NULL, &sock) < 0)
                abort();
        (void)atexit(clean);
}

static int connect_one(uid_t uid)
{
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0 ||
            local_client_accept(sock, fds[0]) < 0)
                abort();
        sock->clients[sock->n_clients - 1]->uid = uid;
        return fds[1];
}

/* All that guestd has said: whole lines, each an object with text that is UTF-8. */
static void hear(int fd)
{
        static char text[2 * 1024 * 1024];
        size_t n = 0;
        ssize_t r;

        if (fd < 0)
                return;
        while ((r = recv(fd, text + n, sizeof(text) - n, MSG_DONTWAIT)) > 0) {
                n += (size_t)r;
                turn();
        }
        for (char *line = text, *end; n > 0; n -= (size_t)(end + 1 - line), line = end + 1) {
                Message m;

                end = memchr(line, '\n', n);
                if (!end || message_parse((uint8_t *)line, (size_t)(end - line), &m) < 0)
                        abort();
                message_done(&m);
        }
}

static void host(char what, const char *text, size_t n)
{
        _cleanup_free_ char *topic = strndup(text, MIN(n, (size_t)strcspn(text, " ")));
        size_t n_topic = MIN(strlen(topic) + 1, n);

        if (what == 'd')
                (void)localsock_deliver(sock, topic, 7, text + n_topic, n - n_topic);
        else if (localsock_call(sock, ++n_ids, topic, 8, text + n_topic, n - n_topic, 0) == 0)
                n_open++;
}

static void piece(int fds[2], const char *text, size_t n)
{
        char what = *text;
        int who = what == 'b' || what == 'B' || what == 'y';

        switch (what) {
        case 'a':
        case 'b':
        case 'A':
        case 'B':
                if (fds[who] < 0)
                        return;
                (void)send(fds[who], text + 1, n - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (what >= 'a')
                        (void)send(fds[who], "\n", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
                break;
        case 'x':
        case 'y':
                fds[who] = fd_close(fds[who]);
                break;
        case 'd':
        case 'c':
                host(what, text + 1, n - 1);
                break;
        case 'r':
        case 'f':
                localsock_answer(sock, last_token, what == 'r' ? WIRE_OK : WIRE_FAILED, "no", text + 1,
                                 n - 1);
                break;
        case 'p':
        case 'P':
                is_full = what == 'p';
                localsock_resume(sock);
                break;
        }
}

/* The programs hang up; who still has a call under way stays for its answer. */
static void leave(int fds[2])
{
        is_full = false;
        localsock_resume(sock);
        (void)fd_close(fds[0]);
        (void)fd_close(fds[1]);
        turn();
        for (size_t i = sock->n_calls; i-- > 0;)
                if (!sock->calls[i].is_from_host)
                        localsock_answer(sock, sock->calls[i].token, WIRE_OK, "", NULL, 0);
        turn();
        if (localsock_n_clients(sock) > 0 || sock->n_calls > 0 || n_open > 0)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        int fds[2];

        if (!sock)
                prepare();
        fds[0] = connect_one(0);
        fds[1] = connect_one(65534);
        is_full = false;
        while (n > 0) {
                const uint8_t *end = memchr(data, SEPARATOR, n);
                size_t m = end ? (size_t)(end - data) : n;
                _cleanup_free_ char *text = malloc(m + 1);

                memcpy(text, data, m);
                text[m] = 0;
                if (m > 0)
                        piece(fds, text, m);
                turn();
                hear(fds[0]);
                hear(fds[1]);
                n -= MIN(m + 1, n), data += m + (end != NULL);
        }
        leave(fds);
        return 0;
}
