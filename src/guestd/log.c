/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RFC 3164 lines without a date, which every syslogd adds, in one datagram. syslog(3) is not used: it
 * blocks, it takes the time zone's files along, and it writes to the console by itself. Forked children open
 * their own socket.
 */

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fs.h"
#include "guestd/log.h"

#define LINE_MAX_BYTES 2048

static struct {
        const char *identifier;
        int max_level;
        bool to_stderr;
        int fd;
        pid_t owner;
} state = { .identifier = "vmferry-guestd", .max_level = LOG_INFO, .fd = -EBADF };

void log_init(const char *identifier, bool to_stderr)
{
        state.identifier = identifier;
        state.to_stderr = to_stderr;
}

void log_set_max_level(int level)
{
        state.max_level = level;
}

int log_level_from_string(const char *name)
{
        static const char *const names[] = { "emerg",   "alert",  "crit", "error",
                                             "warning", "notice", "info", "debug" };

        for (int i = 0; i < (int)ELEMENTSOF(names); i++)
                if (str_eq(name, names[i]) || (name[0] == '0' + i && name[1] == '\0'))
                        return i;
        return -EINVAL;
}

static int log_connect(void)
{
        static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };

        if (state.owner != getpid())
                state.fd = -EBADF; /* inherited, and closed by loop_fork() */
        if (state.fd >= 0)
                return state.fd;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        state.owner = getpid();
        return state.fd = TAKE_FD(fd);
}

static bool log_send(const char *line, size_t n)
{
        for (int i = 0; i < 2; i++) {
                int fd = log_connect();
                if (fd < 0)
                        return false;
                if (send(fd, line, n, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
                        return true;
                if (errno == EAGAIN || errno == ENOBUFS)
                        return true; /* a syslogd that is stuck must not stop us: the line is lost */
                state.fd = fd_close(state.fd); /* restarted: a new socket of the same name */
        }
        return false;
}

static _printf_(3, 0) void log_line(int facility, int level, const char *format, va_list ap)
{
        char line[LINE_MAX_BYTES];
        int saved = errno;

        int prefix = snprintf(line, sizeof(line), "<%d>%s[%d]: ", facility | level, state.identifier,
                              (int)getpid());
        if (prefix < 0)
                return;
        errno = saved;
        int n = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, ap);
        if (n < 0)
                return;
        size_t length = MIN((size_t)prefix + (size_t)n, sizeof(line) - 2);
        for (size_t i = (size_t)prefix; i < length; i++)
                if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
                        line[i] = '?';
        if (state.to_stderr || !log_send(line, length)) {
                line[length++] = '\n';
                (void)fs_write_all(STDERR_FILENO, line + prefix, length - (size_t)prefix);
        }
        errno = saved;
}

void log_write(int level, const char *format, ...)
{
        if (level > state.max_level)
                return;
        va_list ap;
        va_start(ap, format);
        log_line(LOG_DAEMON, level, format, ap);
        va_end(ap);
}

static _printf_(3, 4) void log_plain(int facility, int level, const char *format, ...)
{
        va_list ap;
        va_start(ap, format);
        log_line(facility, level, format, ap);
        va_end(ap);
}

void log_audit(const char *verb, const char *id, const char *result, const char *format, ...)
{
        char details[LINE_MAX_BYTES];
        va_list ap;

        va_start(ap, format);
        int n = vsnprintf(details, sizeof(details), format, ap);
        va_end(ap);
        if (n < 0)
                return;

        /* Not subject to LogLevel=: an audit that can be silenced is none. */
        log_plain(LOG_AUTHPRIV, LOG_NOTICE, "audit: verb=%s id=%s result=%s%s%s", verb, id ? id : "-",
                  result, details[0] ? " " : "", details);
}
