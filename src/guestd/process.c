/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/process-record.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/escape.h"
#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/cgroup.h"
#include "proto/message.h"
#include "proto/name.h"

#define ENDED_MAX 256u                /* records of processes that have ended */
#define KEEP_USEC (60 * USEC_PER_SEC) /* ... if not detached */
#define STATUS_BYTES_MAX 65536u

Process *process_free(Process *p)
{
        if (!p)
                return NULL;
        p->control_source = loop_fd_free(p->control_source);
        (void)fd_close(p->control);
        (void)fd_close(p->in);
        (void)fd_close(p->out);
        (void)fd_close(p->err);
        json_object_put(p->argv);
        free(p->id);
        free(p->command);
        free(p->user);
        free(p->dir);
        free(p);
        return NULL;
}

Process *process_new(Processes *owner, const char *id)
{
        Process *p = malloc(sizeof(*p));
        if (!p)
                return NULL;
        *p = (Process){ .owner = owner,
                        .id = strdup(id),
                        .control = -EBADF,
                        .in = -EBADF,
                        .out = -EBADF,
                        .err = -EBADF,
                        .drop_at = USEC_INFINITY };
        return p->id ? p : process_free(p);
}

static void dir_remove(const char *path)
{
        DIR *dir = opendir(path);
        if (!dir)
                return;
        for (struct dirent *entry; (entry = readdir(dir));)
                (void)unlinkat(dirfd(dir), entry->d_name, 0);
        (void)closedir(dir);
        (void)rmdir(path);
}

Process *processes_find(const Processes *ps, const char *id)
{
        for (size_t i = 0; i < ps->n; i++)
                if (str_eq(ps->items[i]->id, id))
                        return ps->items[i];
        return NULL;
}

int processes_add(Processes *ps, Process *p)
{
        if (ps->n == ps->n_allocated) {
                size_t n = ps->n_allocated ? ps->n_allocated * 2 : 16;
                Process **items = reallocarray(ps->items, n, sizeof(Process *));
                if (!items)
                        return -ENOMEM;
                ps->items = items;
                ps->n_allocated = n;
        }
        p->serial = ++ps->n_serials;
        ps->items[ps->n++] = p;
        return 0;
}

/* Forgets a process whose command has ended; a supervisor that still waits for the tree leaves by its closed
 * socket. */
static void processes_drop(Processes *ps, Process *p)
{
        process_forget_asked(p);
        if (p->dir)
                dir_remove(p->dir);
        for (size_t i = 0; i < ps->n; i++)
                if (ps->items[i] == p) {
                        memmove(ps->items + i, ps->items + i + 1, (ps->n - i - 1) * sizeof(Process *));
                        ps->n--;
                        break;
                }
        (void)process_free(p);
}

static void processes_arm(Processes *ps)
{
        uint64_t deadline = USEC_INFINITY;
        for (size_t i = 0; i < ps->n; i++)
                deadline = MIN(deadline, ps->items[i]->drop_at);
        loop_timer_set(ps->timer, deadline);
}

static void on_time(void *userdata)
{
        Processes *ps = userdata;
        uint64_t now = loop_now(ps->loop);
        for (size_t i = ps->n; i-- > 0;)
                if (ps->items[i]->drop_at <= now)
                        processes_drop(ps, ps->items[i]);
        processes_arm(ps);
}

static void put(json_object *o, const char *key, json_object *value)
{
        (void)json_object_object_add(o, key, value);
}

void process_put_exit(const Process *p, json_object *o)
{
        if (WIFSIGNALED(p->wait_status))
                put(o, "exit_signal", json_object_new_int(WTERMSIG(p->wait_status)));
        else
                put(o, "exit_status", json_object_new_int(WEXITSTATUS(p->wait_status)));
        if (p->has_timed_out)
                put(o, "timed_out", json_object_new_boolean(true));
}

static void exit_tell(Process *p)
{
        json_object *o = json_object_new_object();
        if (!o)
                return;
        put(o, "method", json_object_new_string("process.exited"));
        put(o, "id", json_object_new_string(p->id));
        process_put_exit(p, o);
        p->owner->ops->exited(p->owner->userdata, o);
        json_object_put(o);
}

/* Once the command has ended and so has its supervisor, the record only waits for the host, and not for
 * ever. */
