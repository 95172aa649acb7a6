/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * vmferry: the command that people type. Options before the command, then the command's own; a D-Bus client
 * and nothing more.
 */

#include <fcntl.h>
#include <getopt.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/table.h"
#include "cli/commands.h"

int cli_fail(const char *format, ...)
{
        _cleanup_free_ char *text = NULL, *shown = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        if (n < 0)
                text = NULL;
        else
                shown = format_text(text);
        /* In one piece: upgrade --all has several processes that say something at once. */
        fprintf(stderr, "vmferry: %s\n", shown ? shown : "");
        return EXIT_FAILED;
}

void cli_print_text(FILE *f, const char *text)
{
        _cleanup_free_ char *shown = format_text(text);

        fputs(shown ? shown : "", f);
}

int cli_usage(const char *command, const char *format, ...)
{
        va_list ap;

        fprintf(stderr, "vmferry%s%s: ", command ? " " : "", command ? command : "");
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fputs(" (see vmferry --help)\n", stderr);
        return EXIT_USAGE;
}

int cli_parse_seconds(const char *text, uint64_t *ret_usec)
{
        char *end;
        double v;

        errno = 0;
        v = strtod(text, &end);
        if (errno || end == text || *end || !isfinite(v) || v < 0 || v > 1e12)
                return -EINVAL;
        *ret_usec = (uint64_t)(v * 1e6);
        return 0;
}

int cli_read_all(int fd, size_t max, uint8_t **ret, size_t *ret_n)
{
        _cleanup_free_ uint8_t *data = NULL;
        size_t n = 0, allocated = 0;

        for (;;) {
                ssize_t l;

                if (n == allocated) {
                        uint8_t *p;

                        if (n > max)
                                return -EFBIG;
                        allocated = MAX(allocated * 2, 4096u);
                        p = realloc(data, allocated);
                        if (!p)
                                return -ENOMEM;
                        data = p;
                }
                l = read(fd, data + n, allocated - n);
                if (l < 0 && errno == EINTR)
                        continue;
                if (l < 0)
                        return -errno;
                if (l == 0)
                        break;
                n += (size_t)l;
        }
        if (n > max)
                return -EFBIG;
        *ret = TAKE(data);
        *ret_n = n;
        return 0;
}

int cli_payload(const char *text, uint8_t **ret, size_t *ret_n)
{
        if (text && strcmp(text, "-") == 0)
                return cli_read_all(STDIN_FILENO, 16 * 1024 * 1024, ret, ret_n);
        *ret = (uint8_t *)strdup(text ? text : "");
        if (!*ret)
                return -ENOMEM;
        *ret_n = strlen((char *)*ret);
        return 0;
}

void cli_write_json(FILE *f, json_object *o)
{
        fputs(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE), f);
        fputc('\n', f);
        fflush(f);
        json_object_put(o);
}

void cli_print_json(json_object *o)
{
        cli_write_json(stdout, o);
}

static int help(void)
{
        printf("vmferry [--user|--system] [-H HOST] [--json] COMMAND …\n\n"
               "Messages, commands and files between this host and its virtual machines, without a "
               "network.\n\n");
        for (const Command *c = commands; c->name; c++)
                printf("  %-9s %-44s %s\n", c->name, c->arguments, c->summary);
        printf("\nOptions:\n"
               "  --user        your own VMs: the session bus and qemu:///session\n"
               "  --system      the host's VMs: the system bus and qemu:///system (default)\n"
               "  -H, --host H  the system bus of another host, over ssh\n"
               "  --json        one JSON document, or one object a line\n"
               "  --version\n"
               "  -h, --help\n\nThe manual is vmferry(1).\n");
        return EXIT_DONE;
}

/* Words of others may follow, so options stand before the guest only; and exec's --user is somebody in it.
 */
