/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Many guests in one process: it listens where QEMU would for the channels of N domains, g0, g1, ... (or
 * from another number on), and answers with a real session behind each. `ready` on stdout: all of them
 * listen. SIGUSR1 loses every connection at once; SIGTERM ends it.
 */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "answer.h"
#include "base/base.h"

#define EVENTS_MAX 256

typedef struct Fleet {
        int epoll, signals;
        Guest *guests;
        uint32_t first, n_guests;
        uint32_t n_chatter; /* messages a second, of each guest */
        uint64_t said_at;   /* when one of them spoke last */
        uint32_t next_to_say;
        Manners manners;
        bool is_ending;
} Fleet;

static const char usage[] = "usage: fleet --guests N --dir DIR [OPTION]...\n"
                            "  --first N        the number of the first one\n"
                            "  --latency MS     before an answer\n"
                            "  --chatter N      messages a second of each guest\n"
                            "  --drop N --garble N --half N --close N   of a million frames\n"
                            "  --liars N        guests that lie\n"
                            "  --pull BYTES     what a pull gets (1 MiB)\n"
                            "  --seed N\n";

static json_object *hello_of(uint32_t number)
{
        json_object *o = json_object_new_object(), *names = json_object_new_array(),
                    *facts = json_object_new_object();
        static const char *const capabilities[] = { "call", "exec", "pull", "push", "send" };
        char text[64];

        for (size_t i = 0; i < ELEMENTSOF(capabilities); i++)
                json_object_array_add(names, json_object_new_string(capabilities[i]));
        (void)snprintf(text, sizeof(text), "g%u", number);
        json_object_object_add(facts, "hostname", json_object_new_string(text));
        json_object_object_add(o, "agent", json_object_new_string("vmferry-guestd " VMFERRY_VERSION));
        json_object_object_add(o, "capabilities", names);
        (void)snprintf(text, sizeof(text), "%032x", number + 1);
        json_object_object_add(o, "boot_id", json_object_new_string(text));
        json_object_object_add(o, "instance", json_object_new_string(text));
        json_object_object_add(o, "facts", facts);
        return o;
}

static int start_guest(Fleet *f, uint32_t number, const char *dir)
{
        Guest *g = &f->guests[number - f->first];
        char path[108];
        int r;

        *g = (Guest){ .number = number, .hello = hello_of(number), .manners = &f->manners };
        (void)snprintf(path, sizeof(path), "%s/g%u.ctl", dir, number);
        r = port_new(g, SESSION_CONTROL, path, f->epoll, &g->control);
        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "%s/g%u.data", dir, number);
        return port_new(g, SESSION_DATA, path, f->epoll, &g->data);
}

static int parse(Fleet *f, int argc, char **argv, const char **ret_dir)
{
        static const struct option options[] = {
                { "guests", required_argument, NULL, 'n' },
                { "dir", required_argument, NULL, 'd' },
                { "latency", required_argument, NULL, 'l' },
                { "chatter", required_argument, NULL, 'c' },
                { "drop", required_argument, NULL, 'D' },
                { "garble", required_argument, NULL, 'G' },
                { "half", required_argument, NULL, 'H' },
                { "close", required_argument, NULL, 'C' },
                { "liars", required_argument, NULL, 'L' },
                { "pull", required_argument, NULL, 'p' },
                { "seed", required_argument, NULL, 's' },
                { "first", required_argument, NULL, 'f' },
                {},
        };
        uint64_t pull = 1 << 20;
        int o;

        f->manners.random = 1;
        while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                uint64_t n = o == 'd' || o == '?' ? 0 : strtoull(optarg, NULL, 10);

                switch (o) {
                case 'n':
                        f->n_guests = (uint32_t)n;
                        break;
                case 'f':
                        f->first = (uint32_t)n;
                        break;
                case 'd':
                        *ret_dir = optarg;
                        break;
                case 'l':
                        f->manners.latency_usec = n * USEC_PER_MSEC;
                        break;
                case 'c':
                        f->n_chatter = (uint32_t)n;
                        break;
                case 'D':
                        f->manners.n_drop = (uint32_t)n;
                        break;
                case 'G':
                        f->manners.n_garble = (uint32_t)n;
                        break;
                case 'H':
                        f->manners.n_half = (uint32_t)n;
                        break;
                case 'C':
                        f->manners.n_close = (uint32_t)n;
                        break;
                case 'L':
                        f->manners.n_liars = (uint32_t)n;
                        break;
                case 'p':
                        pull = n;
                        break;
                case 's':
                        f->manners.random = n;
                        break;
                default:
                        return -EINVAL;
                }
        }
        if (!*ret_dir || f->n_guests == 0)
                return -EINVAL;
        return answer_set_pull(pull);
}