void process_settle(Process *p)
{
        Processes *ps = p->owner;
        if (p->state != PROCESS_EXITED || p->control >= 0)
                return;
        if (p->is_forgotten) {
                processes_drop(ps, p);
                return;
        }
        uint64_t keep = p->detached ? ps->config.spool_keep_usec : KEEP_USEC, now = loop_now(ps->loop);
        p->drop_at = keep > USEC_INFINITY - now ? USEC_INFINITY : now + keep;
        size_t n = 0;
        Process *oldest = NULL;
        for (size_t i = 0; i < ps->n; i++)
                if (ps->items[i]->drop_at != USEC_INFINITY) {
                        n++;
                        if (!oldest || (oldest->detached && !ps->items[i]->detached))
                                oldest = ps->items[i];
                }
        if (n > ENDED_MAX)
                processes_drop(ps, oldest);
        processes_arm(ps);
}

static void process_exited(Process *p, int wait_status, bool has_timed_out)
{
        bool is_news = p->state != PROCESS_EXITED;
        p->state = PROCESS_EXITED;
        p->wait_status = wait_status;
        p->has_timed_out = has_timed_out;
        const char *result = has_timed_out ? wire_error_to_string(WIRE_TIMEOUT) : "ok";
        if (WIFSIGNALED(wait_status))
                log_audit("exec", p->id, result, "signal=%d", WTERMSIG(wait_status));
        else
                log_audit("exec", p->id, result, "status=%d", WEXITSTATUS(wait_status));
        if (is_news || has_timed_out)
                exit_tell(p);
}

/* What failed is ours, not the command: NotFound and PermissionDenied are words about that. */
static WireError own_error(int error)
{
        WireError e = wire_error_from_errno(error);
        return e == WIRE_NOT_FOUND || e == WIRE_PERMISSION_DENIED ? WIRE_FAILED : e;
}

void process_fail(Process *p, SupervisorStage stage, int error)
{
        WireError e = own_error(error);
        char why[512];
        int status = 0;
        switch (stage) {
        case SUPERVISOR_SETUP:
                (void)snprintf(why, sizeof(why), "the guest could not start the process: %s",
                               strerror(error));
                break;
        case SUPERVISOR_USER:
                e = error == ENOENT ? WIRE_INVALID_ARGS : e;
                (void)snprintf(why, sizeof(why), "user \"%s\": %s", p->user ?: "",
                               error == ENOENT ? "no such user in the guest" : strerror(error));
                break;
        case SUPERVISOR_POLICY:
                e = WIRE_PERMISSION_DENIED;
                (void)snprintf(why, sizeof(why), "the guest's policy (guestd.conf) does not allow this %s",
                               error == EPERM ? "user" : "command");
                break;
        case SUPERVISOR_IDENTITY:
                (void)snprintf(why, sizeof(why), "guestd cannot become user \"%s\": %s", p->user ?: "",
                               strerror(error));
                break;
        case SUPERVISOR_CWD:
                e = WIRE_INVALID_PATH;
                (void)snprintf(why, sizeof(why), "the working directory: %s", strerror(error));
                break;
        case SUPERVISOR_EXEC: {
                bool is_absent =
                        error == ENOENT || error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG;
                /* No memory, no more processes: nothing about the command. */
                if (e != WIRE_LIMITS_EXCEEDED) {
                        e = is_absent ? WIRE_NOT_FOUND : WIRE_PERMISSION_DENIED;
                        status = is_absent ? 127 : 126;
                }
                (void)snprintf(why, sizeof(why), "%s: %s", p->command, strerror(error));
                break;
        }
        default:
                (void)snprintf(why, sizeof(why), "the guest could not start the process: %s",
                               strerror(error));
        }
        log_audit("exec", p->id, wire_error_to_string(e), "user=\"%s\" command=\"%s\"", p->user ?: "",
                  p->command);
        json_object *o = message_error(e, "%s", why);
        if (o && status)
                put(o, "exit_status", json_object_new_int(status));
        Processes *ps = p->owner;
        uint64_t token = p->token;
        processes_drop(ps, p);
        ps->ops->reply(ps->userdata, token, o);
}

static void process_started(Process *p, pid_t pid, uid_t uid)
{
        bool is_news = p->state == PROCESS_STARTING;
        p->pid = pid;
        if (!is_news)
                return; /* taken up from an earlier guestd */
        p->state = PROCESS_RUNNING;
        log_audit("exec", p->id, "started", "user=\"%s\" uid=%u pid=%d command=\"%s\"", p->user ?: "",
                  (unsigned)uid, (int)pid, p->command);
        json_object *o = json_object_new_object();
        if (o) {
                put(o, "pid", json_object_new_int(pid));
                put(o, "grace", json_object_new_int64((int64_t)p->owner->config.kill_grace_usec));
        }
        p->owner->ops->reply(p->owner->userdata, p->token, o);
}

/* What a supervisor left behind, as text; NULL without its word. */
static char *status_read(const Process *p)
{
        _cleanup_free_ char *path = NULL;
        char *text = NULL;
        if (!p->dir || asprintf(&path, "%s/%s", p->dir, SUPERVISOR_STATUS) < 0) {
                path = NULL;
                return NULL;
        }
        return fs_read_file(path, STATUS_BYTES_MAX, &text, NULL) < 0 ? NULL : text;
}

