/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A handler has a keeper: a forked child, subreaper of everything below it, which waits for the handler and
 * passes its end on as an exit status. Asked to stop, the keeper ends the tree. A handler may leave daemons
 * behind; when it has ended by itself they are not touched, and only what the handler itself had written
 * counts, not what they write later.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/escape.h"
#include "base/fs.h"
#include "guestd/handlers.h"
#include "guestd/log.h"
#include "guestd/tree.h"
#include "proto/limits.h"
#include "proto/name.h"

#define STDERR_KEPT 512u
#define TEXT_MAX 256u
#define OVERRUN_GRACE_USEC (5 * USEC_PER_SEC) /* to SIGKILL of a keeper that doesn't end its tree */
#define KILL_ROUND_USEC 20000

typedef struct Handler {
        struct Handler *next;
        Handlers *owner;
        uint64_t token;
        HandlerKind kind;
        pid_t keeper;
        int in_fd, out_fd, err_fd;
        LoopFd *in_source, *out_source, *err_source;
        LoopTimer *timer;
        uint8_t *input;
        size_t n_input, n_written;
        uint8_t *output;
        size_t n_output;
        char complaint[STDERR_KEPT];
        size_t n_complaint;
        bool timed_out, too_large;
        char topic[TOPIC_MAX + 1];
} Handler;

struct Handlers {
        Loop *loop;
        const Config *config;
        HandlerDone done;
        void *userdata;
        Handler *running;
        size_t n_running;
        uint64_t n_started;
};

static Handler *handler_free(Handler *x)
{
        if (!x)
                return NULL;
        x->in_source = loop_fd_free(x->in_source);
        x->out_source = loop_fd_free(x->out_source);
        x->err_source = loop_fd_free(x->err_source);
        x->timer = loop_timer_free(x->timer);
        x->in_fd = fd_close(x->in_fd);
        x->out_fd = fd_close(x->out_fd);
        x->err_fd = fd_close(x->err_fd);
        free(x->input);
        free(x->output);
        free(x);
        return NULL;
}
DEFINE_CLEANUP(Handler *, handler_free);

/* The keeper's side. */

static void set_environment(HandlerKind kind, const char *topic, uint64_t id)
{
        char number[24];

        (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)id);
        (void)setenv("VMFERRY_TOPIC", topic, 1);
        (void)setenv("VMFERRY_MESSAGE_ID", number, 1);
        (void)setenv("VMFERRY_KIND", kind == HANDLER_CALL ? "call" : "send", 1);
        (void)setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
        (void)setenv("HOME", "/root", 0);
        (void)unsetenv("NOTIFY_SOCKET");
        (void)unsetenv("LISTEN_FDS");
        (void)unsetenv("LISTEN_PID");
        (void)unsetenv("WATCHDOG_PID");
        (void)unsetenv("WATCHDOG_USEC");
}

static void __attribute__((noreturn)) execute(const char *path, const Tree *tree)
{
        char *argv[] = { (char *)path, NULL };

        sigset_t none;

        tree_enter(tree);
        (void)setsid();
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        IGNORE(chdir("/"));
        (void)execv(path, argv);
        (void)dprintf(STDERR_FILENO, "%s: cannot be executed: %s\n", path, strerror(errno));
        _exit(errno == ENOENT ? 127 : 126);
}

static void end_tree(const Tree *tree)
{
        (void)tree_signal(tree, SIGTERM);
        for (unsigned i = 0; i < 500; i++) {
                (void)usleep(KILL_ROUND_USEC);
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
                        return;
                if (i >= 25)
                        (void)tree_kill(tree);
        }
}

