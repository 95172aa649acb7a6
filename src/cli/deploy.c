/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * deploy, adopt: the channels through hostd, the rest by vmferry-deploy with the caller's own rights, and
 * for a running guest the wait until it is ready.
 */

#include <getopt.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "cli/client.h"

#define ARGUMENTS_MAX 12u
#define ADOPT_TIMEOUT_USEC (60 * USEC_PER_SEC)

extern char **environ;

typedef struct Deploy {
        Cli *cli;
        const char *agent, *backend, *name;
        bool dry_run, no_enable;
        uint64_t timeout_usec;
} Deploy;

/* hostd's; malloc'ed. NULL: hostd isn't there, libvirt's own default counts. */
static char *connect_uri(Cli *c)
{
        _cleanup_json_ json_object *p = NULL;
        const char *uri = "";

        if (client_properties(c, BUS_PATH, IFACE_MANAGER, true, &p) >= 0)
                uri = json_str(p, "ConnectUri");
        return uri[0] ? strdup(uri) : NULL;
}

static volatile sig_atomic_t watched, is_due;

/* The terminal's own signals reach both of us. */
static void on_signal(int number)
{
        if (number != SIGTERM)
                return;
        if (watched > 0)
                (void)kill((pid_t)watched, SIGTERM);
        else
                is_due = true; /* it is being started */
}

static void catch_signals(void (*handler)(int))
{
        static const int numbers[] = { SIGINT, SIGQUIT, SIGHUP, SIGTERM };
        const struct sigaction action = { .sa_handler = handler };

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                (void)sigaction(numbers[i], &action, NULL);
}

/* Runs vmferry-deploy and waits: its exit status. */
static int run(const Deploy *d, const char *verb, const char *uri, uint64_t left_usec)
{
        const char *program = getenv("VMFERRY_DEPLOY") ?: DEPLOY_PATH;
        _cleanup_free_ char *connect = NULL, *agent = NULL, *backend = NULL, *timeout = NULL;
        char *argv[ARGUMENTS_MAX];
        size_t n = 0;
        pid_t pid;
        int status;

        argv[n++] = (char *)program;
        argv[n++] = (char *)verb;
        if (uri && asprintf(&connect, "--connect=%s", uri) >= 0)
                argv[n++] = connect;
        if (d->agent && asprintf(&agent, "--agent=%s", d->agent) >= 0)
                argv[n++] = agent;
        if (d->backend && asprintf(&backend, "--backend=%s", d->backend) >= 0)
                argv[n++] = backend;
        if (asprintf(&timeout, "--timeout=%llu", (unsigned long long)(left_usec / USEC_PER_SEC + 1)) >= 0)
                argv[n++] = timeout;
        if (d->dry_run)
                argv[n++] = (char *)"--dry-run";
        if (d->cli->json)
                argv[n++] = (char *)"--json";
        argv[n++] = (char *)"--";
        argv[n++] = (char *)d->name;
        argv[n] = NULL;
        (void)fflush(stdout);
        /* It puts things back when it is interrupted, and we stay to tell how it ended. */
        catch_signals(on_signal);
        int r = posix_spawn(&pid, program, NULL, NULL, argv, environ);
        if (r != 0) {
                catch_signals(SIG_DFL);
                return cli_fail("%s: %s", program, strerror(r));
        }
        watched = pid;
        if (is_due)
                (void)kill(pid, SIGTERM);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return cli_fail("%s: %s", program, strerror(errno));
        catch_signals(SIG_DFL);
        return WIFEXITED(status) ? WEXITSTATUS(status)
                                 : cli_fail("%s was ended by signal %d", program, WTERMSIG(status));
}

static int enable(Cli *c, const char *domain)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        sd_bus_message *m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "EnableChannels");

        if (!m || client_append(m, "sa{sv}", domain, 0) < 0 ||
            client_call(c, m, UINT64_MAX, NULL, &reply) < 0)
                return EXIT_FAILED;
        if (!c->json)
                printf("the channels of %s are there\n", domain);
        return EXIT_DONE;
}

/* What adopt had added is taken away again when it came to nothing. */
static void disable(Cli *c, const char *domain)
{
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "DisableChannels");

        if (!m || sd_bus_message_append(m, "sa{sv}", domain, 0) < 0)
                return;
        if (client_call(c, m, UINT64_MAX, &error, NULL) < 0)
                (void)client_print_error(&error, -EIO);
        else if (!c->json)
                printf("the channels of %s were removed again\n", domain);
}

