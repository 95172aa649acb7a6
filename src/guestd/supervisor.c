/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/base.h"
#include "base/fs.h"
#include "guestd/command.h"
#include "guestd/spool.h"
#include "guestd/tree.h"
#include "guestd/users.h"

#define CLIENTS_MAX 32
#define PUMP_BYTES 65536
#define KILL_AGAIN_USEC (10 * USEC_PER_MSEC) /* doubled up to a second: for what sleeps uninterruptibly */
#define HUNT_USEC (20 * USEC_PER_MSEC)
#define HUNT_PAUSE_USEC 200u
#define CHECK_USEC USEC_PER_SEC /* doubled up to a minute */
#define CHECK_USEC_MAX (60 * USEC_PER_SEC)

typedef enum ClientKind { CLIENT_NEW, CLIENT_GUESTD, CLIENT_STDOUT, CLIENT_STDERR } ClientKind;

typedef struct Client {
        int fd;
        ClientKind kind;
} Client;

typedef struct Supervisor {
        const SupervisorSpec *spec;
        Tree tree;
        pid_t command;
        uid_t uid;
        int wait_status;
        bool has_exited, is_tree_empty, has_timed_out, is_ending, is_leaving;
        bool is_exit_news; /* to be told at the end of this turn */
        int signal_fd, listener;
        int output[2];
        int job_fd;
        Spool spools[2];
        Client clients[CLIENTS_MAX];
        size_t n_clients;
        int held[2]; /* the outputs of a command that isn't detached, as O_PATH: neither read nor written */
        uint64_t timeout_at, kill_at, kill_again_usec, check_at, check_usec;
} Supervisor;

