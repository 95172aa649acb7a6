/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/terminal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "base/base.h"

#define GID_KEEP ((gid_t)-1)

int terminal_open(uint16_t rows, uint16_t columns, Terminal *ret)
{
        _cleanup_close_ int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), slave = -EBADF;
        if (master < 0)
                return -errno;
        int unlock = 0;
        unsigned number;
        if (ioctl(master, TIOCSPTLCK, &unlock) < 0 || ioctl(master, TIOCGPTN, &number) < 0)
                return -errno;
        Terminal t = { .path = "" };
        (void)snprintf(t.path, sizeof(t.path), "/dev/pts/%u", number);
        slave = open(t.path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        struct stat st;
        if (slave < 0 || fstat(slave, &st) < 0)
                return -errno;
        t.device = st.st_rdev;
        struct termios modes;
        if (tcgetattr(slave, &modes) < 0)
                return -errno;
        modes.c_iflag |= IUTF8;
        struct winsize size = {
                .ws_row = rows ?: TERMINAL_ROWS_DEFAULT,
                .ws_col = columns ?: TERMINAL_COLUMNS_DEFAULT,
        };
        if (tcsetattr(slave, TCSANOW, &modes) < 0 || ioctl(slave, TIOCSWINSZ, &size) < 0)
                return -errno;
        t.master = TAKE_FD(master);
        t.slave = TAKE_FD(slave);
        *ret = t;
        return 0;
}

void terminal_done(Terminal *t)
{
        t->master = fd_close(t->master);
        t->slave = fd_close(t->slave);
}

int terminal_enter(int slave, uid_t uid)
{
        if (ioctl(slave, TIOCSCTTY, 0) < 0)
                return -errno;
        /* The group is devpts' choice (gid=). A devpts of another user namespace refuses: the terminal works
         * all the same. */
        IGNORE(fchown(slave, uid, GID_KEEP));
        (void)fchmod(slave, 0620);
        return 0;
}

/* Field 7 of proc_pid_stat(5), in the kernel's encoding of a device. */
static int terminal_of(pid_t pid, dev_t *ret)
{
        char path[32], buf[512];
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        ssize_t n = read(fd, buf, sizeof(buf) - 1);
        if (n <= 0)
                return -ESRCH;
        buf[n] = 0;
        char *p = strrchr(buf, ')');
        if (!p || p[1] != ' ' || !p[2])
                return -EBADMSG;
        p += 3;
        long tty = 0;
        for (int field = 4; field <= 7; field++)
                tty = strtol(p, &p, 10);
        unsigned v = (unsigned)tty;
        *ret = makedev((v >> 8) & 0xfff, (v & 0xff) | ((v >> 12) & 0xfff00));
        return 0;
}

int terminal_resize(const Terminal *t, pid_t leader, uint16_t rows, uint16_t columns)
{
        dev_t device;
        int r = terminal_of(leader, &device);
        if (r < 0)
                return r;
        if (device != t->device)
                return -ENOTTY;
        _cleanup_close_ int fd = open(t->path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        struct winsize size;
        if (fd < 0 || ioctl(fd, TIOCGWINSZ, &size) < 0)
                return -errno;
        size.ws_row = rows ?: size.ws_row;
        size.ws_col = columns ?: size.ws_col;
        return ioctl(fd, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}
