/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * cp: every source is a job of hostd's; this starts them, shows them as one, and cancels them on Ctrl-C.
 */

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "cli/client.h"
#include "cli/copy-sides.h"
#include "cli/progress.h"
#include "cli/pump.h"

#define JOBS_AT_ONCE 8u
#define LOST_PATIENCE (30 * USEC_PER_SEC) /* for a hostd that is being restarted */

typedef struct CopyJob {
        char *path; /* object */
        uint32_t id;
        bool over;
        uint64_t lost_since; /* 0: it is known */
        uint64_t done, total, files_done, files_total;
        char *digest, state[16];
} CopyJob;

typedef struct Copy {
        Cli *cli;
        bool preserve, queue, detach, cancelled;
        uint64_t polled_at;
        bool told; /* why it all fails */
        const char *overwrite;
        uint64_t ttl;
        CopySides sides;
        char *guest_object;
        size_t n_failed;
        CopyJob *jobs;
        size_t n_jobs, n_over;
        Pump pump; /* between a terminal or pipe of ours and the pipe that hostd has */
        bool has_pump;
} Copy;

static int append_options(const Copy *c, const CopySource *s, sd_bus_message *m)
{
        (void)sd_bus_message_open_container(m, 'a', "{sv}");
        if (c->preserve)
                (void)sd_bus_message_append(m, "{sv}", "preserve", "b", true);
        if (c->overwrite)
                (void)sd_bus_message_append(m, "{sv}", "overwrite", "s", c->overwrite);
        if (c->queue)
                (void)sd_bus_message_append(m, "{sv}", "queue", "b", true);
        if (c->ttl != UINT64_MAX)
                (void)sd_bus_message_append(m, "{sv}", "ttl", "t", c->ttl);
        if (s->is_contents)
                (void)sd_bus_message_append(m, "{sv}", "contents", "b", true);
        return sd_bus_message_close_container(m);
}

/* Our standard input or output for hostd. A regular file goes as it is; anything else by a pipe of its own,
 * so that nobody changes the flags of a descriptor that the shell shares with us. */
static int give_descriptor(Copy *c)
{
        int fd = c->sides.push ? STDIN_FILENO : STDOUT_FILENO, pipes[2];
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (S_ISREG(st.st_mode))
                return fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (pipe2(pipes, O_CLOEXEC) < 0)
                return -errno;
        c->has_pump = true;
        if (c->sides.push)
                c->pump = (Pump){ .in = fd, .out = pipes[1], .owns_out = true };
        else
                c->pump = (Pump){ .in = pipes[0], .out = fd, .owns_in = true };
        (void)fcntl(pipes[c->sides.push ? 1 : 0], F_SETFL, O_NONBLOCK);
        return pipes[c->sides.push ? 0 : 1];
}

/* The one that our side is; negative errno. */
static int open_ours(Copy *c, const char *path)
{
        int fd;

        if (copy_sides_is_standard(&c->sides, path))
                return give_descriptor(c);
        fd = open(path, (c->sides.push ? O_RDONLY : O_WRONLY) | O_CLOEXEC | O_NOCTTY);
        return fd < 0 ? -errno : fd;
}

static int start(Copy *c, const CopySource *s)
{
        const char *here = c->sides.push ? s->given : c->sides.destination;
        bool is_stream = !s->error && copy_sides_is_ours(&c->sides, here);
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_close_ int fd = -EBADF;
        CopyJob *j = &c->jobs[c->n_jobs];
        sd_bus_message *m;
        const char *path;
        int r;

        if (s->error)
                return cli_fail("%s: %s", s->given[0] ? s->given : "''", strerror(s->error));
        if (s->twin)
                return cli_fail("%s: not copied: it would overwrite what %s has just become", s->given,
                                s->twin);
        if (is_stream && sd_bus_can_send(c->cli->bus, 'h') <= 0)
                return cli_fail("%s: this bus cannot pass descriptors (-H): files can be copied, by name",
                                here);
        if (is_stream && (fd = open_ours(c, here)) < 0)
                return cli_fail("%s: %s",
                                !copy_sides_is_standard(&c->sides, here) ? here
                                : c->sides.push                          ? "standard input"
                                                                         : "standard output",
                                strerror(-fd));
        m = client_call_new(c->cli, c->guest_object, IFACE_GUEST,
                            is_stream ? (c->sides.push ? "PushFd" : "PullFd")
                                      : (c->sides.push ? "Push" : "Pull"));
        if (!m)
                return EXIT_FAILED;
        if (is_stream && c->sides.push)
                r = sd_bus_message_append(m, "hs", fd, c->sides.destination);
        else if (is_stream)
                r = sd_bus_message_append(m, "sh", s->path, fd);
        else
                r = sd_bus_message_append(m, "ss", s->path, c->sides.destination);
        if (r >= 0)
                r = append_options(c, s, m);
        if (r < 0) {
                return cli_fail("%s: this name cannot be given over D-Bus: it is not valid UTF-8; copy its "
                                "directory",
                                s->given);
        }
        if (client_call(c->cli, m, UINT64_MAX, NULL, &reply) < 0)
                return EXIT_FAILED;
        if (sd_bus_message_read(reply, "uo", &j->id, &path) < 0 || !(j->path = strdup(path)))
                return cli_fail("vmferry-hostd answered with something else");
        c->n_jobs++;
        return EXIT_DONE;
}