static void __attribute__((noreturn))
keep(const char *path, const char *tree_id, HandlerKind kind, const int fds[3])
{
        sigset_t signals;
        Tree tree;

        for (int i = 0; i < 3; i++)
                if (dup2(fds[i], i) < 0)
                        _exit(126);
        for (int i = 0; i < 3; i++)
                if (fds[i] > STDERR_FILENO)
                        (void)fd_close(fds[i]);
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        if (kind == HANDLER_CALL) /* nobody would take the answer of a call */
                (void)prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
        (void)sigemptyset(&signals);
        (void)sigaddset(&signals, SIGTERM);
        (void)sigaddset(&signals, SIGCHLD);
        (void)sigprocmask(SIG_BLOCK, &signals, NULL);

        tree_init(&tree, tree_id);
        pid_t handler = fork();
        if (handler == 0)
                execute(path, &tree);
        if (handler < 0) {
                (void)dprintf(STDERR_FILENO, "no process for a handler: %s\n", strerror(errno));
                tree_done(&tree);
                _exit(126);
        }
        /* Its pipes must not stay open for as long as the keeper has to clean up. */
        for (int i = 0; i < 3; i++)
                (void)close(i);

        int status = 0;
        for (bool ended = false; !ended;) {
                int signal = 0;
                if (sigwait(&signals, &signal) == 0 && signal == SIGTERM) {
                        end_tree(&tree);
                        status = SIGKILL;
                        break;
                }
                while (!ended) {
                        pid_t pid = waitpid(-1, &status, WNOHANG);
                        if (pid <= 0)
                                break;
                        ended = pid == handler;
                }
        }
        tree_release(&tree);
        tree_done(&tree);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* guestd's side. */

static void unlink_handler(Handler *x)
{
        for (Handler **p = &x->owner->running; *p; p = &(*p)->next)
                if (*p == x) {
                        *p = x->next;
                        x->owner->n_running--;
                        return;
                }
}

static void stop(Handler *x)
{
        (void)kill(x->keeper, SIGTERM);
        loop_timer_set(x->timer, loop_now(x->owner->loop) + OVERRUN_GRACE_USEC + 10 * USEC_PER_SEC);
}

static void read_output(Handler *x)
{
        for (;;) {
                uint8_t surplus;
                size_t room = PAYLOAD_MAX - x->n_output;
                ssize_t n = read(x->out_fd, room ? x->output + x->n_output : &surplus, room ? room : 1);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n > 0 && room) {
                        x->n_output += (size_t)n;
                        continue;
                }
                if (n > 0) {
                        x->too_large = true;
                        stop(x);
                }
                x->out_source = loop_fd_free(x->out_source);
                x->out_fd = fd_close(x->out_fd);
                return;
        }
}

static void read_complaint(Handler *x)
{
        for (unsigned i = 0; i < 16; i++) { /* a flood on stderr takes its turns with the rest */
                char surplus[4096];
                size_t room = sizeof(x->complaint) - x->n_complaint;
                ssize_t n = read(x->err_fd, room ? x->complaint + x->n_complaint : surplus,
                                 room ? room : sizeof(surplus));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        x->err_source = loop_fd_free(x->err_source);
                        x->err_fd = fd_close(x->err_fd);
                        return;
                }
                if (room)
                        x->n_complaint += (size_t)n;
        }
}

static void on_output(void *userdata, int fd, short revents)
{
        read_output(userdata);
}

static void on_complaint(void *userdata, int fd, short revents)
{
        read_complaint(userdata);
}

static void on_input(void *userdata, int fd, short revents)
{
        Handler *x = userdata;

        while (x->n_written < x->n_input) {
                ssize_t n = write(fd, x->input + x->n_written, x->n_input - x->n_written);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n < 0)
                        break; /* it closed its stdin, as it may */
                x->n_written += (size_t)n;
        }
        x->in_source = loop_fd_free(x->in_source);
        x->in_fd = fd_close(x->in_fd);
}

static void on_timeout(void *userdata)
{
        Handler *x = userdata;

        if (x->timed_out || x->too_large) {
                (void)kill(x->keeper, SIGKILL);
                return;
        }
        x->timed_out = true;
        stop(x);
}