static int start(Fleet *f, const char *dir)
{
        struct rlimit limit = { .rlim_cur = 4 * f->n_guests + 100, .rlim_max = 4 * f->n_guests + 100 };
        struct epoll_event e = { .events = EPOLLIN };
        sigset_t set;

        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                perror("more descriptors"); /* perhaps there are enough */
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigprocmask(SIG_BLOCK, &set, NULL);
        f->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        f->epoll = epoll_create1(EPOLL_CLOEXEC);
        f->guests = calloc(f->n_guests, sizeof(*f->guests));
        if (f->signals < 0 || f->epoll < 0 || !f->guests ||
            epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->signals, &e) < 0)
                return -errno;
        for (uint32_t i = 0; i < f->n_guests; i++) {
                int r = start_guest(f, f->first + i, dir);

                if (r < 0)
                        return r;
        }
        return 0;
}

static void on_signal(Fleet *f)
{
        struct signalfd_siginfo info;

        while (read(f->signals, &info, sizeof(info)) == sizeof(info))
                if (info.ssi_signo != SIGUSR1)
                        f->is_ending = true;
                else
                        for (uint32_t i = 0; i < f->n_guests; i++) {
                                port_hang_up(f->guests[i].control);
                                port_hang_up(f->guests[i].data);
                        }
}

/* One after the other, so that all of them together make an even noise. */
static uint64_t chatter(Fleet *f, uint64_t now)
{
        uint64_t every = f->n_chatter > 0 ? USEC_PER_SEC / ((uint64_t)f->n_chatter * f->n_guests) : 0;

        if (f->n_chatter == 0)
                return USEC_INFINITY;
        every = every > 0 ? every : 1;
        if (f->said_at == 0 || now > f->said_at + USEC_PER_SEC)
                f->said_at = now;
        for (; f->said_at + every <= now; f->said_at += every)
                answer_say(&f->guests[f->next_to_say++ % f->n_guests]);
        return f->said_at + every;
}

static void run(Fleet *f)
{
        struct epoll_event events[EVENTS_MAX];

        while (!f->is_ending) {
                uint64_t now = port_now_usec(), until = port_run_delayed(now), said = chatter(f, now);
                int timeout, n;

                until = until < said ? until : said;
                timeout = until == USEC_INFINITY ? -1 : until <= now ? 0 : (int)((until - now + 999) / 1000);
                n = epoll_wait(f->epoll, events, EVENTS_MAX, timeout);
                for (int i = 0; i < n; i++)
                        if (events[i].data.ptr)
                                port_on_event(events[i].data.ptr);
                        else
                                on_signal(f);
        }
}

int main(int argc, char **argv)
{
        const char *dir = NULL;
        Fleet f = { 0 };
        int r = parse(&f, argc, argv, &dir);

        if (r < 0) {
                fputs(usage, stderr);
                return 2;
        }
        r = start(&f, dir);
        if (r < 0) {
                fprintf(stderr, "fleet: %s\n", strerror(-r));
                return 1;
        }
        puts("ready");
        fflush(stdout);
        run(&f);
        for (uint32_t i = 0; i < f.n_guests; i++) {
                port_free(f.guests[i].control);
                port_free(f.guests[i].data);
                json_object_put(f.guests[i].hello);
        }
        free(f.guests);
        return 0;
}
