/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vmferry-deploy: what vmferry's deploy and adopt execute, with the caller's own rights. Apart from the
 * command because libguestfs and libvirt are, too.
 */

#include <getopt.h>
#include <stdio.h>

#include "deploy/adopt.h"
#include "deploy/image.h"
#include "deploy/report.h"

#define ADOPT_TIMEOUT_USEC (60 * USEC_PER_SEC)

typedef struct Options {
        const char *uri, *agent, *backend;
        uint64_t timeout_usec;
        bool json, dry_run;
} Options;

static int parse_options(int argc, char **argv, Options *o)
{
        static const struct option options[] = {
                { "connect", required_argument, NULL, 'c' },
                { "agent", required_argument, NULL, 'a' },
                { "backend", required_argument, NULL, 'b' },
                { "timeout", required_argument, NULL, 't' },
                { "json", no_argument, NULL, 'j' },
                { "dry-run", no_argument, NULL, 'n' },
                {},
        };
        char *end;

        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                switch (c) {
                case 'c':
                        o->uri = optarg;
                        break;
                case 'a':
                        o->agent = optarg;
                        break;
                case 'b':
                        o->backend = optarg;
                        break;
                case 't':
                        errno = 0;
                        o->timeout_usec = strtoull(optarg, &end, 10) * USEC_PER_SEC;
                        if (errno || *end || end == optarg || o->timeout_usec == 0)
                                return 2;
                        break;
                case 'j':
                        o->json = true;
                        break;
                case 'n':
                        o->dry_run = true;
                        break;
                default:
                        return 2;
                }
        return argc - optind == 2 ? 0 : 2;
}

int main(int argc, char **argv)
{
        Options o = { .agent = GUESTD_PATH, .backend = "libguestfs", .timeout_usec = ADOPT_TIMEOUT_USEC };
        _cleanup_(program_done) Program program = {};
        int r = parse_options(argc, argv, &o);

        if (r != 0 || (!str_eq(argv[optind], "adopt") && !str_eq(argv[optind], "deploy"))) {
                (void)fputs("usage: vmferry-deploy adopt|deploy [--connect=URI] [--agent=FILE] "
                            "[--backend=libguestfs|nbd]\n"
                            "                      [--timeout=SECONDS] [--dry-run] [--json] DOMAIN|IMAGE\n",
                            stderr);
                return 2;
        }
        const char *verb = argv[optind], *name = argv[optind + 1];
        report_init(o.json);
        r = program_load(o.agent, &program);
        if (r < 0)
                return report_failure("%s: %s%s", o.agent, r == -ENOEXEC ? "is no program" : strerror(-r),
                                      r == -ENOENT ? " (--agent=FILE names another vmferry-guestd)" : "");
        if (str_eq(verb, "adopt"))
                return adopt_run(o.uri, name, &program, o.timeout_usec, o.dry_run);
        const ImageBackend *backend = image_backend(o.backend);
        if (!backend)
                return report_failure("there is no backend '%s', only libguestfs and nbd", o.backend);
        return image_run(backend, o.uri, name, &program, o.dry_run);
}