/* Of a supervisor that is gone. Without its word it was killed, and the command with it: so is the rest.
 * What a command that has ended by itself left running is its own affair, then as ever. */
static void status_take(const Process *p, int *ret_wait_status, bool *ret_timed_out)
{
        _cleanup_free_ char *text = status_read(p);
        *ret_wait_status = W_EXITCODE(0, SIGKILL);
        *ret_timed_out = text && strstr(text, " timeout");
        if (text && str_has_prefix(text, "exit "))
                *ret_wait_status = W_EXITCODE((int)strtol(text + 5, NULL, 10) & 0xff, 0);
        else if (text && str_has_prefix(text, "signal "))
                *ret_wait_status = W_EXITCODE(0, (int)strtol(text + 7, NULL, 10) & 0x7f);
        if (*ret_timed_out || !WIFEXITED(*ret_wait_status))
                cgroup_reap(p->id);
        else
                cgroup_disband(p->id);
}

static void process_lost(Process *p)
{
        p->control_source = loop_fd_free(p->control_source);
        p->control = fd_close(p->control);
        process_forget_asked(p);
        if (p->state == PROCESS_STARTING) {
                process_fail(p, SUPERVISOR_SETUP, EIO);
                return;
        }
        if (p->state ==
            PROCESS_RUNNING) { /* its supervisor was killed, or said it to an earlier guestd only */
                int wait_status;
                bool has_timed_out;
                status_take(p, &wait_status, &has_timed_out);
                process_exited(p, wait_status, has_timed_out);
        }
        process_settle(p);
}

static void on_control(void *userdata, int fd, short revents)
{
        Process *p = userdata;
        SupervisorWord w;
        ssize_t n = recv(fd, &w, sizeof(w), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n != (ssize_t)sizeof(w)) {
                process_lost(p);
                return;
        }
        switch (w.type) {
        case SUPERVISOR_STARTED:
                p->supervisor_answers = w.serial > 0;
                process_started(p, w.a, (uid_t)w.b);
                break;
        case SUPERVISOR_FAILED:
                if (p->state == PROCESS_STARTING)
                        process_fail(p, (SupervisorStage)w.a, w.b);
                break;
        case SUPERVISOR_EXITED:
                process_exited(p, w.a, w.b);
                break;
        case SUPERVISOR_DONE:
                process_on_done(p, w.serial, w.b);
                break;
        default:
                break;
        }
}

int process_attach(Process *p, int control)
{
        p->control = control;
        return loop_add_fd(p->owner->loop, control, POLLIN, on_control, p, &p->control_source);
}

void processes_resend(Processes *ps)
{
        for (size_t i = 0; i < ps->n; i++)
                if (ps->items[i]->state == PROCESS_EXITED && !ps->items[i]->is_forgotten)
                        exit_tell(ps->items[i]);
}

void processes_end_attached(Processes *ps)
{
        for (size_t i = ps->n; i-- > 0;) {
                Process *p = ps->items[i];
                if (p->detached)
                        continue;
                p->in = fd_close(p->in);
                p->out = fd_close(p->out);
                p->err = fd_close(p->err);
                p->is_forgotten = true;
                if (p->control >= 0)
                        (void)supervisor_say(p->control, SUPERVISOR_SIGNAL, SIGTERM, 1);
                else
                        process_settle(p);
        }
}

size_t processes_n_running(const Processes *ps)
{
        size_t n = 0;
        for (size_t i = 0; i < ps->n; i++)
                n += ps->items[i]->control >= 0;
        return n;
}

int process_output_from_string(const char *kind, const char *output, ProcessOutput *ret)
{
        if (str_eq(kind, "stdio"))
                *ret = PROCESS_STDIO;
        else if (str_eq(kind, "stderr"))
                *ret = PROCESS_STDERR;
        else if (str_eq(kind, "spool") && str_eq(output, "stdout"))
                *ret = PROCESS_SPOOL_STDOUT;
        else if (str_eq(kind, "spool") && str_eq(output, "stderr"))
                *ret = PROCESS_SPOOL_STDERR;
        else
                return -EINVAL;
        return 0;
}

static int process_follow(Process *p, bool is_stderr, int *ret_out)
{
        int fds[2];
        if (!p->dir)
                return -ENOENT;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int from = fds[0], to = fds[1];
        pid_t pid = loop_fork(p->owner->loop, &to, 1);
        if (pid < 0)
                return (int)pid;
        if (pid == 0)
                supervisor_follow(p->dir, is_stderr, to);
        *ret_out = TAKE_FD(from);
        return 0;
}

