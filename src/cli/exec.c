/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * exec and shell: a command in the guest with this process's standard input and output, ending as the
 * command did.
 */

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

#include "base/fs.h"
#include "cli/exec-private.h"

#define ATTACH_PAUSE_USEC (500 * USEC_PER_MSEC)
#define STUCK_USEC (2 * USEC_PER_SEC) /* once it was interrupted */

static void exec_done(Exec *x)
{
        pump_close(&x->in);
        pump_close(&x->out);
        pump_close(&x->err);
        if (x->keyboard > 0)
                fd_close(x->keyboard);
        free(x->job);
        free(x->result);
        free(x->error);
        json_object_put(x->process);
}

static int status_of_error(const sd_bus_error *e, int r)
{
        const char *name = client_error_name(e);

        (void)client_print_error(e, r);
        return str_eq(name, "NotFound")           ? EXIT_NOT_FOUND
               : str_eq(name, "PermissionDenied") ? EXIT_CANNOT_EXECUTE
                                                  : EXIT_VMFERRY;
}

static int on_finished(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        const char *result, *name, *text;
        Exec *x = userdata;

        if (!str_eq(sd_bus_message_get_path(m), x->job) ||
            sd_bus_message_read(m, "sss", &result, &name, &text) < 0)
                return 0;
        x->finished = true;
        free(x->result);
        free(x->error);
        x->result = strdup(result);
        x->error = strdup(text);
        return 0;
}

/* As soon as it has finished: the job may be gone when somebody has read the last of its output. */
static void ask_process(Exec *x)
{
        if (!x->finished || x->asked)
                return;
        x->asked = true;
        if (str_eq(x->result, "done"))
                (void)client_properties(x->cli, x->job, IFACE_PROCESS, false, &x->process);
}

/* hostd's unique name has changed or gone: the job and our pipes are lost with it. */
static int on_owner(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        const char *name, *old, *new;
        Exec *x = userdata;

        if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0 && old[0])
                x->job_gone = true;
        return 0;
}

/* Not waited for: the answer comes when the guest has done it, and what is typed goes on meanwhile. */
static void job_tell(Exec *x, const char *interface, const char *method, const char *types, ...)
{
        sd_bus_message *m = client_call_new(x->cli, x->job, interface, method);
        va_list ap;

        if (!m)
                return;
        va_start(ap, types);
        if (types)
                (void)sd_bus_message_appendv(m, types, ap);
        va_end(ap);
        (void)sd_bus_message_set_expect_reply(m, false);
        (void)sd_bus_send(x->cli->bus, m, NULL);
}

static void job_cancel(Exec *x)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        sd_bus_message *m = client_call_new(x->cli, x->job, IFACE_JOB, "Cancel");

        if (m)
                (void)client_call(x->cli, m, 0, &e, NULL);
}

static void on_signal_fd(Exec *x, int fd)
{
        struct signalfd_siginfo si;

        if (read(fd, &si, sizeof(si)) != sizeof(si) || !x->job)
                return;
        if (si.ssi_signo == SIGWINCH) {
                uint16_t rows, columns;

                terminal_size(&rows, &columns);
                if (x->tty)
                        job_tell(x, IFACE_PROCESS, "Resize", "qq", rows, columns);
                return;
        }
        if (x->attached || si.ssi_signo == SIGHUP) { /* nobody looks any more */
                x->left = true;
                x->left_status = 128 + (int)si.ssi_signo;
                return;
        }
        /* As a shell would: the signal goes to the command; who insists ends the job. */
        if (x->n_interrupts++ == 0)
                job_tell(x, IFACE_PROCESS, "Kill", "i", (int)si.ssi_signo);
        else
                job_cancel(x);
}

/* Local output that nobody reads any more: closed, so that the command learns it as it would at home. */
static void on_broken_output(Exec *x, Pump *p)
{
        if (!p->broken_out)
                return;
        p->broken_out = false;
        pump_close(p);
        if (x->attached) {
                x->left = true;
                x->left_status = 128 + SIGPIPE;
        }
}

/* Who has interrupted it waits for its end, and not for a reader that takes nothing any more. */
static void drop_stuck_output(Exec *x)
{
        uint64_t moved = x->out.total + x->err.total, now = fs_now_usec();

        if (x->n_interrupts == 0 || moved != x->moved) {
                x->moved = moved;
                x->moved_at = now;
        }
        if (now - x->moved_at < STUCK_USEC)
                return;
        if (pump_is_stuck(&x->out))
                pump_close(&x->out);
        if (pump_is_stuck(&x->err))
                pump_close(&x->err);
}

