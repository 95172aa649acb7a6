/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The carrier's process: opens the data port, runs the pump, ends. It may block in file I/O, which delays
 * nobody but its own streams. It has no log and knows no process: both are its parent's, over the link.
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "carrier/carrier.h"
#include "guestd/carry-link.h"
#include "guestd/carry-transfer.h"
#include "guestd/port.h"
#include "proto/message.h"
#include "proto/name.h"
#include "proto/session.h"

#define LINGER_USEC (15 * USEC_PER_SEC) /* longer than the host's, whose retries must find the port open */
#define GRANT_TIMEOUT_USEC (5 * USEC_PER_SEC) /* guestd's loop blocks on nothing */
#define OPEN_TRIES 20u                        /* the last user of the port may be closing it yet */
#define OPEN_PAUSE_MSEC 50

typedef struct CarryChild {
        const Config *config;
        int link_fd;
        Carrier *carrier;
} CarryChild;

static void child_tell_opened(CarryChild *child, WireError error, const char *text)
{
        CarryPacket p = { .type = CARRY_OPENED, .error = error };

        (void)snprintf(p.text, sizeof(p.text), "%s", text);
        (void)carry_link_send(child->link_fd, &p, -1, -1, true);
}

static void child_audit(void *userdata, const char *verb, const char *id, const char *result,
                        const char *details)
{
        CarryChild *child = userdata;
        CarryPacket p = { .type = CARRY_AUDIT };

        (void)snprintf(p.verb, sizeof(p.verb), "%s", verb);
        (void)snprintf(p.id, sizeof(p.id), "%s", id);
        (void)snprintf(p.result, sizeof(p.result), "%s", result);
        (void)snprintf(p.text, sizeof(p.text), "%s", details);
        (void)carry_link_send(child->link_fd, &p, -1, -1, true);
}

/* A packet that is not the answer to a question. */
static void child_packet(CarryChild *child, const CarryPacket *p)
{
        switch (p->type) {
        case CARRY_KEEP:
                /* If it is too late, the end of this process is the answer. */
                if (carrier_keep(child->carrier) == 0)
                        child_tell_opened(child, WIRE_OK, "");
                break;
        case CARRY_RESET:
                carrier_stop(child->carrier);
                break;
        case CARRY_GRANT:
        case CARRY_OPENED:
        case CARRY_ASK:
        case CARRY_AUDIT:
                break;
        }
}

/* 1: an answer; 0: nothing more for now; negative: guestd is gone. */
static int child_receive(CarryChild *child, CarryPacket *p, int *ret_read_fd, int *ret_write_fd)
{
        for (;;) {
                int r = carry_link_receive(child->link_fd, p, ret_read_fd, ret_write_fd);

                if (r < 0)
                        carrier_stop(child->carrier);
                if (r <= 0 || p->type == CARRY_GRANT)
                        return r;
                (void)fd_close(*ret_read_fd);
                (void)fd_close(*ret_write_fd);
                child_packet(child, p);
        }
}

static void on_turn(void *userdata, bool woken)
{
        int read_fd, write_fd;
        CarryPacket p;

        /* An answer here comes too late: its question was given up. */
        while (woken && child_receive(userdata, &p, &read_fd, &write_fd) > 0) {
                (void)fd_close(read_fd);
                (void)fd_close(write_fd);
        }
}

static int child_ask(CarryChild *child, CarryPacket *p, int *ret_read_fd, int *ret_write_fd)
{
        uint64_t deadline = fs_now_usec() + GRANT_TIMEOUT_USEC;
        int r;

        r = carry_link_send(child->link_fd, p, -1, -1, true);
        if (r < 0)
                return r;
        for (;;) {
                struct pollfd poll_fd = { .fd = child->link_fd, .events = POLLIN };
                uint64_t now = fs_now_usec();

                if (now >= deadline)
                        return -ETIMEDOUT;
                if (poll(&poll_fd, 1, (int)((deadline - now) / USEC_PER_MSEC) + 1) < 0 && errno != EINTR)
                        return -errno;
                r = child_receive(child, p, ret_read_fd, ret_write_fd);
                if (r != 0)
                        return r;
        }
}

static bool stream_parse(json_object *params, const char *kind, CarryStream *ret)
{
        const char *output = message_str(params, "output", "");

        if (str_eq(kind, "stdio"))
                *ret = CARRY_STDIO;
        else if (str_eq(kind, "stderr"))
                *ret = CARRY_STDERR;
        else if (str_eq(kind, "spool") && str_eq(output, "stdout"))
                *ret = CARRY_SPOOL_STDOUT;
        else if (str_eq(kind, "spool") && str_eq(output, "stderr"))
                *ret = CARRY_SPOOL_STDERR;
        else
                return false;
        return true;
}

