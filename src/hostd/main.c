/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* vmferry-hostd: the command line, and who is wired to whom. */

#include <getopt.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/fs.h"
#include "hostd/actions.h"
#include "hostd/bus.h"
#include "hostd/config.h"
#include "hostd/exec.h"
#include "hostd/fdstore.h"
#include "hostd/host.h"
#include "hostd/jobs.h"
#include "hostd/log.h"
#include "hostd/loop.h"
#include "hostd/queue.h"
#include "hostd/transfer.h"

#define PUBLISH_USEC                                                                                        \
        (3 * USEC_PER_SEC) /* a libvirtd that does not answer does not keep us from being there */

typedef struct Daemon {
        Loop *loop;
        Host *host;
        Jobs *jobs;
        Queue *queue;
        Actions *actions;
        Bus *bus;
        LoopTimer *publish;
} Daemon;

typedef struct Options {
        bool user;
        const char *config;
        int log_level;
} Options;

static void print_help(FILE *f)
{
        fputs("vmferry-hostd [OPTION...]\n\n"
              "Carries messages, commands and files between this host and the virtual machines on it.\n\n"
              "  --user             session bus and qemu:///session\n"
              "  --config=FILE      read this file instead of hostd.conf and its drop-ins\n"
              "  --log-level=LEVEL  error, warning, notice, info (default) or debug\n"
              "  --version          show the version\n"
              "  --help             show this text\n",
              f);
}

static int parse_level(const char *s)
{
        static const struct {
                const char *name;
                int level;
        } levels[] = {
                { "error", LOG_ERR },     { "err", LOG_ERR },   { "warning", LOG_WARNING },
                { "notice", LOG_NOTICE }, { "info", LOG_INFO }, { "debug", LOG_DEBUG },
        };

        for (size_t i = 0; i < ELEMENTSOF(levels); i++)
                if (str_eq(levels[i].name, s))
                        return levels[i].level;
        return -EINVAL;
}

/* 1: go on; 0: done; -EINVAL: usage. */
static int parse_options(int argc, char **argv, Options *o)
{
        enum { USER = 256, CONFIG, LEVEL, VERSION, HELP };
        static const struct option options[] = {
                { "user", no_argument, NULL, USER },
                { "config", required_argument, NULL, CONFIG },
                { "log-level", required_argument, NULL, LEVEL },
                { "version", no_argument, NULL, VERSION },
                { "help", no_argument, NULL, HELP },
                {},
        };
        int c;

        *o = (Options){ .log_level = LOG_INFO };
        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case USER:
                        o->user = true;
                        break;
                case CONFIG:
                        o->config = optarg;
                        break;
                case LEVEL:
                        o->log_level = parse_level(optarg);
                        if (o->log_level < 0) {
                                fprintf(stderr, "vmferry-hostd: no such log level: %s\n", optarg);
                                return -EINVAL;
                        }
                        break;
                case VERSION:
                        puts("vmferry " VMFERRY_VERSION);
                        return 0;
                case HELP:
                case 'h':
                        print_help(stdout);
                        return 0;
                default:
                        fputs("Try --help.\n", stderr);
                        return -EINVAL;
                }
        if (optind < argc) {
                fprintf(stderr, "vmferry-hostd: takes no arguments: %s\n", argv[optind]);
                return -EINVAL;
        }
        return 1;
}

/* A connection and a timer or two for every guest; poll(2) and epoll have no limit of their own. */
static void raise_descriptor_limit(void)
{
        struct rlimit r;

        if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur == r.rlim_max)
                return;
        r.rlim_cur = r.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &r) < 0)
                log_warning("The limit on open files stays low: %s", strerror(errno));
}

static void show_status(Daemon *d)
{
        g_autofree char *status =
                g_strdup_printf("libvirt %s, %u guests, %u ready",
                                libvirt_state_to_string(discovery_libvirt_state(host_discovery(d->host))),
                                g_hash_table_size(host_guests(d->host)), host_n_ready(d->host));

        loop_notify_ready(d->loop, status);
}

static void publish(Daemon *d)
{
        if (!d->publish)
                return;
        d->publish = loop_timer_free(d->publish);
        bus_publish(d->bus);
        show_status(d);
}