static void job_over(Copy *c, CopyJob *j, const char *state, const char *text)
{
        if (j->over)
                return;
        (void)snprintf(j->state, sizeof(j->state), "%s", state);
        j->over = true;
        c->n_over++;
        if (str_eq(state, "done"))
                return;
        c->n_failed++;
        if (c->told)
                return;
        progress_clear();
        if (c->cancelled && str_eq(state, "cancelled"))
                cli_fail("cancelled");
        else
                cli_fail("%s", text && text[0] ? text : state);
}

/* The entries of a tree that failed, or were left out. */
static int on_reported(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        const char *name, *text, *path, *object = sd_bus_message_get_path(m);
        Copy *c = userdata;
        bool is_ours = false;

        for (size_t i = 0; i < c->n_jobs; i++)
                is_ours |= str_eq(c->jobs[i].path, object);
        if (!is_ours || sd_bus_message_enter_container(m, 'a', "(sss)") < 0)
                return 0;
        progress_clear();
        while (sd_bus_message_read(m, "(sss)", &path, &name, &text) > 0)
                cli_fail("%s%s%s", path, path[0] ? ": " : "", text);
        return 0;
}

static void read_progress(CopyJob *j, json_object *p)
{
        j->done = json_u64(p, "BytesDone");
        j->total = json_u64(p, "BytesTotal");
        j->files_done = json_u64(p, "FilesDone");
        j->files_total = json_u64(p, "FilesTotal");
        free(j->digest);
        j->digest = strdup(json_str(p, "Digest"));
}

static int on_finished(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        const char *result, *name, *text, *path = sd_bus_message_get_path(m);
        Copy *c = userdata;

        if (sd_bus_message_read(m, "sss", &result, &name, &text) < 0)
                return 0;
        for (size_t i = 0; i < c->n_jobs; i++)
                if (str_eq(c->jobs[i].path, path)) {
                        /* The last progress is in the properties: a Finished job stays for a while. */
                        _cleanup_json_ json_object *p = NULL;

                        if (client_properties(c->cli, path, IFACE_JOB, true, &p) >= 0)
                                read_progress(&c->jobs[i], p);
                        job_over(c, &c->jobs[i], result, text);
                }
        return 0;
}

/* Reads the jobs' properties: for the bar, and for the case that the signal was missed or hostd was
 * restarted. */
static void poll_jobs(Copy *c)
{
        c->polled_at = fs_now_usec();
        for (size_t i = 0; i < c->n_jobs; i++) {
                CopyJob *j = &c->jobs[i];
                _cleanup_json_ json_object *p = NULL;
                const char *state;

                if (j->over)
                        continue;
                if (client_properties(c->cli, j->path, IFACE_JOB, true, &p) < 0) {
                        if (j->lost_since == 0)
                                j->lost_since = fs_now_usec();
                        if (fs_now_usec() - j->lost_since > LOST_PATIENCE)
                                job_over(c, j, "lost",
                                         "vmferry-hostd does not know the job any more: it was restarted");
                        continue;
                }
                j->lost_since = 0;
                read_progress(j, p);
                state = json_str(p, "State");
                if (!str_eq(state, "done") && !str_eq(state, "failed") && !str_eq(state, "cancelled"))
                        continue;
                /* What it has reported came before this answer, and is told before. */
                while (sd_bus_process(c->cli->bus, NULL) > 0)
                        ;
                job_over(c, j, state, json_str(p, "ErrorMessage"));
        }
}

