/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/process-record.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/escape.h"
#include "base/fs.h"

static void put(json_object *o, const char *key, json_object *value)
{
        (void)json_object_object_add(o, key, value);
}

static int pipe_make(bool wanted, bool is_input, int *ret_ours, int *ret_theirs)
{
        int fds[2];
        if (!wanted) {
                *ret_theirs = open("/dev/null", O_RDWR | O_CLOEXEC);
                return *ret_theirs < 0 ? -errno : 0;
        }
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        *ret_ours = fds[is_input ? 1 : 0];
        *ret_theirs = fds[is_input ? 0 : 1];
        return 0;
}

static int dir_prepare(Process *p)
{
        if (asprintf(&p->dir, "%s/%s", p->owner->config.jobs_dir, p->id) < 0) {
                p->dir = NULL;
                return -ENOMEM;
        }
        if (mkdir(p->dir, 0700) < 0)
                return -errno;
        json_object *meta = json_object_new_object();
        _cleanup_free_ char *path = NULL;
        if (!meta || asprintf(&path, "%s/%s", p->dir, PROCESS_META_FILE) < 0) {
                json_object_put(meta);
                return -ENOMEM;
        }
        put(meta, "argv", json_object_get(p->argv));
        put(meta, "tty", json_object_new_boolean(p->tty));
        const char *text = json_object_to_json_string_ext(meta, JSON_C_TO_STRING_PLAIN);
        int r = text ? fs_write_file_atomic(path, text, strlen(text), 0600) : -ENOMEM;
        json_object_put(meta);
        return r;
}

json_object *process_shorten_argv(char *const *argv)
{
        json_object *a = json_object_new_array();
        size_t room = PROCESS_COMMAND_MAX;
        for (; a && *argv && room > 0; argv++) {
                _cleanup_free_ char *text = escape_text(*argv, strlen(*argv), room);
                if (!text)
                        break;
                (void)json_object_array_add(a, json_object_new_string(text));
                room -= MIN(room, strlen(text) + 1);
        }
        return a;
}

static void stdio_done(int (*stdio)[3])
{
        for (int i = 0; i < 3; i++)
                (*stdio)[i] = fd_close((*stdio)[i]);
}

/* The command's ends go to stdio, ours into the record; a detached one's outputs to output. */
static int stdio_make(Process *p, const ProcessSpec *spec, Terminal *terminal, int stdio[3], int output[2])
{
        int r;
        if (spec->tty) {
                r = terminal_open(spec->rows, spec->columns, terminal);
                if (r < 0)
                        return r;
                for (int i = 0; i < 3; i++)
                        if ((stdio[i] = fcntl(terminal->slave, F_DUPFD_CLOEXEC, 0)) < 0)
                                return -errno;
                p->out = TAKE_FD(terminal->master);
                if (spec->in && (p->in = fcntl(p->out, F_DUPFD_CLOEXEC, 0)) < 0)
                        return -errno;
        } else {
                r = pipe_make(spec->in, true, &p->in, &stdio[0]);
                if (r >= 0)
                        r = pipe_make(spec->out || spec->detach, false, &p->out, &stdio[1]);
                if (r >= 0)
                        r = pipe_make(spec->err || spec->detach, false, &p->err, &stdio[2]);
                if (r < 0)
                        return r;
        }
        if (spec->detach) {
                output[0] = TAKE_FD(p->out);
                output[1] = TAKE_FD(p->err);
        }
        return 0;
}

int process_fork(Process *p, const ProcessSpec *spec)
{
        const ProcessesConfig *config = &p->owner->config;
        _cleanup_(terminal_done) Terminal terminal = { .master = -EBADF, .slave = -EBADF };
        _cleanup_(stdio_done) int stdio[3] = { -EBADF, -EBADF, -EBADF };
        _cleanup_close_ int out = -EBADF, err = -EBADF;
        int output[2] = { -EBADF, -EBADF }, sockets[2];
        int r = stdio_make(p, spec, &terminal, stdio, output);
        out = output[0], err = output[1];
        if (r >= 0 && spec->detach)
                r = dir_prepare(p);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) < 0)
                return -errno;
        _cleanup_close_ int ours = sockets[0], theirs = sockets[1];

        const int keep[] = { stdio[0], stdio[1], stdio[2], theirs, out, err };
        pid_t pid =
                loop_fork(p->owner->loop, keep, ELEMENTSOF(keep) - 2 + (out >= 0) + (out >= 0 && err >= 0));
        if (pid < 0)
                return (int)pid;
        if (pid == 0)
                supervisor_run(&(SupervisorSpec){
                        .id = p->id,
                        .argv = spec->argv,
                        .env = spec->env,
                        .user = spec->user,
                        .cwd = spec->cwd,
                        .timeout_usec = spec->timeout_usec,
                        .kill_grace_usec = config->kill_grace_usec,
                        .policy = config->policy,
                        .stdio = { stdio[0], stdio[1], stdio[2] },
                        .terminal = spec->tty ? &terminal : NULL,
                        .detach = spec->detach,
                        .output = { out, err },
                        .job_dir = p->dir,
                        .spool_bytes = config->spool_bytes,
                        .control_fd = theirs,
                });
        return process_attach(p, TAKE_FD(ours));
}