/* 1, 0; -errno after printing why. */
static int has_channels(Cli *c, const char *domain)
{
        _cleanup_json_ json_object *p = NULL;
        _cleanup_free_ char *path = NULL;
        int r = client_guest_path(c, domain, &path);

        if (r == 0)
                r = client_properties(c, path, IFACE_GUEST, false, &p);
        return r < 0 ? r : !str_eq(json_str(p, "State"), "no-channel");
}

static int wait_ready(Cli *c, const char *domain, uint64_t timeout_usec)
{
        sd_bus_message *m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "WaitReady");

        if (!m || client_append(m, "st", domain, timeout_usec) < 0 ||
            client_call(c, m, UINT64_MAX, NULL, NULL) < 0)
                return EXIT_FAILED;
        if (!c->json)
                printf("%s is ready\n", domain);
        return EXIT_DONE;
}

static int parse(Deploy *d, int argc, char **argv, bool is_adopt)
{
        static const struct option options[] = {
                { "agent", required_argument, NULL, 'a' },   { "backend", required_argument, NULL, 'b' },
                { "dry-run", no_argument, NULL, 'n' },       { "no-enable", no_argument, NULL, 'e' },
                { "timeout", required_argument, NULL, 't' }, {},
        };

        for (int o; (o = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                switch (o) {
                case 'a':
                        d->agent = optarg;
                        break;
                case 'b':
                        if (is_adopt)
                                return cli_usage(argv[0], "needs no backend");
                        d->backend = optarg;
                        break;
                case 'n':
                        d->dry_run = true;
                        break;
                case 'e':
                        d->no_enable = true;
                        break;
                case 't':
                        if (!is_adopt || cli_parse_seconds(optarg, &d->timeout_usec) < 0 ||
                            d->timeout_usec < USEC_PER_SEC)
                                return cli_usage(argv[0],
                                                 is_adopt ? "--timeout takes seconds, not '%s'"
                                                          : "takes no --timeout (%s)",
                                                 optarg);
                        break;
                default:
                        return EXIT_USAGE;
                }
        if (argc - optind != 1)
                return cli_usage(argv[0], is_adopt ? "takes one domain" : "takes one domain or image");
        if (d->cli->host)
                return cli_usage(argv[0], "works on this host: run it on the other one instead of -H");
        d->name = argv[optind];
        return EXIT_DONE;
}

int command_deploy(Cli *c, int argc, char **argv)
{
        Deploy d = { .cli = c };
        _cleanup_free_ char *uri = NULL;
        struct stat st;
        int r = parse(&d, argc, argv, false);

        if (r != EXIT_DONE)
                return r;
        if (stat(d.name, &st) == 0 && !S_ISDIR(st.st_mode))
                return run(&d, "deploy", NULL, 0);
        uri = connect_uri(c);
        r = run(&d, "deploy", uri ? uri : c->user ? "qemu:///session" : "qemu:///system", 0);
        if (r != EXIT_DONE || d.dry_run || d.no_enable)
                return r;
        if (!uri) {
                if (!c->json)
                        printf("vmferry-hostd is not running; vmferry enable %s adds the channels\n",
                               d.name);
                return EXIT_DONE;
        }
        return enable(c, d.name);
}

int command_adopt(Cli *c, int argc, char **argv)
{
        Deploy d = { .cli = c, .timeout_usec = ADOPT_TIMEOUT_USEC };
        _cleanup_free_ char *uri = NULL;
        uint64_t deadline, now;
        int r = parse(&d, argc, argv, true), had_channels;

        if (r != EXIT_DONE)
                return r;
        deadline = fs_now_usec() + d.timeout_usec;
        uri = connect_uri(c);
        if (!uri)
                return cli_fail(
                        "vmferry-hostd does not answer: it has to add the channels and to meet the guest");
        had_channels = has_channels(c, d.name);
        if (had_channels < 0)
                return EXIT_FAILED;
        if (!d.dry_run && !d.no_enable && (r = enable(c, d.name)) != EXIT_DONE)
                return r;
        r = run(&d, "adopt", uri, d.timeout_usec);
        if (r != EXIT_DONE && !d.dry_run && !d.no_enable && !had_channels)
                disable(c, d.name);
        if (r != EXIT_DONE || d.dry_run)
                return r;
        now = fs_now_usec();
        return wait_ready(c, d.name, now < deadline ? deadline - now : USEC_PER_SEC);
}