static bool is_over(const Exec *x)
{
        return (x->finished || (x->job_gone && !x->attached)) && pump_is_over(&x->out) &&
               pump_is_over(&x->err);
}

static int turn(Exec *x, int signal_fd)
{
        struct pollfd fds[5] = { { .fd = signal_fd, .events = POLLIN } };
        uint64_t deadline = UINT64_MAX;
        int r;

        while ((r = sd_bus_process(x->cli->bus, NULL)) > 0)
                ;
        if (r < 0)
                return r;
        ask_process(x);
        fds[1] = (struct pollfd){ .fd = sd_bus_get_fd(x->cli->bus),
                                  .events = (short)sd_bus_get_events(x->cli->bus) };
        pump_prepare(&x->in, &fds[2]);
        pump_prepare(&x->out, &fds[3]);
        pump_prepare(&x->err, &fds[4]);
        (void)sd_bus_get_timeout(x->cli->bus, &deadline);
        if (is_over(x))
                return 0;
        r = poll(fds, ELEMENTSOF(fds), deadline == 0 ? 0 : 1000);
        if (r < 0)
                return errno == EINTR ? 0 : -errno;
        if (fds[0].revents)
                on_signal_fd(x, signal_fd);
        /* A terminal's input has no end but the one that Ctrl-D tells to who reads just then: again while
         * all is quiet. */
        if (r == 0 && deadline != 0 && x->keyboard > 0 && pump_is_over(&x->in))
                (void)!write(x->keyboard, "\4", 1);
        pump_step(&x->in, &fds[2]);
        if (x->in.error)
                pump_close(
                        &x->in); /* the command reads no more, or our input broke: it sees the end of file */
        pump_step(&x->out, &fds[3]);
        on_broken_output(x, &x->out);
        pump_step(&x->err, &fds[4]);
        on_broken_output(x, &x->err);
        drop_stuck_output(x);
        return 0;
}

static int exit_status(Exec *x)
{
        if (x->left)
                return x->left_status;
        if (!x->finished) {
                cli_fail("vmferry-hostd was restarted or has ended: the command's end is not known");
                return EXIT_VMFERRY;
        }
        ask_process(x);
        if (x->process) {
                int n = (int)json_object_get_int64(json_object_object_get(x->process, "ExitSignal"));

                if (n > 0)
                        return 128 + n;
                return (int)json_object_get_int64(json_object_object_get(x->process, "ExitStatus"));
        }
        cli_fail("%s", x->error && x->error[0] ? x->error : x->result);
        return EXIT_VMFERRY;
}

static ssize_t leave_or_pass(void *userdata, uint8_t *data, size_t n)
{
        Exec *x = userdata;
        ssize_t kept = terminal_filter(&x->escape, data, n);

        if (kept < 0) {
                x->left = true;
                x->left_status = EXIT_VMFERRY;
        }
        return kept;
}

/* Its output is whole from the start, each time. */
static int attach_once(Exec *x, int fds[3], sd_bus_error *e)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_json_ json_object *p = NULL;
        sd_bus_message *m = client_call_new(x->cli, x->job, IFACE_PROCESS, "Attach");
        const char *state;
        int r;

        if (!m || sd_bus_message_append(m, "a{sv}", 0) < 0)
                return -ENOMEM;
        r = client_call(x->cli, m, UINT64_MAX, e, &reply);
        if (r >= 0)
                r = sd_bus_message_read(reply, "hh", &fds[1], &fds[2]);
        if (r >= 0)
                r = client_properties(x->cli, x->job, IFACE_JOB, true, &p);
        if (r < 0)
                return r;
        for (int i = 1; i < 3; i++)
                fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        state = json_str(p, "State");
        if (str_eq(state, "done") || str_eq(state, "failed") || str_eq(state, "cancelled")) {
                x->finished = true;
                free(x->result);
                free(x->error);
                x->result = strdup(state);
                x->error = strdup(json_str(p, "ErrorMessage"));
        }
        return 0;
}

static bool is_cut(const Exec *x)
{
        return pump_is_over(&x->out) && pump_is_over(&x->err) && !x->finished;
}

