/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line, the daemon's manners towards its system (lock, OOM score, readiness), and the loop. Runs
 * as a child of any init, in the foreground unless asked otherwise.
 */

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fs.h"
#include "guestd/agent.h"
#include "guestd/config.h"
#include "guestd/local-client.h"
#include "guestd/log.h"
#include "guestd/upgrade.h"

#define LOCK_PATH RUNTIME_DIR "/guestd.lock"

typedef struct Options {
        AgentConfig agent;
        bool to_stderr, background;
} Options;

static void print_help(void)
{
        (void)printf("vmferry-guestd [OPTION...]          the daemon\n"
                     "%s"
                     "\n"
                     "  --control=NAME|/dev/NODE   the control port [" CONTROL_CHANNEL_DEFAULT "]\n"
                     "  --data=NAME|/dev/NODE      the data port [" DATA_CHANNEL_DEFAULT "]\n"
                     "  --config=FILE              read this file only\n"
                     "  --log-level=LEVEL          error, warning, notice, info or debug\n"
                     "  --foreground               log to stderr\n"
                     "  --daemon                   go to the background when started\n"
                     "  --version, --help\n"
                     "\n"
                     "See vmferry-guestd(8) and guestd.conf(5).\n",
                     local_client_help);
}

/* 0: go on; 1: done; 2: usage. */
static int parse_options(int argc, char **argv, Options *ret)
{
        enum {
                OPT_CONTROL = 256,
                OPT_DATA,
                OPT_CONFIG,
                OPT_LOG_LEVEL,
                OPT_FOREGROUND,
                OPT_DAEMON,
                OPT_VERSION
        };
        static const struct option options[] = {
                { "control", required_argument, NULL, OPT_CONTROL },
                { "data", required_argument, NULL, OPT_DATA },
                { "config", required_argument, NULL, OPT_CONFIG },
                { "log-level", required_argument, NULL, OPT_LOG_LEVEL },
                { "foreground", no_argument, NULL, OPT_FOREGROUND },
                { "daemon", no_argument, NULL, OPT_DAEMON },
                { "version", no_argument, NULL, OPT_VERSION },
                { "help", no_argument, NULL, 'h' },
                { 0 },
        };
        Options o = { .agent.log_level = -1 };

        for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) >= 0;)
                switch (c) {
                case OPT_CONTROL:
                        o.agent.control_channel = optarg;
                        break;
                case OPT_DATA:
                        o.agent.data_channel = optarg;
                        break;
                case OPT_CONFIG:
                        o.agent.config_file = optarg;
                        break;
                case OPT_LOG_LEVEL:
                        o.agent.log_level = log_level_from_string(optarg);
                        if (o.agent.log_level < 0) {
                                (void)fprintf(stderr, "vmferry-guestd: --log-level=%s: no such level\n",
                                              optarg);
                                return 2;
                        }
                        break;
                case OPT_FOREGROUND:
                        o.to_stderr = true;
                        break;
                case OPT_DAEMON:
                        o.background = true;
                        break;
                case OPT_VERSION:
                        (void)puts("vmferry-guestd " VMFERRY_VERSION);
                        return 1;
                case 'h':
                        print_help();
                        return 1;
                default:
                        return 2;
                }
        if (optind < argc) {
                (void)fprintf(stderr, "vmferry-guestd: %s: no such command; see --help\n", argv[optind]);
                return 2;
        }
        *ret = o;
        return 0;
}

/* 0 to 2 are open from here on, so that no port ever becomes one of them. */
static void open_standard_fds(void)
{
        int fd;

        do
                fd = open("/dev/null", O_RDWR);
        while (fd >= 0 && fd <= STDERR_FILENO);
        (void)fd_close(fd);
}

/* Whether this is the only one. Without a writable /run there is no telling, and the port itself takes only
 * one. */
