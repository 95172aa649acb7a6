/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * upgrade: guestd of running guests, over vmferry's own channel: push, then the request, then watching which
 * program comes up. The guest goes back to its old one by itself; here that is only told. --all is one child
 * process a guest.
 */

#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "cli/client.h"
#include "proto/digest.h"
#include "proto/name.h"

#define PROGRAM_SIZE_MAX (64u * 1024 * 1024)
#define CONFIRM_USEC (45 * USEC_PER_SEC) /* and the old one is back within a minute */
#define GRACE_USEC (40 * USEC_PER_SEC)   /* for the old program to come back */
#define POLL_USEC (200 * USEC_PER_MSEC)
#define AT_ONCE_DEFAULT 4u
#define AT_ONCE_MAX 256u

typedef struct Upgrade {
        Cli *cli;
        char *program; /* absolute */
        char digest[DIGEST_TEXT_SIZE];
        uint64_t timeout;
        bool force;
} Upgrade;

static int load_program(Upgrade *u, const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ uint8_t *data = NULL;
        size_t n;
        int r = fd < 0 ? -errno : cli_read_all(fd, PROGRAM_SIZE_MAX, &data, &n);

        if (r < 0)
                return cli_fail("%s: %s%s", path, strerror(-r),
                                r == -ENOENT ? " (--agent=FILE names another)" : "");
        if (n < 20 || memcmp(data, "\177ELF", 4) != 0)
                return cli_fail("%s is no program", path);
        digest_format(digest_of(data, n, 0), u->digest);
        u->program = realpath(path, NULL);
        return u->program ? EXIT_DONE : cli_fail("%s: %s", path, strerror(errno));
}

static int report(const Upgrade *u, json_object *guest, const char *result, const char *version,
                  const char *format, ...) _printf_(5, 6);
static int report(const Upgrade *u, json_object *guest, const char *result, const char *version,
                  const char *format, ...)
{
        bool is_good = str_eq(result, "upgraded") || str_eq(result, "up-to-date");
        const char *name = json_str(guest, "Name");
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (u->cli->json) {
                json_object *j = json_object_new_object();

                json_object_object_add(j, "guest", json_object_new_string(name));
                json_object_object_add(j, "uuid", json_object_new_string(json_str(guest, "Uuid")));
                json_object_object_add(j, "result", json_object_new_string(result));
                json_object_object_add(j, "version", json_object_new_string(version));
                cli_print_json(j);
        } else if (is_good) {
                printf("%s: %s\n", name, text);
                fflush(stdout);
        }
        if (!is_good)
                return cli_fail("%s: %s", name, text);
        return EXIT_DONE;
}

static int push_program(const Upgrade *u, const char *guest, const char *name)
{
        _cleanup_message_ sd_bus_message *reply = NULL, *waited = NULL;
        _cleanup_json_ json_object *job = NULL;
        const char *path, *state;
        sd_bus_message *m;
        uint32_t id;

        m = client_call_new(u->cli, BUS_PATH, IFACE_MANAGER, "Push");
        if (!m ||
            sd_bus_message_append(m, "sssa{sv}", guest, u->program, NAME_UPGRADE_STAGE, 1, "mode", "u",
                                  (uint32_t)0700) < 0 ||
            client_call(u->cli, m, UINT64_MAX, NULL, &reply) < 0 ||
            sd_bus_message_read(reply, "uo", &id, &path) < 0)
                return EXIT_FAILED;
        m = client_call_new(u->cli, path, IFACE_JOB, "Wait");
        if (!m || sd_bus_message_append(m, "t", UINT64_MAX) < 0 ||
            client_call(u->cli, m, UINT64_MAX, NULL, &waited) < 0 ||
            sd_bus_message_read(waited, "s", &state) < 0)
                return EXIT_FAILED;
        if (str_eq(state, "done"))
                return EXIT_DONE;
        if (client_properties(u->cli, path, IFACE_JOB, true, &job) < 0)
                return cli_fail("%s: the new program could not be pushed", name);
        return cli_fail("%s: the new program could not be pushed: %s", name, json_str(job, "ErrorMessage"));
}

/* 1: ready again, with *ret_build and *ret_version; 0: not in time. */
static int wait_back(const Upgrade *u, const char *path, uint64_t ready_since, char **ret_build,
                     char **ret_version)
{
        uint64_t deadline = fs_now_usec() + u->timeout + GRACE_USEC;

        while (fs_now_usec() < deadline) {
                _cleanup_json_ json_object *p = NULL;

                (void)usleep(POLL_USEC);
                if (client_properties(u->cli, path, IFACE_GUEST, true, &p) < 0)
                        continue;
                if (str_eq(json_str(p, "State"), "ready") && json_u64(p, "ReadySince") != ready_since) {
                        *ret_build = strdup(json_str(p, "AgentBuild"));
                        *ret_version = strdup(json_str(p, "AgentVersion"));
                        return *ret_build && *ret_version;
                }
        }
        return 0;
}

static bool may_be_upgraded(json_object *guest)
{
        json_object *list = json_object_object_get(guest, "Capabilities");
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

        for (size_t i = 0; i < n; i++)
                if (str_eq(json_object_get_string(json_object_array_get_idx(list, i)), "upgrade"))
                        return true;
        return false;
}

/* guest: its name or UUID, by which it is asked for; of --all it is the UUID, which no other guest can take
 * on. It is told of by its name. */