/* The output has ended and the process has not: the guest or hostd was away. Or its end is just about to be
 * told. */
static int attach_again(Exec *x, int signal_fd)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        struct pollfd polled = { .fd = signal_fd, .events = POLLIN };
        int fds[3], r;

        if (poll(&polled, 1, 0) > 0)
                on_signal_fd(x, signal_fd);
        r = sd_bus_wait(x->cli->bus, ATTACH_PAUSE_USEC);
        while (r >= 0 && (r = sd_bus_process(x->cli->bus, NULL)) > 0)
                ;
        if (r < 0 || x->finished || x->left)
                return r;
        r = attach_once(x, fds, &e);
        if (r >= 0) {
                for (int i = 1; i < 3; i++)
                        (void)fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK);
                pump_again(&x->out, fds[1]);
                pump_again(&x->err, fds[2]);
                x->job_gone = false;
                return 0;
        }
        if (str_eq(client_error_name(&e), "NotReady") ||
            sd_bus_error_has_name(&e, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
            sd_bus_error_has_name(&e, SD_BUS_ERROR_NO_REPLY) ||
            sd_bus_error_has_name(&e, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                return 0;
        (void)client_print_error(&e, r);
        return -ECANCELED;
}

static int drive(Exec *x, int fds[3])
{
        _cleanup_close_ int signal_fd = -EBADF;
        sigset_t set;
        int r;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        sigaddset(&set, SIGWINCH);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
        for (int i = 0; i < 3; i++)
                if (fds[i] >= 0)
                        (void)fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK);
        x->in = (Pump){ .in = STDIN_FILENO, .out = fds[0], .owns_out = true };
        x->out = (Pump){ .in = fds[1], .out = STDOUT_FILENO, .owns_in = true };
        x->err = (Pump){ .in = fds[2], .out = STDERR_FILENO, .owns_in = true };
        if (!x->input)
                pump_close(&x->in);
        if (fds[2] < 0)
                x->err.ended = true;
        if (x->tty && isatty(STDIN_FILENO)) {
                x->escape.at_start = true;
                x->in.filter = leave_or_pass;
                x->in.userdata = x;
                r = terminal_raw();
                if (r < 0)
                        cli_fail("the terminal stays as it is: %s", strerror(-r));
        } else if (x->tty && x->input)
                x->keyboard = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
        while (!x->left && !is_over(x)) {
                r = x->attached && is_cut(x) ? attach_again(x, signal_fd) : turn(x, signal_fd);
                if (r == -ECANCELED)
                        return EXIT_VMFERRY;
                if (r < 0) {
                        terminal_restore();
                        cli_fail("the connection to the bus was lost: %s", strerror(-r));
                        return EXIT_VMFERRY;
                }
        }
        terminal_restore();
        if (x->left && !x->attached) {
                fputs("\nvmferry: left the command\n", stderr);
                job_cancel(x);
        }
        return exit_status(x);
}

/* Over ssh no descriptor can pass, and a JSON document has an end: the command runs to its own first. */
static int run_without_descriptors(Exec *x, const char *guest_object, char **argv)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_free_ uint8_t *input = NULL;
        size_t n_input = 0, n;
        sd_bus_message *m;
        const void *data;
        int status, r;

        if (x->tty || x->detach) {
                cli_fail("this bus cannot pass descriptors (-H): no terminal, and no --detach");
                return EXIT_VMFERRY;
        }
        if (x->input && cli_read_all(STDIN_FILENO, 16 * 1024 * 1024, &input, &n_input) < 0) {
                cli_fail("standard input is more than can be sent over this bus (16 MiB)");
                return EXIT_VMFERRY;
        }
        x->bytes = x->input ? input ?: (const uint8_t *)"" : NULL;
        x->n_bytes = n_input;
        m = client_call_new(x->cli, guest_object, IFACE_GUEST, "Run");
        if (!m || sd_bus_message_append_strv(m, argv) < 0 || exec_append_options(x, m) < 0)
                return EXIT_VMFERRY;
        r = client_call(x->cli, m, UINT64_MAX, &e, &reply);
        if (r < 0)
                return status_of_error(&e, r);
        if (sd_bus_message_read(reply, "i", &status) < 0)
                return EXIT_VMFERRY;
        if (x->cli->json) {
                json_object *j = json_object_new_object(), *out = NULL, *err = NULL;

                (void)client_read_json(reply, &out);
                (void)client_read_json(reply, &err);
                json_object_object_add(j, "exit_status", json_object_new_int(status));
                json_object_object_add(j, "stdout", out);
                json_object_object_add(j, "stderr", err);
                cli_print_json(j);
                return status;
        }
        for (int fd = 1; fd <= 2; fd++)
                if (sd_bus_message_read_array(reply, 'y', &data, &n) >= 0 && n > 0)
                        (void)fwrite(data, 1, n, fd == 1 ? stdout : stderr);
        return status;
}

