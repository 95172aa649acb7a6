/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * In the guest: small-writes N TOPIC RESULT SECONDS. Publishes the numbers below N through guestd's local
 * socket, each a message and so a write to the port of its own; one that is refused is sent again. At the
 * end RESULT says how many were acknowledged and how many refusals there were.
 */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATH "/run/vmferry/guestd.sock"
#define UNDER_WAY 128

static unsigned long queue[UNDER_WAY]; /* asked, not answered; oldest first */
static unsigned n_queue;
static unsigned long again[UNDER_WAY];
static unsigned n_again;

static FILE *attach(void)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = PATH };
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        if (fd < 0 || connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
                perror(PATH);
                exit(1);
        }
        return fdopen(fd, "r");
}

static void ask(int fd, const char *topic, unsigned long number)
{
        char line[256];
        int n = snprintf(line, sizeof(line), "{\"method\":\"publish\",\"topic\":\"%s\",\"text\":\"%lu\"}\n",
                         topic, number);

        if (write(fd, line, (size_t)n) != n) {
                perror("write");
                exit(1);
        }
        queue[n_queue++] = number;
}

static void answer(const char *line, unsigned long *n_done, unsigned long *n_refused)
{
        unsigned long number = queue[0];

        memmove(queue, queue + 1, --n_queue * sizeof(*queue));
        if (strstr(line, "\"id\""))
                (*n_done)++;
        else {
                (*n_refused)++;
                again[n_again++] = number;
        }
}

int main(int argc, char **argv)
{
        unsigned long n, next = 0, n_done = 0, n_refused = 0;
        char line[4096];
        FILE *in, *result;
        time_t until;

        if (argc != 5)
                return 2;
        n = strtoul(argv[1], NULL, 10);
        until = time(NULL) + strtol(argv[4], NULL, 10);
        in = attach();
        while (n_done < n) {
                if (n > next && time(NULL) >= until)
                        n = next;
                if (n_done == n)
                        break;
                if (n_again > 0 && n_queue == 0) { /* the box is full while the host is away */
                        (void)usleep(100 * 1000);
                        while (n_again > 0)
                                ask(fileno(in), argv[2], again[--n_again]);
                }
                while (n_again == 0 && n_queue < UNDER_WAY && next < n)
                        ask(fileno(in), argv[2], next++);
                if (!fgets(line, sizeof(line), in)) {
                        fprintf(stderr, "guestd has left\n");
                        return 1;
                }
                answer(line, &n_done, &n_refused);
        }
        result = fopen(argv[3], "w");
        if (!result || fprintf(result, "%lu %lu\n", n_done, n_refused) < 0 || fclose(result) < 0) {
                perror(argv[3]);
                return 1;
        }
        return 0;
}
