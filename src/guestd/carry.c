/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The carrier's parent. It keeps at most one child, because a port can be open once only; a question that
 * meets a child about to end waits until that was reaped, and starts the next.
 */

#include "guestd/carry.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "guestd/carry-link.h"
#include "guestd/log.h"

#define QUESTIONS_MAX 64u                     /* a host asks once, and again after a timeout */
#define RESET_TIMEOUT_USEC (5 * USEC_PER_SEC) /* a child may be in a long fsync(2) */

struct Carry {
        Loop *loop;
        const Config *config;
        const CarryOps *ops;
        void *userdata;

        pid_t pid; /* 0: no child */
        int link_fd;
        LoopFd *watch;
        LoopTimer *kill_timer, *fail_timer;
        bool is_open;    /* the child has said so */
        bool has_spoken; /* the child has said whether */
        bool is_resetting;
        uint64_t questions[QUESTIONS_MAX];
        size_t n_questions;
};

static void carry_answer(Carry *c, WireError error, const char *text)
{
        uint64_t questions[QUESTIONS_MAX];
        size_t n = c->n_questions;

        memcpy(questions, c->questions, n * sizeof(*questions));
        c->n_questions = 0;
        for (size_t i = 0; i < n; i++)
                c->ops->opened(c->userdata, questions[i], error, text);
}

static void carry_close_link(Carry *c)
{
        c->watch = loop_fd_free(c->watch);
        c->link_fd = fd_close(c->link_fd);
}

static void carry_grant(Carry *c, const CarryPacket *ask)
{
        _cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF;
        CarryPacket grant = { .type = CARRY_GRANT };
        _cleanup_free_ char *text = NULL;

        grant.error = c->ops->process_stream(c->userdata, ask->id, ask->which, &read_fd, &write_fd, &text);
        (void)snprintf(grant.text, sizeof(grant.text), "%s", text ?: "");
        /* If it can't be told, its own patience ends. */
        (void)carry_link_send(c->link_fd, &grant, read_fd, write_fd, false);
        if (write_fd == read_fd)
                write_fd = -EBADF;
}

static void carry_packet(Carry *c, const CarryPacket *p)
{
        switch (p->type) {
        case CARRY_OPENED:
                if (c->is_resetting)
                        break;
                c->has_spoken = true;
                c->is_open = p->error == WIRE_OK;
                carry_answer(c, p->error, p->text);
                break;
        case CARRY_ASK:
                carry_grant(c, p);
                break;
        case CARRY_AUDIT:
                log_audit(p->verb, p->id, p->result, "%s", p->text);
                break;
        case CARRY_KEEP:
        case CARRY_RESET:
        case CARRY_GRANT:
                break;
        }
}

static void carry_read(Carry *c)
{
        CarryPacket p;

        while (c->link_fd >= 0) {
                int read_fd, write_fd, r;

                r = carry_link_receive(c->link_fd, &p, &read_fd, &write_fd);
                if (r == 0)
                        return;
                if (r < 0) {
                        carry_close_link(c); /* its end comes by SIGCHLD */
                        return;
                }
                (void)fd_close(read_fd);
                (void)fd_close(write_fd);
                carry_packet(c, &p);
        }
}

static void on_link(void *userdata, int fd, short revents)
{
        carry_read(userdata);
}

static void carry_start(Carry *c);

static void on_child(void *userdata, pid_t pid, int wait_status)
{
        Carry *c = userdata;
        bool has_spoken;

        carry_read(c); /* its last words */
        carry_close_link(c);
        loop_timer_set(c->kill_timer, USEC_INFINITY);
        has_spoken = c->has_spoken || c->is_resetting;
        c->pid = 0;
        c->is_open = c->has_spoken = c->is_resetting = false;
        if (WIFSIGNALED(wait_status))
                log_warning("The carrier of the data port was killed by signal %d", WTERMSIG(wait_status));
        if (c->n_questions == 0)
                return;
        if (has_spoken)
                carry_start(c);
        else
                carry_answer(c, WIRE_FAILED, "the carrier of the data port ended before it had opened it");
}