/* Carried out when nobody looks: its exit status is the job's. */
static int queue(Exec *x, const char *guest_object, char **argv)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        sd_bus_message *m = client_call_new(x->cli, guest_object, IFACE_GUEST, "Run");
        uint32_t id;
        int r;

        if (!m || sd_bus_message_append_strv(m, argv) < 0 || exec_append_options(x, m) < 0) {
                cli_fail("the command cannot be given over D-Bus: is it valid UTF-8?");
                return EXIT_VMFERRY;
        }
        r = client_call_queued(x->cli, m, &e, &id);
        if (r < 0)
                return status_of_error(&e, r);
        client_print_id(x->cli, id);
        return EXIT_DONE;
}

static int listen_for_end(Exec *x)
{
        int r = sd_bus_match_signal(x->cli->bus, NULL, BUS_NAME, NULL, IFACE_JOB, "Finished", on_finished,
                                    x);

        if (r >= 0)
                r = sd_bus_add_match(
                        x->cli->bus, NULL,
                        "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                        "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" BUS_NAME "'",
                        on_owner, x);
        if (r < 0)
                cli_fail("cannot listen on the bus: %s", strerror(-r));
        return r;
}

static int start(Exec *x, const char *guest, char **argv)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_free_ char *guest_object = NULL, *term = NULL;
        int fds[3], r;
        const char *job;
        sd_bus_message *m;
        uint32_t id;

        exec_add_term(x, &term);
        if (client_guest_path(x->cli, guest, &guest_object) < 0)
                return EXIT_VMFERRY;
        if (x->queue)
                return queue(x, guest_object, argv);
        if (sd_bus_can_send(x->cli->bus, 'h') <= 0 || (x->cli->json && !x->tty && !x->detach))
                return run_without_descriptors(x, guest_object, argv);
        if (listen_for_end(x) < 0)
                return EXIT_VMFERRY;
        m = client_call_new(x->cli, guest_object, IFACE_GUEST, "Exec");
        if (!m || sd_bus_message_append_strv(m, argv) < 0 || exec_append_options(x, m) < 0) {
                cli_fail("the command cannot be given over D-Bus: is it valid UTF-8?");
                return EXIT_VMFERRY;
        }
        r = client_call(x->cli, m, UINT64_MAX, &e, &reply);
        if (r < 0)
                return status_of_error(&e, r);
        if (sd_bus_message_read(reply, "uohhh", &id, &job, &fds[0], &fds[1], &fds[2]) < 0 ||
            !(x->job = strdup(job))) {
                cli_fail("vmferry-hostd answered Exec with something else");
                return EXIT_VMFERRY;
        }
        if (x->detach) {
                if (x->cli->json) {
                        json_object *j = json_object_new_object();

                        json_object_object_add(j, "id", json_object_new_int64(id));
                        json_object_object_add(j, "job", json_object_new_string(job));
                        cli_print_json(j);
                } else
                        printf("%" PRIu32 "\n", id);
                return EXIT_DONE;
        }
        for (int i = 0; i < 3; i++)
                fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        /* The message has descriptors of its own: without this, ours would not be the last. */
        reply = sd_bus_message_unref(reply);
        return drive(x, fds);
}

static int attach(Exec *x, const char *id)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        int fds[3] = { -EBADF, -EBADF, -EBADF }, r;

        if (id[0] == 0 || strspn(id, "0123456789") != strlen(id))
                return cli_usage("exec", "'%s' is not the id of a job", id);
        if (asprintf(&x->job, "/org/vmferry1/job/%s", id) < 0 || !client_bus(x->cli) ||
            listen_for_end(x) < 0)
                return EXIT_VMFERRY;
        x->attached = true;
        r = attach_once(x, fds, &e);
        if (r < 0) {
                if (sd_bus_error_has_name(&e, SD_BUS_ERROR_UNKNOWN_OBJECT))
                        cli_fail("there is no job %s", id);
                else
                        (void)client_print_error(&e, r);
                return EXIT_VMFERRY;
        }
        return drive(x, fds);
}