static void on_end(void *userdata, pid_t pid, int wait_status)
{
        _cleanup_(handler_freep) Handler *x = userdata;
        Handlers *h = x->owner;
        WireError error = WIRE_OK;
        char text[TEXT_MAX + STDERR_KEPT * 4] = "";

        unlink_handler(x);
        if (x->out_fd >= 0 && !x->too_large)
                read_output(x);
        if (x->err_fd >= 0)
                read_complaint(x);

        int status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
        if (x->too_large) {
                error = WIRE_TOO_LARGE;
                (void)snprintf(text, sizeof(text), "The handler of %s answered with more than %u bytes.",
                               x->topic, PAYLOAD_MAX);
        } else if (x->timed_out) {
                error = WIRE_TIMEOUT;
                (void)snprintf(text, sizeof(text), "The handler of %s took too long and was ended.",
                               x->topic);
        } else if (status != 0) {
                size_t n = 0;
                while (n < x->n_complaint && x->complaint[n] != '\n')
                        n++;
                _cleanup_free_ char *line = escape_text(x->complaint, n, STDERR_KEPT);
                error = WIRE_FAILED;
                (void)snprintf(text, sizeof(text), "The handler of %s failed with status %d%s%s", x->topic,
                               status, n && line ? ": " : ".", n && line ? line : "");
        }
        h->done(h->userdata, x->token, error, text, x->output, error == WIRE_OK ? x->n_output : 0);
}

int handlers_new(Loop *l, const Config *config, HandlerDone done, void *userdata, Handlers **ret)
{
        Handlers *h = calloc(1, sizeof(*h));
        if (!h)
                return -ENOMEM;
        *h = (Handlers){ .loop = l, .config = config, .done = done, .userdata = userdata };
        *ret = h;
        return 0;
}

Handlers *handlers_free(Handlers *h)
{
        if (!h)
                return NULL;
        while (h->running) {
                Handler *x = h->running;
                loop_forget_child(h->loop, x->keeper);
                if (x->kind == HANDLER_CALL)
                        (void)kill(x->keeper, SIGTERM);
                unlink_handler(x);
                (void)handler_free(x);
        }
        free(h);
        return NULL;
}

size_t handlers_n_running(const Handlers *h)
{
        return h->n_running;
}

static int check_executable(const char *path)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return errno == ENOTDIR ? -ENOENT : -errno;
        if (!S_ISREG(st.st_mode))
                return -ENOENT;
        return access(path, X_OK) < 0 ? -errno : 0;
}

static int make_pipe(int ret[2])
{
        return pipe2(ret, O_CLOEXEC) < 0 ? -errno : 0;
}

/* Opens its pipes, ours nonblocking; theirs[] is what the handler gets as 0, 1, 2. */
static int open_pipes(Handler *x, int theirs[3])
{
        int p[2];

        int r = make_pipe(p);
        if (r < 0)
                return r;
        theirs[0] = p[0];
        x->in_fd = p[1];
        if (x->kind == HANDLER_CALL) {
                r = make_pipe(p);
                if (r < 0)
                        return r;
                x->out_fd = p[0];
                theirs[1] = p[1];
        } else {
                theirs[1] = open("/dev/null", O_WRONLY | O_CLOEXEC);
                if (theirs[1] < 0)
                        return -errno;
        }
        r = make_pipe(p);
        if (r < 0)
                return r;
        x->err_fd = p[0];
        theirs[2] = p[1];
        (void)fcntl(x->in_fd, F_SETFL, O_NONBLOCK);
        (void)fcntl(x->err_fd, F_SETFL, O_NONBLOCK);
        if (x->out_fd >= 0)
                (void)fcntl(x->out_fd, F_SETFL, O_NONBLOCK);
        return 0;
}