static bool take_lock(void)
{
        (void)mkdir(RUNTIME_DIR, 0755);
        /* Held until the process ends; children of loop_fork() have it closed. */
        int fd = open(LOCK_PATH, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
                log_debug("%s: %s", LOCK_PATH, strerror(errno));
                return true;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
                return true;
        (void)fd_close(fd);
        return false;
}

static void protect_from_oom(void)
{
        _cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void)fs_write_all(fd, "-900", 4);
}

/* sd_notify(3)'s protocol: one datagram. */
static void notify(const char *state)
{
        const char *path = getenv("NOTIFY_SOCKET");
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        size_t n = path ? strlen(path) : 0;

        if (n < 2 || n >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
                return;
        memcpy(address.sun_path, path, n);
        if (path[0] == '@')
                address.sun_path[0] = '\0';
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd >= 0)
                (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT,
                             (const struct sockaddr *)&address,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
}

/* In the parent: waits for the word of the child, and is its exit status. In the child: the descriptor for
 * that word. */
static int go_to_background(void)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        pid_t pid = fork();
        if (pid < 0)
                return -errno;
        if (pid > 0) {
                char word = 0;
                (void)fd_close(fds[1]);
                while (read(fds[0], &word, 1) < 0 && errno == EINTR)
                        ;
                _exit(word == '+' ? EXIT_SUCCESS : EXIT_FAILURE);
        }
        (void)fd_close(fds[0]);
        (void)setsid();
        IGNORE(chdir("/"));
        return fds[1];
}

static void settle_in_background(int word_fd)
{
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        if (null >= 0) {
                for (int i = 0; i <= STDERR_FILENO; i++)
                        (void)dup2(null, i);
                (void)fd_close(null);
        }
        (void)fs_write_all(word_fd, "+", 1);
        (void)fd_close(word_fd);
}

static void on_stop_signal(void *userdata, int signal)
{
        log_info("Ending on signal %d", signal);
        notify("STOPPING=1");
        agent_stop(userdata);
}

static void on_reload_signal(void *userdata, int signal)
{
        agent_reload(userdata);
}

static int run(const Options *o)
{
        _cleanup_(loop_freep) Loop *loop = NULL;
        _cleanup_(agent_freep) Agent *agent = NULL;
        int word_fd = -EBADF;

        if (!take_lock()) {
                log_error("Another vmferry-guestd is running (%s)", LOCK_PATH);
                return EXIT_FAILURE;
        }
        if (o->background && (word_fd = go_to_background()) < 0)
                return EXIT_FAILURE;
        protect_from_oom();
        int r = loop_new(&loop);
        if (r == 0)
                r = agent_new(loop, &o->agent, &agent);
        if (r == 0)
                r = loop_on_signal(loop, SIGTERM, on_stop_signal, agent);
        if (r == 0)
                r = loop_on_signal(loop, SIGINT, on_stop_signal, agent);
        if (r == 0)
                r = loop_on_signal(loop, SIGHUP, on_reload_signal, agent);
        if (r < 0) {
                log_error("Cannot start: %s", strerror(-r));
                return EXIT_FAILURE;
        }
        log_info("vmferry-guestd " VMFERRY_VERSION " started");
        notify("READY=1");
        if (word_fd >= 0)
                settle_in_background(word_fd);
        r = loop_run(loop);
        if (r == UPGRADE_EXIT) {
                agent = agent_free(agent);
                loop = loop_free(loop);
                r = upgrade_execute();
                log_error("The new program cannot be executed: %s",
                          strerror(-r)); /* its watcher sees our end */
                return EXIT_FAILURE;
        }
        if (r < 0)
                log_error("The loop failed: %s", strerror(-r));
        return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
        Options options;

        open_standard_fds();
        if (argc > 1 && local_client_is_verb(argv[1]))
                return local_client_main(argc - 1, argv + 1, NULL);
        int r = parse_options(argc, argv, &options);
        if (r != 0)
                return r == 1 ? EXIT_SUCCESS : 2;
        (void)umask(022);
        (void)signal(SIGPIPE, SIG_IGN);
        log_init("vmferry-guestd", options.to_stderr);
        upgrade_init(argv);
        return run(&options);
}
