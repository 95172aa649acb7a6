/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "base/base.h"

static struct termios saved;
static volatile sig_atomic_t is_raw;

void terminal_restore(void)
{
        if (!is_raw)
                return;
        is_raw = 0;
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
}

static void on_fatal(int signal_number)
{
        terminal_restore();
        (void)signal(signal_number, SIG_DFL);
        (void)raise(signal_number);
}

int terminal_raw(void)
{
        static const int fatal[] = { SIGQUIT, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
        struct termios raw;

        if (tcgetattr(STDIN_FILENO, &saved) < 0)
                return -errno;
        raw = saved;
        cfmakeraw(&raw);
        for (size_t i = 0; i < ELEMENTSOF(fatal); i++)
                (void)signal(fatal[i], on_fatal);
        (void)atexit(terminal_restore);
        if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
                return -errno;
        is_raw = 1;
        return 0;
}

void terminal_size(uint16_t *ret_rows, uint16_t *ret_columns)
{
        struct winsize ws;

        for (int fd = 0; fd <= 2; fd++)
                if (ioctl(fd, TIOCGWINSZ, &ws) >= 0 && ws.ws_row > 0 && ws.ws_col > 0) {
                        *ret_rows = ws.ws_row;
                        *ret_columns = ws.ws_col;
                        return;
                }
        *ret_rows = 24;
        *ret_columns = 80;
}

ssize_t terminal_filter(void *userdata, uint8_t *data, size_t n)
{
        Escape *e = userdata;
        size_t kept = 0;

        for (size_t i = 0; i < n; i++) {
                uint8_t b = data[i];

                if (e->inside) {
                        e->inside = false;
                        if (b == '.')
                                return -1;
                        if (b != '~') {
                                /* The tilde was held back, perhaps by an earlier call: there is room for one
                                 * byte more. */
                                if (kept == i) {
                                        memmove(data + i + 1, data + i, n - i);
                                        n++;
                                        i++;
                                }
                                data[kept++] = '~';
                        }
                } else if (b == '~' && e->at_start) {
                        e->inside = true;
                        e->at_start = false;
                        continue;
                }
                e->at_start = b == '\r' || b == '\n';
                data[kept++] = b;
        }
        return (ssize_t)kept;
}