static int upgrade_one(const Upgrade *u, const char *guest)
{
        _cleanup_free_ char *path = NULL, *build = NULL, *version = NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_json_ json_object *before = NULL;
        uint64_t ready_since;
        sd_bus_message *m;

        if (client_guest_path(u->cli, guest, &path) < 0 ||
            client_properties(u->cli, path, IFACE_GUEST, false, &before) < 0)
                return EXIT_FAILED;
        const char *name = json_str(before, "Name");
        if (!str_eq(json_str(before, "State"), "ready"))
                return cli_fail("%s is %s; only a guest that is ready can be upgraded", name,
                                json_str(before, "State"));
        if (!u->force && str_eq(json_str(before, "AgentBuild"), u->digest))
                return report(u, before, "up-to-date", json_str(before, "AgentVersion"),
                              "runs this vmferry-guestd already (%s)", json_str(before, "AgentVersion"));
        if (!may_be_upgraded(before))
                return cli_fail(
                        "%s: its vmferry-guestd is too old, or its policy forbids it (AllowUpgrade= of "
                        "guestd.conf, and what that needs)",
                        name);
        ready_since = json_u64(before, "ReadySince");
        if (push_program(u, guest, name) != EXIT_DONE)
                return EXIT_FAILED;
        m = client_call_new(u->cli, BUS_PATH, IFACE_MANAGER, "Upgrade");
        if (!m ||
            sd_bus_message_append(m, "sssa{sv}", guest, NAME_UPGRADE_STAGE, u->digest, 1, "timeout", "t",
                                  u->timeout) < 0 ||
            client_call(u->cli, m, UINT64_MAX, NULL, &reply) < 0)
                return EXIT_FAILED;
        if (!wait_back(u, path, ready_since, &build, &version))
                return report(
                        u, before, "lost", "",
                        "neither the new vmferry-guestd nor the old one has come back; see the guest's "
                        "console");
        if (!str_eq(build, u->digest))
                return report(u, before, "rolled-back", version,
                              "the new vmferry-guestd did not become ready; the guest went back to the old "
                              "one (%s)",
                              version);
        return report(u, before, "upgraded", version, "upgraded from %s to %s",
                      json_str(before, "AgentVersion"), version);
}

/* In a child, with a connection of its own: a forked sd-bus connection is dead. */
static pid_t start_one(const Upgrade *u, const char *guest)
{
        fflush(stdout);
        pid_t pid = fork();

        if (pid != 0)
                return pid;
        Cli own = { .user = u->cli->user, .json = u->cli->json, .host = u->cli->host };
        Upgrade child = *u;
        child.cli = &own;
        int r = upgrade_one(&child, guest);
        fflush(stdout);
        _exit(r);
}

static bool reap_one(size_t *n_failed)
{
        int status;

        if (wait(&status) < 0)
                return errno == EINTR;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_DONE)
                (*n_failed)++;
        return true;
}

static int upgrade_all(const Upgrade *u, unsigned at_once)
{
        _cleanup_json_ json_object *objects = NULL;
        size_t n = 0, n_running = 0, n_failed = 0;

        if (client_objects(u->cli, &objects) < 0)
                return EXIT_FAILED;
        json_object_object_foreach(objects, path, interfaces)
        {
                json_object *g;

                (void)path;
                if (!json_object_object_get_ex(interfaces, IFACE_GUEST, &g) ||
                    !str_eq(json_str(g, "State"), "ready"))
                        continue;
                for (; n_running >= at_once; n_running--)
                        if (!reap_one(&n_failed))
                                break;
                if (start_one(u, json_str(g, "Uuid")) < 0)
                        return cli_fail("no more processes: %s", strerror(errno));
                n_running++;
                n++;
        }
        for (; n_running > 0; n_running--)
                if (!reap_one(&n_failed))
                        break;
        if (n_failed > 0)
                return cli_fail("%zu of %zu guests were not upgraded", n_failed, n);
        if (n == 0 && !u->cli->json)
                puts("No guest is ready.");
        return EXIT_DONE;
}

int command_upgrade(Cli *c, int argc, char **argv)
{
        static const struct option options[] = {
                { "all", no_argument, NULL, 'a' },           { "at-once", required_argument, NULL, 'n' },
                { "agent", required_argument, NULL, 'g' },   { "force", no_argument, NULL, 'f' },
                { "timeout", required_argument, NULL, 't' }, {},
        };
        Upgrade u = { .cli = c, .timeout = CONFIRM_USEC };
        unsigned long at_once = AT_ONCE_DEFAULT;
        const char *agent = GUESTD_PATH;
        bool all = false;
        char *end;
        int o, r;

        while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
                switch (o) {
                case 'a':
                        all = true;
                        break;
                case 'n':
                        errno = 0;
                        at_once = strtoul(optarg, &end, 10);
                        if (errno || *end || end == optarg || at_once < 1 || at_once > AT_ONCE_MAX)
                                return cli_usage("upgrade",
                                                 "--at-once takes a number from 1 to %u, not '%s'",
                                                 AT_ONCE_MAX, optarg);
                        break;
                case 'g':
                        agent = optarg;
                        break;
                case 'f':
                        u.force = true;
                        break;
                case 't':
                        if (cli_parse_seconds(optarg, &u.timeout) < 0 || u.timeout < USEC_PER_SEC ||
                            u.timeout > 600 * USEC_PER_SEC)
                                return cli_usage("upgrade", "--timeout takes 1 to 600 seconds, not '%s'",
                                                 optarg);
                        break;
                default:
                        return EXIT_USAGE;
                }
        if (argc - optind != (all ? 0 : 1))
                return cli_usage("upgrade", "takes one guest, or --all and none");
        if (c->host)
                return cli_usage("upgrade",
                                 "sends a program of this host: run it on the other one instead of -H");
        r = load_program(&u, agent);
        if (r == EXIT_DONE)
                r = all ? upgrade_all(&u, (unsigned)at_once) : upgrade_one(&u, argv[optind]);
        free(u.program);
        return r;
}
