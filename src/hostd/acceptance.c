/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The peer in unix_diag (UNIX_DIAG_PEER) has inode 0 until accept(2) gives it one (net/unix/diag.c,
 * sock_i_ino()). An inode is looked for from the first socket to the last (unix_lookup_by_ino()), which a
 * thousand connections that ask again and again would turn into minutes.
 */

#include "hostd/acceptance.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include <glib.h>

#include "base/base.h"
#include "base/fs.h"

#define FEW 8u    /* are asked for one by one */
#define SHARE 10u /* a look at all of them takes one part of so many at most */
#define ALL_MIN_USEC (2 * USEC_PER_MSEC)

static GHashTable *served; /* inodes of sockets whose peers are served, at the last look at all */
static uint64_t looked_usec, next_look_usec;

static int ask(int nl, uint16_t flags, ino_t inode)
{
        struct {
                struct nlmsghdr header;
                struct unix_diag_req request;
        } m = {
                .header = { .nlmsg_len = sizeof(m),
                            .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                            .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) },
                .request = { .sdiag_family = AF_UNIX,
                             .udiag_states = UINT32_MAX,
                             .udiag_ino = (uint32_t)inode,
                             .udiag_show = UDIAG_SHOW_PEER,
                             .udiag_cookie = { UINT32_MAX, UINT32_MAX } },
        };

        return send(nl, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m) ? 0 : -errno;
}

/* 1: this socket has a peer with an inode; 0: it has none; -EBADMSG. */
static int read_socket(const struct nlmsghdr *h, uint32_t *ret_inode)
{
        const struct unix_diag_msg *d = NLMSG_DATA(h);
        const struct rtattr *a = (const struct rtattr *)(d + 1);
        size_t left;

        if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(*d)))
                return -EBADMSG;
        *ret_inode = d->udiag_ino;
        left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*d));
        for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
                uint32_t peer;

                if (a->rta_type != UNIX_DIAG_PEER || RTA_PAYLOAD(a) < sizeof(peer))
                        continue;
                memcpy(&peer, RTA_DATA(a), sizeof(peer));
                return peer != 0;
        }
        return 0;
}

static int read_error(const struct nlmsghdr *h)
{
        int e = h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr))
                        ? ((const struct nlmsgerr *)NLMSG_DATA(h))->error
                        : -EBADMSG;

        return e < 0 ? e : -EBADMSG;
}

static int look_at_one(int nl, ino_t inode)
{
        _Alignas(struct nlmsghdr) uint8_t buf[1024];
        const struct nlmsghdr *h = (const void *)buf;
        uint32_t found;
        ssize_t n;
        int r = ask(nl, 0, inode);

        if (r < 0)
                return r;
        n = recv(nl, buf, sizeof(buf), MSG_DONTWAIT); /* answered within send(2) */
        if (n < 0)
                return -errno;
        if (!NLMSG_OK(h, (size_t)n))
                return -EBADMSG;
        return h->nlmsg_type == NLMSG_ERROR ? read_error(h) : read_socket(h, &found);
}

static int look_at_all(int nl)
{
        static _Alignas(struct nlmsghdr) uint8_t buf[32768];
        int r = ask(nl, NLM_F_DUMP, 0);

        if (r < 0)
                return r;
        g_hash_table_remove_all(served);
        for (;;) {
                const struct nlmsghdr *h = (const void *)buf;
                ssize_t n = recv(nl, buf, sizeof(buf), MSG_DONTWAIT); /* each part follows within recv(2) */
                size_t left;

                if (n <= 0)
                        return n < 0 ? -errno : -EBADMSG;
                for (left = (size_t)n; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
                        uint32_t inode;

                        if (h->nlmsg_type == NLMSG_DONE)
                                return 0;
                        if (h->nlmsg_type == NLMSG_ERROR)
                                return read_error(h);
                        if (read_socket(h, &inode) > 0)
                                g_hash_table_add(served, GUINT_TO_POINTER(inode));
                }
        }
}

int acceptance_look(ino_t inode, uint64_t connected_usec, unsigned n_waiting)
{
        _cleanup_close_ int nl = -EBADF;
        uint64_t now = fs_now_usec();
        int r;

        if (!served)
                served = g_hash_table_new(NULL, NULL);
        if (n_waiting > FEW && connected_usec < looked_usec &&
            g_hash_table_contains(served, GUINT_TO_POINTER((uint32_t)inode)))
                return 1;
        if (n_waiting > FEW && now < next_look_usec)
                return 0;
        nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
        if (nl < 0)
                return -errno;
        if (n_waiting <= FEW)
                return look_at_one(nl, inode);
        r = look_at_all(nl);
        looked_usec = now;
        now = fs_now_usec();
        next_look_usec = now + MAX((now - looked_usec) * SHARE, ALL_MIN_USEC);
        if (r < 0)
                return r;
        return g_hash_table_contains(served, GUINT_TO_POINTER((uint32_t)inode));
}
