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
#include "cli/commands.h"

int cli_fail(const char *format, ...)
{
        va_list ap;

        fputs("vmferry: ", stderr);
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fputc('\n', stderr);
        return EXIT_FAILED;
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

void cli_print_json(json_object *o)
{
        puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        fflush(stdout);
        json_object_put(o);
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
        if (cli.user && cli.host)
                return cli_usage(
                        NULL, "-H goes to the other host's system bus: it cannot be combined with --user");
        if (optind >= argc)
                return cli_usage(NULL, "no command was given");
        for (const Command *c = commands; c->name; c++)
                if (strcmp(c->name, argv[optind]) == 0) {
                        int base = optind;

                        optind = 0;
                        r = c->run(&cli, argc - base, argv + base);
                        if (fflush(stdout) != 0 && r == EXIT_DONE && errno != EPIPE)
                                r = cli_fail("standard output: %s", strerror(errno));
                        sd_bus_flush_close_unref(cli.bus);
                        return r;
                }
        return cli_usage(NULL, "there is no command '%s'", argv[optind]);
}
