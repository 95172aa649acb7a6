/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * vmferry-worker: the host's end of one transfer. hostd starts it with its own rights and the descriptors of
 * link.h; it becomes the caller before it opens anything, does the one thing it was told, says how that
 * went, and ends. Not for use by hand.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/base.h"
#include "files/temporaries.h"
#include "proto/message.h"
#include "proto/name.h"
#include "worker/identity.h"
#include "worker/link.h"
#include "worker/pull.h"
#include "worker/push.h"

#define FILES_WANTED 4096 /* a deep tree holds a descriptor per level */

static void raise_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= FILES_WANTED)
                return;
        limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)FILES_WANTED);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static bool is_link(void)
{
        int type;
        socklen_t n = sizeof type;

        return getsockopt(LINK_FD, SOL_SOCKET, SO_TYPE, &type, &n) >= 0 && type == SOCK_SEQPACKET;
}

/* Of a pull that nobody will go on with. */
static void sweep(json_object *order)
{
        const char *path = message_str(order, "path", ""), *id = message_str(order, "transfer", "");
        const char *name = message_str(order, "name", NULL);

        if (name_is_absolute_path(path) && name_is_id(id) && !(name && strchr(name, '/')))
                temporaries_sweep(path, name, message_bool(order, "tree", false), id);
        link_send_done(&(LinkResult){});
}

int main(int argc, char *argv[])
{
        json_object *order;
        const char *what;
        int fd = -1, r;

        if (argc > 1 && str_eq(argv[1], "--version")) {
                (void)printf("vmferry-worker %s\n", VMFERRY_VERSION);
                return EXIT_SUCCESS;
        }
        if (argc > 1 || !is_link()) {
                (void)fprintf(stderr,
                              "vmferry-worker is started by vmferry-hostd and is of no use otherwise.\n");
                return 2;
        }
        (void)signal(SIGPIPE, SIG_IGN);
        (void)umask(0); /* modes are the source's */
        raise_limit();
        for (int i = LINK_FD; i <= LINK_EXTRA_FD; i++)
                (void)fcntl(i, F_SETFD, FD_CLOEXEC);

        if (link_receive(true, &order) < 0)
                return EXIT_FAILURE;
        r = identity_take(order);
        if (r >= 0 && chdir("/") < 0)
                r = -errno;
        if (r < 0) {
                link_send_done(&(LinkResult){
                        .error = WIRE_FAILED,
                        .text = "The helper process could not take on the caller's identity" });
                return EXIT_FAILURE;
        }
        if (message_bool(order, "fd", false))
                fd = LINK_EXTRA_FD;
        what = message_str(order, "do", "");
        if (fd >= 0 && fcntl(fd, F_GETFD) < 0)
                link_send_done(
                        &(LinkResult){ .error = WIRE_FAILED, .text = "The caller's descriptor is missing" });
        else if (str_eq(what, "push"))
                push_run(order, fd);
        else if (str_eq(what, "pull"))
                pull_run(order, fd);
        else if (str_eq(what, "sweep"))
                sweep(order);
        else
                link_send_done(
                        &(LinkResult){ .error = WIRE_UNSUPPORTED,
                                       .text = "The helper process does not know this kind of work" });
        json_object_put(order);
        return EXIT_SUCCESS;
}