int command_exec(Cli *cli, int argc, char **argv)
{
        static const struct option options[] = {
                { "tty", no_argument, NULL, 't' },
                { "interactive", no_argument, NULL, 'i' },
                { "user", required_argument, NULL, 'u' },
                { "cwd", required_argument, NULL, 'w' },
                { "env", required_argument, NULL, 'e' },
                { "timeout", required_argument, NULL, 'T' },
                { "detach", no_argument, NULL, 'd' },
                { "attach", required_argument, NULL, 'a' },
                { "queue", no_argument, NULL, 'q' },
                { "ttl", required_argument, NULL, 'l' },
                {},
        };
        _cleanup_(exec_done) Exec x = { .cli = cli, .timeout = UINT64_MAX, .ttl = UINT64_MAX };
        _cleanup_free_ char **env = NULL;
        const char *attach_to = NULL;
        int o;

        x.env = env =
                calloc((size_t)argc + 1, sizeof(char *)); /* one more than there can be options: TERM */
        if (!x.env)
                return EXIT_VMFERRY;
        while ((o = getopt_long(argc, argv, "+tiu:w:e:d", options, NULL)) >= 0)
                switch (o) {
                case 't':
                        x.tty = true;
                        break;
                case 'i':
                        x.input = true;
                        break;
                case 'u':
                        x.user = optarg;
                        break;
                case 'w':
                        x.cwd = optarg;
                        break;
                case 'e':
                        if (!strchr(optarg, '=') || optarg[0] == '=')
                                return cli_usage("exec", "-e takes NAME=VALUE, not '%s'", optarg);
                        x.env[x.n_env++] = optarg;
                        break;
                case 'T':
                case 'l':
                        if (cli_parse_seconds(optarg, o == 'T' ? &x.timeout : &x.ttl) < 0)
                                return cli_usage("exec", "--%s takes seconds, not '%s'",
                                                 o == 'T' ? "timeout" : "ttl", optarg);
                        break;
                case 'q':
                        x.queue = true;
                        break;
                case 'd':
                        x.detach = true;
                        break;
                case 'a':
                        attach_to = optarg;
                        break;
                default:
                        return EXIT_USAGE;
                }
        if (x.queue && (x.tty || x.input || x.detach || attach_to))
                return cli_usage("exec",
                                 "--queue leaves the command to itself: no -t, -i, --detach, --attach");
        if (x.ttl != UINT64_MAX && !x.queue)
                return cli_usage("exec", "--ttl is for what is queued: it goes with --queue");
        if (attach_to)
                return attach(&x, attach_to);
        if (argc - optind < 1)
                return cli_usage("exec", "takes a guest and a command");
        if (argc - optind > 1 && strcmp(argv[optind + 1], "--") == 0) {
                argv[optind + 1] = argv[optind];
                optind++;
        }
        if (argc - optind < 2)
                return cli_usage("exec", "no command was given behind '%s'", argv[optind]);
        /* A terminal without input would be a picture only. */
        if (x.tty && isatty(STDIN_FILENO))
                x.input = true;
        return start(&x, argv[optind], argv + optind + 1);
}

int command_shell(Cli *cli, int argc, char **argv)
{
        static const struct option options[] = { { "user", required_argument, NULL, 'u' }, {} };
        /* The login shell of the user, as passwd(5) names it, at home; guestd puts SHELL and HOME there. */
        char *shell[] = { (char *)"/bin/sh", (char *)"-c",
                          (char *)"cd 2>/dev/null; exec \"${SHELL:-/bin/sh}\" -l", NULL };
        char *env[1];
        _cleanup_(exec_done) Exec x = {
                .cli = cli, .timeout = UINT64_MAX, .ttl = UINT64_MAX, .tty = true, .input = true, .env = env
        };
        int o;

        while ((o = getopt_long(argc, argv, "u:", options, NULL)) >= 0) {
                if (o != 'u')
                        return EXIT_USAGE;
                x.user = optarg;
        }
        if (argc - optind != 1)
                return cli_usage("shell", "takes one guest");
        return start(&x, argv[optind], shell);
}
