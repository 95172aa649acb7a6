/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * sd_journal_sendv(3) for a daemon under test: each entry is appended to the file $TEST_JOURNAL, a field a
 * line, with an empty line behind the last.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

int sd_journal_sendv(const struct iovec *iov, int n);
int sd_journal_sendv(const struct iovec *iov, int n)
{
        static char newline[] = "\n";
        struct iovec lines[128];
        int fd, n_lines = 0;

        for (int i = 0; i < n && n_lines + 3 < (int)(sizeof(lines) / sizeof(lines[0])); i++) {
                lines[n_lines++] = iov[i];
                lines[n_lines++] = (struct iovec){ .iov_base = newline, .iov_len = 1 };
        }
        lines[n_lines++] = (struct iovec){ .iov_base = newline, .iov_len = 1 };
        fd = open(getenv("TEST_JOURNAL"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        (void)!writev(fd, lines, n_lines);
        (void)close(fd);
        return 0;
}
