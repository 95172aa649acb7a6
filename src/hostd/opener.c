/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The child outlives its Opener for a moment, so the two are apart: Child is known to the loop alone, until
 * the process is reaped. Kernel promise used: a SOCK_SEQPACKET socket keeps packets whole and reads end of
 * file when its peer dies.
 */

#include "hostd/opener.h"

#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#define WORKER_FD_FIRST 3
#define WORKER_N_FDS 4
#define PACKET_MAX 65536u
#define PIPE_BYTES (1024 * 1024)

extern char **environ;

typedef struct Child {
        pid_t pid;
        LoopTimer *kill_timer;
} Child;

struct Opener {
        int socket;
        LoopWatch *watch;
        Child *child; /* NULL: reaped */
        const OpenerOps *ops;
        void *userdata;
};

static GHashTable *children; /* pid → Child*: those that run */
static GHashTable *openers;  /* Child* → Opener*: who still wants to know */

unsigned opener_n_running(void)
{
        return children ? g_hash_table_size(children) : 0;
}

static void child_free(void *p)
{
        Child *c = p;
        c->kill_timer = loop_timer_free(c->kill_timer);
        g_free(c);
}

static void on_child_exit(GPid pid, int status, void *userdata)
{
        Child *c = userdata;
        Opener *o = g_hash_table_lookup(openers, c);

        if (WIFSIGNALED(status))
                log_warning("vmferry-worker[%d] was ended by signal %d", (int)pid, WTERMSIG(status));
        if (o) /* its last packets may still lie in the socket: that tells of the end */
                o->child = NULL;
        g_hash_table_remove(openers, c);
        g_hash_table_remove(children, GINT_TO_POINTER(pid));
        g_spawn_close_pid(pid);
}

static void on_overdue(void *userdata)
{
        Child *c = userdata;

        log_warning("vmferry-worker[%d] does not end, killing it", (int)c->pid);
        (void)kill(c->pid, SIGKILL); /* reaped by on_child_exit alone, so the pid is still its own */
}

static void ended(Opener *o)
{
        o->watch = loop_watch_free(o->watch);
        o->socket = fd_close(o->socket);
        o->ops->ended(o->userdata);
}

static void on_socket(void *userdata, uint32_t events)
{
        static char packet[PACKET_MAX];
        Opener *o = userdata;
        ssize_t n = recv(o->socket, packet, sizeof packet, MSG_DONTWAIT | MSG_TRUNC);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0 || (size_t)n > sizeof packet) {
                ended(o);
                return;
        }
        struct json_tokener *t = json_tokener_new();
        json_object *json = t ? json_tokener_parse_ex(t, packet, (int)n) : NULL;
        if (t)
                json_tokener_free(t);
        if (!json_object_is_type(json, json_type_object)) {
                log_warning("vmferry-worker sent no JSON object, giving it up");
                json_object_put(json);
                ended(o);
                return;
        }
        o->ops->packet(o->userdata, json); /* may free o */
        json_object_put(json);
}

static int spawn(const int fds[WORKER_N_FDS], pid_t *ret)
{
        const char *path = getenv("VMFERRY_WORKER"), *file = path ? path : WORKER_PATH;
        char *const argv[] = { (char *)"vmferry-worker", NULL };
        int high[WORKER_N_FDS] = { -EBADF, -EBADF, -EBADF, -EBADF }, r = 0;
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attr;
        sigset_t none, all;

        if (posix_spawn_file_actions_init(&actions) != 0)
                return -ENOMEM;
        if (posix_spawnattr_init(&attr) != 0) {
                posix_spawn_file_actions_destroy(&actions);
                return -ENOMEM;
        }
        /* Above the targets first: none may be closed by another's dup2. */
        for (int i = 0; r == 0 && i < WORKER_N_FDS; i++) {
                if (fds[i] < 0)
                        continue;
                high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, WORKER_FD_FIRST + WORKER_N_FDS);
                r = high[i] < 0 ? errno
                                : posix_spawn_file_actions_adddup2(&actions, high[i], WORKER_FD_FIRST + i);
        }
        if (r == 0) {
                sigemptyset(&none);
                sigfillset(&all);
                posix_spawnattr_setsigmask(&attr, &none);
                posix_spawnattr_setsigdefault(&attr, &all);
                posix_spawnattr_setpgroup(&attr, 0);
                posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                        POSIX_SPAWN_SETPGROUP);
                r = posix_spawn(ret, file, &actions, &attr, argv, environ);
        }
        for (int i = 0; i < WORKER_N_FDS; i++)
                fd_close(high[i]);
        posix_spawnattr_destroy(&attr);
        posix_spawn_file_actions_destroy(&actions);
        if (r != 0)
                log_error("Cannot start %s: %s", file, g_strerror(r));
        return -r;
}