static void show(Copy *c)
{
        Progress p = {};

        for (size_t i = 0; i < c->n_jobs; i++) {
                CopyJob *j = &c->jobs[i];

                p.done += j->done;
                p.files_done += j->files_done;
                p.total = j->total == UINT64_MAX || p.total == UINT64_MAX ? UINT64_MAX : p.total + j->total;
                p.files_total = j->files_total == UINT64_MAX || p.files_total == UINT64_MAX
                                        ? UINT64_MAX
                                        : p.files_total + j->files_total;
        }
        progress_show(&p);
}

static void cancel_all(Copy *c)
{
        c->cancelled = true;
        for (size_t i = 0; i < c->n_jobs; i++) {
                _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
                sd_bus_message *m;

                if (c->jobs[i].over)
                        continue;
                m = client_call_new(c->cli, c->jobs[i].path, IFACE_JOB, "Cancel");
                if (m)
                        (void)client_call(c->cli, m, UINT64_MAX, &e, NULL);
        }
}

/* Our end of a pipe that hostd has. When hostd closes it the job is over, or about to be, and knows why. */
static void pump_broke(Copy *c)
{
        if (!c->cancelled && !(c->sides.push && c->pump.broken_out)) {
                progress_clear();
                cli_fail("standard %s: %s", c->sides.push ? "input" : "output", strerror(c->pump.error));
                c->told = true;
                cancel_all(c);
        }
        pump_close(&c->pump);
}

/* How long until the jobs are looked at again, in µs; however much else there is to do. */
static uint64_t until_poll(const Copy *c)
{
        uint64_t due = c->polled_at + (progress_is_shown() ? USEC_PER_SEC / 5 : USEC_PER_SEC);
        uint64_t now = fs_now_usec();

        return due > now ? due - now : 0;
}