int supervisor_ask(int fd, SupervisorWordType type, int32_t a, int32_t b, uint32_t serial)
{
        SupervisorWord w = { .type = type, .a = a, .b = b, .serial = serial };
        return send(fd, &w, sizeof(w), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int supervisor_say(int fd, SupervisorWordType type, int32_t a, int32_t b)
{
        return supervisor_ask(fd, type, a, b, 0);
}

static int say_started(const Supervisor *s, int fd)
{
        return supervisor_ask(fd, SUPERVISOR_STARTED, s->command, (int32_t)s->uid, 1);
}

static void say_to(Supervisor *s, ClientKind kind, SupervisorWordType type, int32_t a, int32_t b)
{
        for (size_t i = 0; i < s->n_clients; i++)
                if (s->clients[i].kind == kind)
                        (void)supervisor_say(s->clients[i].fd, type, a, b);
}

static uint64_t usec_after(uint64_t now, uint64_t usec)
{
        return usec > USEC_INFINITY - now ? USEC_INFINITY : now + usec;
}

/* A pipe of which somebody has the writing end: the reading end, looked at for a moment, is not hung up. */
static bool is_held(int path_fd)
{
        char path[32];
        if (path_fd < 0)
                return false;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        struct pollfd p = { .fd = fd, .events = POLLIN };
        return fd < 0 || poll(&p, 1, 0) < 0 || !(p.revents & POLLHUP);
}

/* Whether the job is still somebody's: of the command, or of what it left with an output in its hands. */
static bool job_goes_on(Supervisor *s)
{
        if (!s->has_exited)
                return true;
        if (s->is_tree_empty)
                return false;
        if (s->spec->detach)
                return s->output[0] >= 0 || s->output[1] >= 0;
        return is_held(s->held[0]) || is_held(s->held[1]);
}

static void tree_end(Supervisor *s)
{
        if (s->is_ending)
                return;
        s->is_ending = true;
        /* Interactive shells ignore SIGTERM, and end when their terminal does. */
        if (s->spec->terminal)
                (void)tree_signal(&s->tree, SIGHUP);
        (void)tree_signal(&s->tree, SIGTERM);
        (void)tree_signal(&s->tree, SIGCONT);
        s->kill_at = usec_after(fs_now_usec(), s->spec->kill_grace_usec);
}

static void on_child(Supervisor *s);

/* Ahead of the others, if we may: what runs on this processor does not fork while we look. The pauses are
 * for the dead to leave. */
static void tree_hunt(Supervisor *s)
{
        struct sched_param first = { .sched_priority = 1 }, none = { 0 };
        uint64_t until = fs_now_usec() + HUNT_USEC;
        (void)sched_setscheduler(0, SCHED_FIFO, &first);
        for (on_child(s); !s->is_tree_empty && fs_now_usec() < until; on_child(s)) {
                tree_chase(&s->tree);
                (void)usleep(HUNT_PAUSE_USEC);
        }
        (void)sched_setscheduler(0, SCHED_OTHER, &none);
}

static void tree_end_now(Supervisor *s)
{
        s->is_ending = true;
        (void)tree_kill(&s->tree);
        tree_hunt(s);
        s->kill_at = usec_after(fs_now_usec(), s->kill_again_usec);
        s->kill_again_usec = MIN(s->kill_again_usec * 2, USEC_PER_SEC);
}

static void status_save(Supervisor *s)
{
        if (!s->spec->detach)
                return;
        char text[64];
        bool by_signal = WIFSIGNALED(s->wait_status);
        int n = snprintf(text, sizeof(text), "%s %d%s\n", by_signal ? "signal" : "exit",
                         by_signal ? WTERMSIG(s->wait_status) : WEXITSTATUS(s->wait_status),
                         s->has_timed_out ? " timeout" : "");
        _cleanup_free_ char *path = NULL;
        if (asprintf(&path, "%s/%s", s->spec->job_dir, SUPERVISOR_STATUS) < 0)
                path = NULL;
        else
                (void)fs_write_file_atomic(path, text, (size_t)n, 0600);
}

/* Behind the answers of this turn: a signal that was asked for is done before its process has ended. */
static void exit_tell(Supervisor *s)
{
        if (!s->is_exit_news)
                return;
        s->is_exit_news = false;
        status_save(s);
        say_to(s, CLIENT_GUESTD, SUPERVISOR_EXITED, s->wait_status, s->has_timed_out);
}

static void on_child(Supervisor *s)
{
        for (;;) {
                int status;
                pid_t pid = waitpid(-1, &status, WNOHANG);
                if (pid < 0 && errno == EINTR)
                        continue;
                if (pid < 0)
                        s->is_tree_empty = true;
                if (pid <= 0)
                        return;
                if (pid != s->command || s->has_exited)
                        continue;
                s->has_exited = true;
                s->wait_status = status;
                s->check_usec = CHECK_USEC;
                s->check_at = fs_now_usec();
                s->is_exit_news = true;
        }
}

static void on_signal(Supervisor *s)
{
        struct signalfd_siginfo info;
        while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
                if (info.ssi_signo == SIGTERM)
                        tree_end(s);
        on_child(s);
}

static void on_timeout(Supervisor *s)
{
        s->timeout_at = USEC_INFINITY;
        if (!job_goes_on(s))
                return;
        s->has_timed_out = true;
        tree_end(s);
        s->is_exit_news |= s->has_exited;
}

static void client_drop(Supervisor *s, size_t i)
{
        bool was_guestd = s->clients[i].kind == CLIENT_GUESTD;
        (void)fd_close(s->clients[i].fd);
        s->clients[i] = s->clients[--s->n_clients];
        if (!was_guestd || s->spec->detach)
                return;
        if (job_goes_on(s))
                tree_end(s);
        else
                s->is_leaving = true;
}

static void followers_drop(Supervisor *s, ClientKind kind)
{
        for (size_t i = s->n_clients; i-- > 0;)
                if (s->clients[i].kind == kind)
                        client_drop(s, i);
}

static int on_signal_word(Supervisor *s, int signal, bool is_tree)
{
        if (!is_tree)
                return s->has_exited ? -ESRCH : kill(s->command, signal) < 0 ? -errno : 0;
        if (signal == SIGTERM)
                tree_end(s);
        else if (signal == SIGKILL)
                tree_end_now(s);
        else
                return MIN(tree_signal(&s->tree, signal), 0);
        return 0;
}

static int on_resize_word(Supervisor *s, uint16_t rows, uint16_t columns)
{
        if (!s->spec->terminal)
                return -ENOTTY;
        return s->has_exited ? -ESRCH : terminal_resize(s->spec->terminal, s->command, rows, columns);
}

static void on_word(Supervisor *s, size_t i, const SupervisorWord *w)
{
        Client *c = &s->clients[i];
        int r = 0;
        switch (w->type) {
        case SUPERVISOR_STATE:
                c->kind = CLIENT_GUESTD;
                (void)say_started(s, c->fd);
                if (s->has_exited)
                        (void)supervisor_say(c->fd, SUPERVISOR_EXITED, s->wait_status, s->has_timed_out);
                break;
        case SUPERVISOR_FOLLOW:
                c->kind = w->a ? CLIENT_STDERR : CLIENT_STDOUT;
                if (s->output[w->a ? 1 : 0] < 0)
                        client_drop(s, i);
                break;
        case SUPERVISOR_SIGNAL:
                r = on_signal_word(s, w->a, w->b);
                break;
        case SUPERVISOR_RESIZE:
                r = on_resize_word(s, (uint16_t)w->a, (uint16_t)w->b);
                break;
        case SUPERVISOR_RELEASE:
                s->is_leaving = s->has_exited && !s->is_ending;
                break;
        default: /* of a later version */
                return;
        }
        if (w->serial && w->type != SUPERVISOR_FOLLOW) /* which may have dropped its client */
                (void)supervisor_ask(c->fd, SUPERVISOR_DONE, 0, -r, w->serial);
}

static void on_client(Supervisor *s, size_t i)
{
        SupervisorWord w;
        ssize_t n = recv(s->clients[i].fd, &w, sizeof(w), MSG_DONTWAIT);
        if (n == (ssize_t)sizeof(w))
                on_word(s, i, &w);
        else if (n >= 0 || (errno != EAGAIN && errno != EINTR))
                client_drop(s, i);
}

static void on_listener(Supervisor *s)
{
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
                s->clients[s->n_clients++] = (Client){ .fd = fd, .kind = CLIENT_NEW };
}

static void on_output(Supervisor *s, int which)
{
        static uint8_t buf[PUMP_BYTES];
        ClientKind kind = which ? CLIENT_STDERR : CLIENT_STDOUT;
        ssize_t n = read(s->output[which], buf, sizeof(buf));
        if (n > 0) {
                spool_append(&s->spools[which], buf, (size_t)n);
                say_to(s, kind, SUPERVISOR_MORE, 0, 0);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) { /* EIO: the terminal's end */
                s->output[which] = fd_close(s->output[which]);
                followers_drop(s, kind);
                s->check_at = s->has_exited ? fs_now_usec() : s->check_at;
        }
}

static void on_time(Supervisor *s)
{
        uint64_t now = fs_now_usec();
        if (now >= s->timeout_at)
                on_timeout(s);
        if (now >= s->kill_at)
                tree_end_now(s);
        if (now >= s->check_at) {
                s->is_leaving |= s->has_exited && !s->is_ending && !job_goes_on(s);
                s->check_at = usec_after(now, s->check_usec);
                s->check_usec = MIN(s->check_usec * 2, CHECK_USEC_MAX);
        }
}

static bool is_over(const Supervisor *s)
{
        if (s->is_leaving)
                return true;
        return s->has_exited && s->is_tree_empty && s->output[0] < 0 && s->output[1] < 0;
}

static int supervisor_turn(Supervisor *s)
{
        enum { SIGNALS, LISTENER, OUTPUT, CLIENTS = OUTPUT + 2 };
        struct pollfd fds[CLIENTS + CLIENTS_MAX];
        size_t n_clients = s->n_clients;
        fds[SIGNALS] = (struct pollfd){ .fd = s->signal_fd, .events = POLLIN };
        fds[LISTENER] =
                (struct pollfd){ .fd = n_clients < CLIENTS_MAX ? s->listener : -1, .events = POLLIN };
        for (int i = 0; i < 2; i++)
                fds[OUTPUT + i] = (struct pollfd){ .fd = s->output[i], .events = POLLIN };
        for (size_t i = 0; i < n_clients; i++)
                fds[CLIENTS + i] = (struct pollfd){ .fd = s->clients[i].fd, .events = POLLIN };

        uint64_t deadline = MIN(MIN(s->timeout_at, s->kill_at), s->check_at), now = fs_now_usec();
        int wait_msec = -1;
        if (deadline != USEC_INFINITY)
                wait_msec = deadline <= now ? 0 : (int)MIN((deadline - now) / USEC_PER_MSEC + 1, 3600000ULL);
        if (poll(fds, CLIENTS + n_clients, wait_msec) < 0)
                return errno == EINTR ? 0 : -errno;

        /* From the last on: dropping one moves the last into its place. */
        for (size_t i = n_clients; i-- > 0;)
                if (fds[CLIENTS + i].revents)
                        on_client(s, i);
        for (int i = 0; i < 2; i++)
                if (fds[OUTPUT + i].revents && s->output[i] >= 0)
                        on_output(s, i);
        if (fds[LISTENER].revents)
                on_listener(s);
        if (fds[SIGNALS].revents)
                on_signal(s);
        on_time(s);
        return 0;
}

static int listener_open(const char *job_dir)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", job_dir, SUPERVISOR_SOCKET);
        if (n < 0 || (size_t)n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(fd, CLIENTS_MAX) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int detach_prepare(Supervisor *s)
{
        const SupervisorSpec *spec = s->spec;
        s->job_fd = open(spec->job_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s->job_fd < 0)
                return -errno;
        s->listener = listener_open(spec->job_dir);
        if (s->listener < 0)
                return s->listener;
        spool_init(&s->spools[0], s->job_fd, SUPERVISOR_STDOUT, spec->spool_bytes);
        spool_init(&s->spools[1], s->job_fd, SUPERVISOR_STDERR, spec->spool_bytes);
        for (int i = 0; i < 2; i++)
                s->output[i] = spec->output[i];
        return 0;
}

/* -EBADF where there is none to look at: /dev/null. */
static int pipe_watch(int fd)
{
        struct stat st;
        char path[32];
        if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode))
                return -EBADF;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return open(path, O_PATH | O_CLOEXEC);
}

static int user_find(const SupervisorSpec *spec, User *ret, CommandError *e)
{
        e->stage = SUPERVISOR_USER;
        int r = spec->user ? users_find_slow(spec->user, ret) : users_find_uid(geteuid(), ret);
        if (r < 0)
                return r == -EINVAL ? -ENOENT : r;
        e->stage = SUPERVISOR_POLICY;
        return policy_may_run_as(spec->policy, ret->name, ret->uid) ? 0 : -EPERM;
}

static int supervisor_start(Supervisor *s, CommandError *e)
{
        const SupervisorSpec *spec = s->spec;
        *e = (CommandError){ SUPERVISOR_SETUP, 0 };
        (void)prctl(PR_SET_NAME, "vmferry-job");
        (void)setsid();
        sigset_t signals;
        (void)sigemptyset(&signals);
        (void)sigaddset(&signals, SIGCHLD);
        (void)sigaddset(&signals, SIGTERM);
        (void)sigaddset(&signals, SIGHUP);
        (void)sigaddset(&signals, SIGINT);

        _cleanup_(user_done) User user = { 0 };
        int r = user_find(spec, &user, e);
        if (r < 0)
                return r;
        s->uid = user.uid;
        e->stage = SUPERVISOR_SETUP;
        if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 || sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
                return -errno;
        s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        if (s->signal_fd < 0)
                return -errno;
        r = spec->detach ? detach_prepare(s) : 0;
        if (r < 0)
                return r;
        /* Not a terminal: the kernel hangs it up for all when the command, its session's leader, ends. */
        for (int i = 1; !spec->detach && !spec->terminal && i < 3; i++)
                s->held[i - 1] = pipe_watch(spec->stdio[i]);
        tree_init(&s->tree, spec->id);
        s->timeout_at = usec_after(fs_now_usec(), spec->timeout_usec);
        r = command_start(spec, &s->tree, &user, !spec->user, &s->command, e);
        for (int i = 0; i < 3; i++)
                if (i == 0 || spec->stdio[i] != spec->stdio[0])
                        (void)fd_close(spec->stdio[i]);
        return r;
}

_Noreturn void supervisor_run(const SupervisorSpec *spec)
{
        Supervisor s = {
                .spec = spec,
                .signal_fd = -EBADF,
                .listener = -EBADF,
                .output = { -EBADF, -EBADF },
                .held = { -EBADF, -EBADF },
                .job_fd = -EBADF,
                .clients = { { .fd = spec->control_fd, .kind = CLIENT_GUESTD } },
                .n_clients = 1,
                .timeout_at = USEC_INFINITY,
                .kill_at = USEC_INFINITY,
                .kill_again_usec = KILL_AGAIN_USEC,
                .check_at = USEC_INFINITY,
                .check_usec = CHECK_USEC,
        };
        CommandError e;
        int r = supervisor_start(&s, &e);
        if (r < 0)
                (void)supervisor_say(spec->control_fd, SUPERVISOR_FAILED, e.stage, -r);
        else {
                (void)say_started(&s, spec->control_fd);
                while (!is_over(&s)) {
                        if (supervisor_turn(&s) < 0) /* no memory to wait in: nobody can wait for this job */
                                tree_end_now(&s), (void)usleep(KILL_AGAIN_USEC);
                        exit_tell(&s);
                }
                tree_release(&s.tree);
        }
        if (s.listener >= 0)
                (void)unlinkat(s.job_fd, SUPERVISOR_SOCKET, 0);
        tree_done(&s.tree);
        _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

int supervisor_connect(const char *job_dir)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", job_dir, SUPERVISOR_SOCKET);
        if (n < 0 || (size_t)n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

_Noreturn void supervisor_follow(const char *job_dir, bool is_stderr, int out_fd)
{
        static uint8_t buf[PUMP_BYTES];
        (void)prctl(PR_SET_NAME, "vmferry-follow");
        int dir_fd = open(job_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir_fd < 0)
                _exit(EXIT_FAILURE);
        int control = supervisor_connect(job_dir);
        if (control >= 0 && supervisor_say(control, SUPERVISOR_FOLLOW, is_stderr, 0) < 0)
                control = fd_close(control);
        SpoolReader reader;
        spool_reader_init(&reader, dir_fd, is_stderr ? SUPERVISOR_STDERR : SUPERVISOR_STDOUT);
        for (;;) {
                ssize_t n;
                while ((n = spool_reader_next(&reader, buf, sizeof(buf))) > 0)
                        if (fs_write_all(out_fd, buf, (size_t)n) < 0)
                                _exit(EXIT_FAILURE);
                if (n < 0 || control < 0)
                        _exit(n < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
                struct pollfd fds[] = { { .fd = control, .events = POLLIN }, { .fd = out_fd } };
                if (poll(fds, ELEMENTSOF(fds), -1) < 0 && errno != EINTR)
                        _exit(EXIT_FAILURE);
                if (fds[1].revents & (POLLERR | POLLHUP))
                        _exit(EXIT_FAILURE);
                SupervisorWord w;
                ssize_t k;
                while ((k = recv(control, &w, sizeof(w), MSG_DONTWAIT)) > 0)
                        continue;
                /* The output has ended: what is there now is all of it, so one more round. */
                if (k == 0 || (errno != EAGAIN && errno != EINTR))
                        control = fd_close(control);
        }
}