/* No child could be started; the answer does not come from within the question. */
static void on_failed(void *userdata)
{
        carry_answer(userdata, WIRE_LIMITS_EXCEEDED,
                     "the guest could not start a process for the data port");
}

static int carry_fork(Carry *c)
{
        int fds[2], r;
        pid_t parent = getpid(), pid;

        r = carry_link_new(fds);
        if (r < 0)
                return r;
        r = loop_add_fd(c->loop, fds[0], POLLIN, on_link, c, &c->watch);
        if (r < 0) {
                (void)fd_close(fds[0]);
                (void)fd_close(fds[1]);
                return r;
        }
        c->link_fd = fds[0];
        pid = loop_fork(c->loop, &fds[1], 1);
        if (pid == 0)
                _exit(carry_child_run(c->config, fds[1], parent));
        (void)fd_close(fds[1]);
        if (pid < 0) {
                carry_close_link(c);
                return (int)pid;
        }
        c->pid = pid;
        r = loop_on_child(c->loop, pid, on_child, c);
        if (r < 0) {
                (void)kill(pid, SIGKILL);
                c->pid = 0;
                carry_close_link(c);
        }
        return r;
}

static void carry_start(Carry *c)
{
        int r = carry_fork(c);

        if (r >= 0)
                return;
        log_error("Cannot start the carrier of the data port: %s", strerror(-r));
        loop_timer_set(c->fail_timer, loop_now(c->loop));
}

static void on_kill(void *userdata)
{
        Carry *c = userdata;

        if (c->pid > 0)
                (void)kill(c->pid, SIGKILL);
}

int carry_new(Loop *l, const Config *config, const CarryOps *ops, void *userdata, Carry **ret)
{
        _cleanup_(carry_freep) Carry *c = calloc(1, sizeof(*c));

        if (!c)
                return -ENOMEM;
        c->loop = l;
        c->config = config;
        c->ops = ops;
        c->userdata = userdata;
        c->link_fd = -EBADF;
        if (loop_add_timer(l, on_kill, c, &c->kill_timer) < 0 ||
            loop_add_timer(l, on_failed, c, &c->fail_timer) < 0)
                return -ENOMEM;
        *ret = TAKE(c);
        return 0;
}

Carry *carry_free(Carry *c)
{
        if (!c)
                return NULL;
        if (c->pid > 0) {
                loop_forget_child(c->loop, c->pid);
                (void)kill(c->pid, SIGKILL);
        }
        carry_close_link(c);
        (void)loop_timer_free(c->kill_timer);
        (void)loop_timer_free(c->fail_timer);
        free(c);
        return NULL;
}

void carry_open(Carry *c, uint64_t cookie)
{
        CarryPacket keep = { .type = CARRY_KEEP };

        if (c->n_questions == QUESTIONS_MAX)
                memmove(c->questions, c->questions + 1, --c->n_questions * sizeof(*c->questions));
        c->questions[c->n_questions++] = cookie;
        if (c->pid == 0)
                carry_start(c);
        else if (c->link_fd >= 0 && c->is_open && !c->is_resetting)
                (void)carry_link_send(c->link_fd, &keep, -1, -1, false);
}

void carry_reset(Carry *c)
{
        CarryPacket reset = { .type = CARRY_RESET };

        c->n_questions = 0;
        loop_timer_set(c->fail_timer, USEC_INFINITY);
        if (c->pid == 0 || c->is_resetting)
                return;
        c->is_resetting = true;
        loop_timer_set(c->kill_timer, loop_now(c->loop) + RESET_TIMEOUT_USEC);
        if (c->link_fd >= 0)
                (void)carry_link_send(c->link_fd, &reset, -1, -1, false);
}

bool carry_is_running(const Carry *c)
{
        return c->pid > 0;
}