int process_take_fds(Processes *ps, const char *id, ProcessOutput which, int *ret_in, int *ret_out)
{
        Process *p = processes_find(ps, id);
        if (!p)
                return -ENOENT;
        *ret_in = *ret_out = -EBADF;
        switch (which) {
        case PROCESS_STDIO:
                if (p->in < 0 && p->out < 0)
                        return p->gave_stdio ? -EALREADY : -ENOENT;
                *ret_in = TAKE_FD(p->in);
                *ret_out = TAKE_FD(p->out);
                p->gave_stdio = true;
                return 0;
        case PROCESS_STDERR:
                if (p->err < 0)
                        return p->gave_stderr ? -EALREADY : -ENOENT;
                *ret_out = TAKE_FD(p->err);
                p->gave_stderr = true;
                return 0;
        case PROCESS_SPOOL_STDOUT:
        case PROCESS_SPOOL_STDERR:
                return process_follow(p, which == PROCESS_SPOOL_STDERR, ret_out);
        }
        return -ENOENT;
}

static json_object *meta_load(const char *dir)
{
        _cleanup_free_ char *path = NULL, *text = NULL;
        if (asprintf(&path, "%s/%s", dir, PROCESS_META_FILE) < 0) {
                path = NULL;
                return NULL;
        }
        return fs_read_file(path, STATUS_BYTES_MAX, &text, NULL) < 0 ? NULL : json_tokener_parse(text);
}

static int process_restore(Processes *ps, const char *id)
{
        _cleanup_(process_freep) Process *made = process_new(ps, id);
        if (!made)
                return -ENOMEM;
        if (asprintf(&made->dir, "%s/%s", ps->config.jobs_dir, id) < 0) {
                made->dir = NULL;
                return -ENOMEM;
        }
        json_object *meta = meta_load(made->dir), *argv = NULL;
        if (!meta || !json_object_object_get_ex(meta, "argv", &argv)) {
                json_object_put(meta);
                dir_remove(made->dir); /* guestd ended before it was written: there is no process */
                return 0;
        }
        made->argv = json_object_get(argv);
        made->tty = message_bool(meta, "tty", false);
        made->detached = true;
        json_object_put(meta);
        int r = processes_add(ps, made);
        if (r < 0)
                return r;
        Process *p = TAKE(made);
        int control = supervisor_connect(p->dir);
        if (control < 0) {
                p->state = PROCESS_EXITED;
                status_take(p, &p->wait_status, &p->has_timed_out);
                process_settle(p);
                return 0;
        }
        p->state = PROCESS_RUNNING;
        r = process_attach(p, control);
        if (r >= 0)
                (void)supervisor_say(control, SUPERVISOR_STATE, 0, 0);
        return r;
}

static int processes_restore(Processes *ps)
{
        DIR *dir = opendir(ps->config.jobs_dir);
        if (!dir)
                return errno == ENOENT ? 0 : -errno;
        int r = 0;
        for (struct dirent *entry; r >= 0 && (entry = readdir(dir));)
                if (name_is_id(entry->d_name))
                        r = process_restore(ps, entry->d_name);
        (void)closedir(dir);
        return r;
}

/* The directory and those above it. */
static int dirs_make(const char *path)
{
        _cleanup_free_ char *copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        for (char *p = copy + 1; (p = strchr(p, '/')); p++) {
                *p = 0;
                (void)mkdir(copy, 0755);
                *p = '/';
        }
        return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

int processes_new(Loop *loop, const ProcessesConfig *config, const ProcessesOps *ops, void *userdata,
                  Processes **ret)
{
        _cleanup_(processes_freep) Processes *ps = calloc(1, sizeof(*ps));
        if (!ps)
                return -ENOMEM;
        *ps = (Processes){ .loop = loop, .config = *config, .ops = ops, .userdata = userdata };
        int r = loop_add_timer(loop, on_time, ps, &ps->timer);
        if (r < 0)
                return r;
        r = dirs_make(config->jobs_dir);
        if (r < 0) /* a guest whose /run is read-only: only detached processes need it, and will say so */
                log_warning("%s: %s", config->jobs_dir, strerror(-r));
        r = processes_restore(ps);
        if (r < 0)
                return r;
        *ret = TAKE(ps);
        return 0;
}

void processes_set_config(Processes *ps, const ProcessesConfig *config)
{
        ps->config = *config;
}

Processes *processes_free(Processes *ps)
{
        if (!ps)
                return NULL;
        for (size_t i = 0; i < ps->n; i++)
                (void)process_free(ps->items[i]);
        free(ps->items);
        (void)loop_timer_free(ps->timer);
        free(ps);
        return NULL;
}