/* One turn: bus, pump, signals, at most until the next look at the jobs. */
static int turn(Copy *c, int signal_fd)
{
        struct pollfd fds[3] = { { .fd = signal_fd, .events = POLLIN } };
        struct signalfd_siginfo si;
        uint64_t deadline;
        int r, timeout;

        while ((r = sd_bus_process(c->cli->bus, NULL)) > 0)
                if (c->n_over == c->n_jobs)
                        return 0;
        if (r < 0)
                return r;
        fds[1] = (struct pollfd){ .fd = sd_bus_get_fd(c->cli->bus),
                                  .events = (short)sd_bus_get_events(c->cli->bus) };
        fds[2].fd = -1;
        if (c->has_pump)
                pump_prepare(&c->pump, &fds[2]);
        timeout = (int)((until_poll(c) + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
        if (sd_bus_get_timeout(c->cli->bus, &deadline) >= 0 && deadline == 0)
                timeout = 0;
        r = poll(fds, ELEMENTSOF(fds), timeout);
        if (r < 0 && errno != EINTR)
                return -errno;
        if (fds[0].revents && read(signal_fd, &si, sizeof(si)) > 0)
                cancel_all(c);
        if (c->has_pump && r > 0) {
                pump_step(&c->pump, &fds[2]);
                if (c->pump.error)
                        pump_broke(c);
        }
        return r;
}

static int run(Copy *c)
{
        _cleanup_close_ int signal_fd = -EBADF;
        size_t next = 0, n = c->sides.n_sources, n_at_once = JOBS_AT_ONCE;
        sigset_t set;
        int r;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
        if (signal_fd < 0)
                return cli_fail("signals: %s", strerror(errno));
        r = sd_bus_match_signal(c->cli->bus, NULL, BUS_NAME, NULL, IFACE_JOB, "Finished", on_finished, c);
        if (r >= 0)
                r = sd_bus_match_signal(c->cli->bus, NULL, BUS_NAME, NULL, IFACE_JOB, "Reported",
                                        on_reported, c);
        if (r < 0)
                return cli_fail("cannot listen on the bus: %s", strerror(-r));
        c->jobs = calloc(n, sizeof(CopyJob));
        if (!c->jobs)
                return cli_fail("no memory");
        /* What merges into a directory may meet what the others put there: in the order of the words then.
         */
        for (size_t i = 0; i < n; i++)
                if (c->sides.sources[i].is_contents)
                        n_at_once = 1;
        c->polled_at = fs_now_usec();
        progress_init(!c->cli->json && !c->detach && isatty(STDERR_FILENO));
        while (next < n || c->n_over < c->n_jobs ||
               (c->has_pump && !c->sides.push && !pump_is_over(&c->pump) && !c->cancelled)) {
                if (next < n && !c->cancelled && (c->detach || c->n_jobs - c->n_over < n_at_once)) {
                        if (start(c, &c->sides.sources[next]) != EXIT_DONE)
                                c->n_failed++;
                        next++;
                        continue;
                }
                if (c->detach)
                        break;
                if (c->cancelled)
                        next = n;
                r = turn(c, signal_fd);
                if (r < 0)
                        return cli_fail("the connection to the bus was lost: %s", strerror(-r));
                if (until_poll(c) == 0)
                        poll_jobs(c);
                show(c);
        }
        progress_end();
        return c->n_failed == 0 && !c->told ? EXIT_DONE : EXIT_FAILED;
}

static void report(const Copy *c)
{
        /* Nothing gets in between the bytes of a file. */
        FILE *f =
                !c->sides.push && copy_sides_is_standard(&c->sides, c->sides.destination) ? stderr : stdout;

        for (size_t i = 0; i < c->n_jobs; i++) {
                json_object *j;

                if (!c->cli->json) {
                        if (c->detach)
                                printf("%" PRIu32 "\n", c->jobs[i].id);
                        continue;
                }
                j = json_object_new_object();
                json_object_object_add(j, "id", json_object_new_int64(c->jobs[i].id));
                json_object_object_add(j, "job", json_object_new_string(c->jobs[i].path));
                if (!c->detach) {
                        json_object_object_add(j, "state", json_object_new_string(c->jobs[i].state));
                        json_object_object_add(j, "bytes", json_object_new_uint64(c->jobs[i].done));
                        if (c->jobs[i].digest && c->jobs[i].digest[0])
                                json_object_object_add(j, "digest",
                                                       json_object_new_string(c->jobs[i].digest));
                }
                cli_write_json(f, j);
        }
}

/* What is done with all the words read. */
static int copy(Copy *c, char **words, size_t n, const char *to)
{
        int r = copy_sides_read(&c->sides, words, n, to);

        if (r != EXIT_DONE)
                return r;
        for (size_t i = 0; c->detach && i < n; i++) {
                const char *here = c->sides.push ? words[i] : to;

                if (copy_sides_is_ours(&c->sides, here))
                        return cli_usage("cp",
                                         "--detach leaves a copy between files: '%s' is gone with this "
                                         "command",
                                         here);
        }
        if (client_guest_path(c->cli, c->sides.guest, &c->guest_object) < 0)
                return EXIT_FAILED;
        if (c->queue && !c->detach) {
                _cleanup_json_ json_object *p = NULL;
                /* Nobody knows when a guest that is not ready will be: the item is left in the queue. */
                if (client_properties(c->cli, c->guest_object, IFACE_GUEST, true, &p) >= 0)
                        c->detach = !str_eq(json_str(p, "State"), "ready");
        }
        r = run(c);
        report(c);
        return r;
}

static void copy_done(Copy *c)
{
        for (size_t i = 0; i < c->n_jobs; i++) {
                free(c->jobs[i].path);
                free(c->jobs[i].digest);
        }
        free(c->jobs);
        copy_sides_done(&c->sides);
        free(c->guest_object);
        pump_close(&c->pump);
}

int command_cp(Cli *cli, int argc, char **argv)
{
        static const struct option options[] = {
                { "preserve", no_argument, NULL, 'p' },
                { "queue", no_argument, NULL, 'q' },
                { "detach", no_argument, NULL, 'd' },
                { "overwrite", required_argument, NULL, 'o' },
                { "ttl", required_argument, NULL, 't' },
                { "recursive", no_argument, NULL, 'r' },
                {},
        };
        _cleanup_(copy_done) Copy c = { .cli = cli, .sides.host = cli->host, .ttl = UINT64_MAX };
        int o;

        while ((o = getopt_long(argc, argv, "prR", options, NULL)) >= 0)
                switch (o) {
                case 'p':
                        c.preserve = true;
                        break;
                case 'q':
                        c.queue = true;
                        break;
                case 'd':
                        c.detach = true;
                        break;
                case 'o':
                        if (!str_eq(optarg, "replace") && !str_eq(optarg, "fail") &&
                            !str_eq(optarg, "update"))
                                return cli_usage("cp", "--overwrite is replace, fail or update, not '%s'",
                                                 optarg);
                        c.overwrite = optarg;
                        break;
                case 't':
                        if (cli_parse_seconds(optarg, &c.ttl) < 0)
                                return cli_usage("cp", "--ttl takes seconds, not '%s'", optarg);
                        break;
                case 'r':
                case 'R': /* directories are copied as they are: for the fingers' sake */
                        break;
                default:
                        return EXIT_USAGE;
                }
        if (argc - optind < 2)
                return cli_usage("cp", "takes at least one source, and a destination");
        return copy(&c, argv + optind, (size_t)(argc - optind - 1), argv[argc - 1]);
}