static int watch_pipes(Handler *x)
{
        Loop *l = x->owner->loop;

        int r = loop_add_fd(l, x->in_fd, POLLOUT, on_input, x, &x->in_source);
        if (r == 0 && x->out_fd >= 0)
                r = loop_add_fd(l, x->out_fd, POLLIN, on_output, x, &x->out_source);
        if (r == 0)
                r = loop_add_fd(l, x->err_fd, POLLIN, on_complaint, x, &x->err_source);
        if (r == 0)
                r = loop_add_timer(l, on_timeout, x, &x->timer);
        return r;
}

static int launch(Handler *x, const char *path, uint64_t id, const int theirs[3])
{
        char tree_id[33];

        (void)snprintf(tree_id, sizeof(tree_id), "%x%08llx", (unsigned)getpid(),
                       (unsigned long long)x->owner->n_started++ & 0xffffffffULL);
        pid_t pid = loop_fork(x->owner->loop, theirs, 3);
        if (pid < 0)
                return pid;
        if (pid == 0) {
                set_environment(x->kind, x->topic, id);
                keep(path, tree_id, x->kind, theirs);
        }
        x->keeper = pid;
        int r = loop_on_child(x->owner->loop, pid, on_end, x);
        if (r < 0)
                (void)kill(pid, SIGTERM);
        return r;
}

/* 0 and the executable, which could be started now. */
static int find_handler(const Handlers *h, const char *topic, char **ret)
{
        _cleanup_free_ char *path = NULL;

        if (!name_is_topic(topic))
                return -ENOENT;
        if (asprintf(&path, "%s/%s", h->config->handlers_dir, topic) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        int r = check_executable(path);
        if (r == 0 && h->n_running >= h->config->handlers_max)
                r = -ENOBUFS;
        if (r == 0)
                *ret = TAKE(path);
        return r;
}

int handlers_check(const Handlers *h, const char *topic)
{
        _cleanup_free_ char *path = NULL;

        return find_handler(h, topic, &path);
}

int handlers_start(Handlers *h, uint64_t token, HandlerKind kind, const char *topic, uint64_t id,
                   const void *payload, size_t n_payload, uint64_t timeout_usec)
{
        _cleanup_free_ char *path = NULL;
        _cleanup_(handler_freep) Handler *x = NULL;

        int r = find_handler(h, topic, &path);
        if (r < 0)
                return r;
        x = calloc(1, sizeof(*x));
        if (!x)
                return -ENOMEM;
        x->owner = h;
        x->token = token;
        x->kind = kind;
        x->in_fd = x->out_fd = x->err_fd = -EBADF;
        (void)snprintf(x->topic, sizeof(x->topic), "%s", topic);
        x->input = malloc(n_payload ? n_payload : 1);
        x->output = kind == HANDLER_CALL ? malloc(PAYLOAD_MAX) : NULL;
        if (!x->input || (kind == HANDLER_CALL && !x->output))
                return -ENOMEM;
        if (n_payload)
                memcpy(x->input, payload, n_payload);
        x->n_input = n_payload;

        int theirs[3] = { -EBADF, -EBADF, -EBADF };
        r = open_pipes(x, theirs);
        if (r == 0)
                r = watch_pipes(x);
        /* A pipe holds the longest payload: a handler that has started has all of it, whatever becomes of
         * us. */
        if (r == 0)
                on_input(x, x->in_fd, POLLOUT);
        if (r == 0)
                r = launch(x, path, id, theirs);
        for (int i = 0; i < 3; i++)
                (void)fd_close(theirs[i]);
        if (r < 0)
                return r;

        if (!timeout_usec)
                timeout_usec = h->config->handler_timeout_usec;
        uint64_t deadline;
        if (__builtin_add_overflow(loop_now(h->loop), timeout_usec, &deadline))
                deadline = USEC_INFINITY;
        loop_timer_set(x->timer, deadline);
        x->next = h->running;
        h->running = x;
        h->n_running++;
        (void)TAKE(x);
        return 0;
}
