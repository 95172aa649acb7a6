/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * unix_diag lists sockets with their names and peers: one that has the path as its name and a peer with an
 * inode is the accepted end of whoever is served. Without the right to read other processes' /proc/PID/fd
 * nothing is found, and nothing else is lost.
 */

#include "hostd/holder.h"

#include <dirent.h>
#include <glib.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/base.h"
#include "base/escape.h"
#include "base/fs.h"

struct Holder {
        gint n_refs;
        char *path;
        HolderFound found; /* main thread; NULL: nobody waits any more */
        void *userdata;
        pid_t pid;
        char *name;
};

static void holder_unref(void *p)
{
        Holder *h = p;

        if (!g_atomic_int_dec_and_test(&h->n_refs))
                return;
        g_free(h->path);
        free(h->name);
        g_free(h);
}

static void closedirp(DIR **d)
{
        if (*d)
                closedir(*d);
}

static uint32_t peer_of(const struct nlmsghdr *h, const char *path)
{
        const struct unix_diag_msg *d = NLMSG_DATA(h);
        size_t left;
        uint32_t peer = 0;
        bool is_path = false;

        if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*d)))
                return 0;
        left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*d));
        for (const struct rtattr *a = (const void *)(d + 1); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
                if (a->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(a) >= sizeof(peer))
                        memcpy(&peer, RTA_DATA(a), sizeof(peer));
                if (a->rta_type == UNIX_DIAG_NAME)
                        is_path = strnlen(RTA_DATA(a), RTA_PAYLOAD(a)) == strlen(path) &&
                                  memcmp(RTA_DATA(a), path, strlen(path)) == 0;
        }
        return is_path ? peer : 0;
}

/* The inode of the client's socket; 0: not found. */
static uint32_t find_client(const char *path)
{
        struct {
                struct nlmsghdr header;
                struct unix_diag_req request;
        } m = {
                .header = { .nlmsg_len = sizeof(m),
                            .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                            .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
                .request = { .sdiag_family = AF_UNIX,
                             .udiag_states = UINT32_MAX,
                             .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_NAME },
        };
        _cleanup_close_ int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
        _Alignas(struct nlmsghdr) uint8_t buf[32768];
        uint32_t client = 0;

        if (nl < 0 || send(nl, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
                return 0;
        for (;;) {
                ssize_t n = recv(nl, buf, sizeof(buf), 0);
                size_t left = n > 0 ? (size_t)n : 0;

                if (n <= 0)
                        return client;
                for (const struct nlmsghdr *h = (const void *)buf; NLMSG_OK(h, left);
                     h = NLMSG_NEXT(h, left)) {
                        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
                                return client;
                        if (client == 0)
                                client = peer_of(h, path);
                }
        }
}

static bool has_socket(const char *pid, const char *wanted)
{
        char path[64], target[64];
        struct dirent *e;
        _cleanup_(closedirp) DIR *d = NULL;

        (void)snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
        d = opendir(path);
        while (d && (e = readdir(d))) {
                ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);

                if (n <= 0)
                        continue;
                target[n] = 0;
                if (str_eq(target, wanted))
                        return true;
        }
        return false;
}

static void find_process(Holder *h, uint32_t inode)
{
        _cleanup_(closedirp) DIR *d = opendir("/proc");
        char wanted[64], path[64];
        struct dirent *e;

        (void)snprintf(wanted, sizeof(wanted), "socket:[%u]", inode);
        while (d && (e = readdir(d))) {
                _cleanup_free_ char *comm = NULL;
                size_t n;

                if (!g_ascii_isdigit(e->d_name[0]) || !has_socket(e->d_name, wanted))
                        continue;
                h->pid = (pid_t)atoi(e->d_name);
                (void)snprintf(path, sizeof(path), "/proc/%.16s/comm", e->d_name);
                if (fs_read_file(path, 64, &comm, &n) >= 0)
                        h->name = escape_text(comm, strcspn(comm, "\n"), 32);
                return;
        }
}

static gboolean on_found(gpointer userdata)
{
        Holder *h = userdata;

        if (h->found)
                h->found(h->userdata, h->pid, h->name ? h->name : "");
        return G_SOURCE_REMOVE;
}

static void *holder_thread(void *userdata)
{
        Holder *h = userdata;
        uint32_t client = find_client(h->path);

        if (client > 0)
                find_process(h, client);
        g_idle_add_full(G_PRIORITY_DEFAULT, on_found, h, holder_unref);
        return NULL;
}

Holder *holder_new(const char *path, HolderFound found, void *userdata)
{
        Holder *h = g_new0(Holder, 1);
        GThread *thread;

        *h = (Holder){ .n_refs = 2, .path = g_strdup(path), .found = found, .userdata = userdata };
        thread = g_thread_try_new("holder", holder_thread, h, NULL);
        if (thread)
                g_thread_unref(thread);
        else
                holder_unref(h);
        return h;
}

Holder *holder_free(Holder *h)
{
        if (!h)
                return NULL;
        h->found = NULL;
        holder_unref(h);
        return NULL;
}