static bool is_strict(const char *command)
{
        static const char *const strict[] = { "exec", "shell", "send", "call" };

        for (size_t i = 0; i < ELEMENTSOF(strict); i++)
                if (strcmp(command, strict[i]) == 0)
                        return true;
        return false;
}

/* Fingers put the options before the command behind it, too. Takes them out of argv, which begins with the
 * command. EXIT_DONE: go on. */
static int read_globals(Cli *cli, int *argc, char **argv, bool *ret_help)
{
        bool strict = is_strict(argv[0]);
        int n = 1, i = 1;

        for (; i < *argc && strcmp(argv[i], "--") != 0 && !(strict && n > 1); i++) {
                const char *a = argv[i];

                if (strcmp(a, "--json") == 0)
                        cli->json = true;
                else if (strcmp(a, "--help") == 0)
                        *ret_help = true;
                else if (!strict && (strcmp(a, "--user") == 0 || strcmp(a, "--system") == 0))
                        cli->user = strcmp(a, "--user") == 0;
                else if (!strict && (strcmp(a, "-H") == 0 || strcmp(a, "--host") == 0)) {
                        if (i + 1 >= *argc)
                                return cli_usage(argv[0], "%s takes a host", a);
                        cli->host = argv[++i];
                } else if (!strict && str_has_prefix(a, "--host="))
                        cli->host = a + strlen("--host=");
                else if (!strict && str_has_prefix(a, "-H"))
                        cli->host = a + strlen("-H");
                else
                        argv[n++] = argv[i];
        }
        while (i < *argc)
                argv[n++] = argv[i++];
        argv[n] = NULL;
        *argc = n;
        return EXIT_DONE;
}

static int run(Cli *cli, const Command *c, int argc, char **argv)
{
        bool show_help = false;
        int r = read_globals(cli, &argc, argv, &show_help);

        if (r != EXIT_DONE)
                return r;
        if (show_help) {
                printf("vmferry %s %s\n\n%s; see vmferry(1)\n", c->name, c->arguments, c->summary);
                return EXIT_DONE;
        }
        if (cli->user && cli->host)
                return cli_usage(
                        NULL, "-H goes to the other host's system bus: it cannot be combined with --user");
        optind = 0;
        return c->run(cli, argc, argv);
}

int main(int argc, char **argv)
{
        static const struct option options[] = {
                { "user", no_argument, NULL, 'u' },
                { "system", no_argument, NULL, 's' },
                { "host", required_argument, NULL, 'H' },
                { "json", no_argument, NULL, 'j' },
                { "version", no_argument, NULL, 'V' },
                { "help", no_argument, NULL, 'h' },
                {},
        };
        Cli cli = {};
        int o, r;

        setlocale(LC_CTYPE, "");
        signal(SIGPIPE, SIG_IGN);
        while ((o = getopt_long(argc, argv, "+H:h", options, NULL)) >= 0) {
                switch (o) {
                case 'u':
                        cli.user = true;
                        break;
                case 's':
                        cli.user = false;
                        break;
                case 'H':
                        cli.host = optarg;
                        break;
                case 'j':
                        cli.json = true;
                        break;
                case 'V':
                        printf("vmferry %s\n", VMFERRY_VERSION);
                        return EXIT_DONE;
                case 'h':
                        return help();
                default:
                        return EXIT_USAGE;
                }
        }
        if (optind >= argc)
                return cli_usage(NULL, "no command was given");
        for (const Command *c = commands; c->name; c++)
                if (strcmp(c->name, argv[optind]) == 0) {
                        r = run(&cli, c, argc - optind, argv + optind);
                        if (fflush(stdout) != 0 && r == EXIT_DONE && errno != EPIPE)
                                r = cli_fail("standard output: %s", strerror(errno));
                        sd_bus_message_unref(cli.call);
                        sd_bus_flush_close_unref(cli.bus);
                        return r;
                }
        return cli_usage(NULL, "there is no command '%s'", argv[optind]);
}