int opener_new(int extra_fd, const OpenerOps *ops, void *userdata, Opener **ret, int *ret_in_fd,
               int *ret_out_fd)
{
        int sockets[2], from[2], to[2], r;
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
                return -errno;
        _cleanup_close_ int ours = sockets[0], theirs = sockets[1];
        if (pipe2(from, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int from_read = from[0], from_write = from[1];
        if (pipe2(to, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int to_read = to[0], to_write = to[1];

        /* Fewer wake-ups for the same bytes; a refusal only costs speed. */
        (void)fcntl(from_read, F_SETPIPE_SZ, PIPE_BYTES);
        (void)fcntl(to_read, F_SETPIPE_SZ, PIPE_BYTES);

        if ((r = spawn((const int[]){ theirs, to_read, from_write, extra_fd }, &pid)) < 0)
                return r;

        if (!children) {
                children = g_hash_table_new_full(NULL, NULL, NULL, child_free);
                openers = g_hash_table_new(NULL, NULL);
        }
        Child *c = g_new0(Child, 1);
        Opener *o = g_new0(Opener, 1);
        c->pid = pid;
        g_hash_table_insert(children, GINT_TO_POINTER(pid), c);
        g_hash_table_insert(openers, c, o);
        g_child_watch_add(pid, on_child_exit, c);

        *o = (Opener){ .socket = TAKE_FD(ours), .child = c, .ops = ops, .userdata = userdata };
        o->watch = loop_watch_new(loop_default(), o->socket, EPOLLIN, on_socket, o);
        if (!o->watch) {
                opener_free(o);
                return -ENOMEM;
        }
        *ret = o;
        *ret_in_fd = TAKE_FD(from_read);
        *ret_out_fd = TAKE_FD(to_write);
        return 0;
}

Opener *opener_free(Opener *o)
{
        if (!o)
                return NULL;
        o->watch = loop_watch_free(o->watch);
        o->socket = fd_close(o->socket);
        if (o->child) {
                g_hash_table_remove(openers, o->child);
                o->child->kill_timer = loop_timer_new(loop_default(), on_overdue, o->child);
                if (o->child->kill_timer)
                        loop_timer_set(o->child->kill_timer, fs_now_usec() + OPENER_GRACE_USEC,
                                       USEC_PER_SEC);
        }
        g_free(o);
        return NULL;
}

int opener_send(Opener *o, json_object *json)
{
        size_t n;
        const char *text = json_object_to_json_string_length(json, JSON_C_TO_STRING_PLAIN, &n);
        int r = 0;

        if (o->socket < 0)
                r = -ENOTCONN;
        else if (!text || n > PACKET_MAX)
                r = -EMSGSIZE;
        else if (send(o->socket, text, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                r = -errno;
        json_object_put(json);
        return r;
}

void opener_identify(json_object *json, const Caller *caller)
{
        json_object_object_add(json, "uid", json_object_new_int64(caller->uid));
        json_object_object_add(json, "gid", json_object_new_int64(caller->gid));
        if (geteuid() != 0) /* our own uid, then: no right to change groups, and no need */
                return;
        json_object *groups = json_object_new_array();
        for (size_t i = 0; i < caller->n_groups; i++)
                json_object_array_add(groups, json_object_new_int64(caller->groups[i]));
        json_object_object_add(json, "groups", groups);
}