static void on_publish_timer(void *userdata)
{
        publish(userdata);
}

static void on_complete(void *userdata)
{
        publish(userdata);
}

static void on_libvirt_state(void *userdata, LibvirtState s)
{
        Daemon *d = userdata;

        if (!d->publish)
                show_status(d);
}

static void on_reload(void *userdata)
{
        Daemon *d = userdata;

        (void)host_reload(d->host);
}

static const HostListener listener = {
        .complete = on_complete,
        .libvirt_state = on_libvirt_state,
};

static void collect(void *userdata, StoreItem *item)
{
        g_ptr_array_add(userdata, item);
}

/* What an earlier hostd has left to do. */
static void take_up_item(Daemon *d, StoreItem *item)
{
        int r = -ENOTSUP;
        Job *j;

        if (item->is_queued)
                r = queue_restore(d->queue, item);
        else if (item->kind == JOB_PUSH || item->kind == JOB_PULL)
                r = transfer_restore(d->jobs, item, &j);
        else if (item->kind == JOB_EXEC)
                r = exec_restore(d->jobs, item);
        if (r < 0) {
                log_warning("queue.db: job %" PRIu32 " for guest %s cannot be taken up: %s", item->id,
                            item->guest_name, strerror(-r));
                store_remove(jobs_store(d->jobs), item->id, NULL, NULL);
        }
        (void)store_item_free(item);
}

static void take_up(Daemon *d)
{
        g_autoptr(GPtrArray) items = g_ptr_array_new();

        if (jobs_store(d->jobs) && store_load(jobs_store(d->jobs), collect, items) < 0)
                log_error("queue.db cannot be read: what an earlier hostd has left undone stays undone");
        for (guint i = 0; i < items->len; i++)
                take_up_item(d, g_ptr_array_index(items, i));
        fdstore_drop_rest();
}

static int daemon_start(Daemon *d, const Options *o)
{
        Config *config = o->config ? config_load_file(o->user, o->config) : config_load(o->user);
        int r;

        d->host = host_new(config); /* takes config over */
        if (!d->host)
                return -ENOMEM;
        d->jobs = jobs_new(d->host);
        if (!d->jobs)
                return -ENOMEM;
        d->queue = queue_new(d->jobs);
        if (!d->queue)
                return -ENOMEM;
        take_up(d);
        r = bus_new(d->host, d->jobs, d->loop, &d->bus);
        if (r < 0)
                return r;
        d->actions = actions_new(d->jobs, d->queue);
        if (!d->actions)
                return -ENOMEM;
        bus_set_engines(d->bus, d->queue, d->actions);
        d->publish = loop_timer_new(d->loop, on_publish_timer, d);
        if (!d->publish)
                return -ENOMEM;
        loop_timer_set(d->publish, fs_now_usec() + PUBLISH_USEC, 0);
        host_listen(d->host, &listener, d);
        loop_on_reload(d->loop, on_reload, d);
        host_start(d->host);
        return 0;
}

static void daemon_stop(Daemon *d)
{
        loop_timer_free(d->publish);
        bus_free(d->bus);
        actions_free(d->actions);
        queue_free(d->queue);
        jobs_free(d->jobs);
        host_free(d->host);
}

int main(int argc, char **argv)
{
        _cleanup_(loop_freep) Loop *loop = NULL;
        Daemon d = {};
        Options o;
        int r;

        r = parse_options(argc, argv, &o);
        if (r <= 0)
                return r < 0 ? 2 : EXIT_SUCCESS;
        log_init("vmferry-hostd");
        log_set_max_level(o.log_level);
        raise_descriptor_limit();

        r = loop_new(&loop);
        if (r < 0) {
                log_error("No event loop: %s", strerror(-r));
                return EXIT_FAILURE;
        }
        d.loop = loop;
        r = daemon_start(&d, &o);
        if (r >= 0)
                r = loop_run(loop);
        else {
                log_error("Cannot start: %s", strerror(-r));
                r = EXIT_FAILURE;
        }
        daemon_stop(&d);
        return r;
}