static WireError child_open_process(CarryChild *child, json_object *params, CarryStream which,
                                    const EndpointOps **ret_ops, void **ret_stream, char **ret_text)
{
        const char *id = message_str(params, "process", "");
        int read_fd = -EBADF, write_fd = -EBADF, r;
        CarryPacket p = { .type = CARRY_ASK, .which = which };

        if (!name_is_id(id)) {
                *ret_text = strdup("the stream names no process");
                return WIRE_INVALID_ARGS;
        }
        (void)snprintf(p.id, sizeof(p.id), "%s", id);
        r = child_ask(child, &p, &read_fd, &write_fd);
        if (r < 0) {
                *ret_text = strdup("the guest's daemon did not hand out the process's descriptors");
                return WIRE_INTERRUPTED; /* it is gone, and a new one comes */
        }
        if (p.error != WIRE_OK) {
                (void)fd_close(read_fd);
                (void)fd_close(write_fd);
                *ret_text = strdup(p.text);
                return p.error;
        }
        if (endpoint_fd_new(read_fd, write_fd, NULL, NULL, NULL, ret_ops, ret_stream) < 0) {
                *ret_text = strdup("out of memory");
                return WIRE_LIMITS_EXCEEDED;
        }
        return WIRE_OK;
}

static WireError on_open(void *userdata, json_object *params, const EndpointOps **ret_ops, void **ret_stream,
                         json_object **ret_reply, char **ret_text)
{
        CarryChild *child = userdata;
        const Policy *policy = &child->config->policy;
        const char *kind = message_str(params, "kind", "");
        CarryStream which;

        if (str_eq(kind, "push"))
                return carry_push_new(policy, params, child_audit, child, ret_ops, ret_stream, ret_reply,
                                      ret_text);
        if (str_eq(kind, "pull"))
                return carry_pull_new(policy, params, child_audit, child, ret_ops, ret_stream, ret_reply,
                                      ret_text);
        if (stream_parse(params, kind, &which))
                return child_open_process(child, params, which, ret_ops, ret_stream, ret_text);
        *ret_text = strdup("this guest knows no streams of that kind");
        return WIRE_UNSUPPORTED;
}

static const CarrierOps carrier_ops = {
        .open = on_open,
        .turn = on_turn,
};

/* Without /dev/urandom the clock must do: what makes a session fresh is the host's nonce. */
static void child_random(void *userdata, void *buf, size_t n)
{
        _cleanup_close_ int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
        uint64_t clock[2] = { fs_realtime_usec(), fs_now_usec() };
        uint8_t *p = buf;

        for (size_t i = 0; i < n; i++)
                p[i] = ((const uint8_t *)clock)[i % sizeof(clock)];
        while (fd >= 0 && n > 0) {
                ssize_t r = read(fd, p, n);

                if (r <= 0)
                        return;
                p += r;
                n -= (size_t)r;
        }
}

static int child_open_port(CarryChild *child)
{
        const char *name = child->config->data_channel;
        char text[512];
        int fd = -EBUSY;

        for (unsigned i = 0; i < OPEN_TRIES && fd == -EBUSY; i++) {
                if (i > 0)
                        (void)poll(NULL, 0, OPEN_PAUSE_MSEC);
                fd = port_open(name);
        }
        if (fd >= 0)
                return fd;
        if (fd == -ENOENT)
                (void)snprintf(text, sizeof(text), "the guest has no data port %s", name);
        else if (fd == -EBUSY)
                (void)snprintf(text, sizeof(text), "another program in the guest has the data port %s open",
                               name);
        else
                (void)snprintf(text, sizeof(text), "the guest cannot open the data port %s: %s", name,
                               strerror(-fd));
        child_tell_opened(child, fd == -EBUSY ? WIRE_CHANNEL_BUSY : WIRE_NO_CHANNEL, text);
        return fd;
}

int carry_child_run(const Config *config, int link_fd, pid_t parent)
{
        SessionConfig session = { .role = SESSION_GUEST, .port = SESSION_DATA, .random = child_random };
        CarryChild child = { .config = config, .link_fd = link_fd };
        CarrierConfig carrier = {
                .wake_fd = link_fd,
                .linger_usec = LINGER_USEC,
                .ops = &carrier_ops,
                .userdata = &child,
        };
        struct stat st;
        int r;

        (void)prctl(PR_SET_NAME, "vmferry-carrier");
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                return EXIT_FAILURE;
        (void)signal(SIGPIPE, SIG_IGN);

        carrier.port_fd = child_open_port(&child);
        if (carrier.port_fd < 0)
                return EXIT_FAILURE;
        carrier.port_is_device = fstat(carrier.port_fd, &st) >= 0 && S_ISCHR(st.st_mode);
        r = session_new(&session, &carrier.session);
        if (r >= 0)
                r = carrier_new(&carrier, &child.carrier);
        if (r < 0) {
                child_tell_opened(&child, WIRE_LIMITS_EXCEEDED, "the guest has no memory for the data port");
                return EXIT_FAILURE;
        }
        child_tell_opened(&child, WIRE_OK, "");
        (void)carrier_run(child.carrier);
        child.carrier = carrier_free(child.carrier);
        return EXIT_SUCCESS;
}
