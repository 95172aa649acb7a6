/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * enable, disable: the channels in a domain's XML.
 */

#include <getopt.h>
#include <stdio.h>

#include "cli/client.h"

static int channels(Cli *c, int argc, char **argv, bool enable)
{
        static const struct option options[] = { { "dry-run", no_argument, NULL, 'n' }, {} };
        _cleanup_message_ sd_bus_message *reply = NULL;
        bool dry_run = false;
        const char *diff;
        sd_bus_message *m;
        int live, o;

        while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (o != 'n')
                        return EXIT_USAGE;
                dry_run = true;
        }
        if (argc - optind != 1)
                return cli_usage(argv[0], "takes one domain");
        if (dry_run) {
                m = client_call_new(c, BUS_PATH, IFACE_MANAGER, "PreviewChannels");
                if (!m || client_append(m, "sb", argv[optind], enable) < 0 ||
                    client_call(c, m, UINT64_MAX, NULL, &reply) < 0 ||
                    sd_bus_message_read(reply, "s", &diff) < 0)
                        return EXIT_FAILED;
                if (c->json) {
                        json_object *j = json_object_new_object();

                        json_object_object_add(j, "domain", json_object_new_string(argv[optind]));
                        json_object_object_add(j, "difference", json_object_new_string(diff));
                        cli_print_json(j);
                } else
                        fputs(diff, stdout);
                return EXIT_DONE;
        }
        m = client_call_new(c, BUS_PATH, IFACE_MANAGER, enable ? "EnableChannels" : "DisableChannels");
        if (!m || client_append(m, "sa{sv}", argv[optind], 0) < 0 ||
            client_call(c, m, UINT64_MAX, NULL, &reply) < 0 || sd_bus_message_read(reply, "b", &live) < 0)
                return EXIT_FAILED;
        if (c->json) {
                json_object *j = json_object_new_object();

                json_object_object_add(j, "domain", json_object_new_string(argv[optind]));
                json_object_object_add(j, "live", json_object_new_boolean(live));
                cli_print_json(j);
        } else
                printf("%s: channels %s%s\n", argv[optind], enable ? "added" : "removed",
                       live ? ", in the running domain too" : ", from its next start on");
        return EXIT_DONE;
}

int command_enable(Cli *c, int argc, char **argv)
{
        return channels(c, argc, argv, true);
}

int command_disable(Cli *c, int argc, char **argv)
{
        return channels(c, argc, argv, false);
}
