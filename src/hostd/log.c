/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Where log lines go: natively to the journal when stderr is a stream of it ($JOURNAL_STREAM,
 * systemd.exec(5)), so that fields and levels arrive; else to stderr as text. Callable from any thread.
 */

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>

#include "hostd/log.h"

#define LINE_MAX_BYTES 2048

static int max_level = LOG_INFO;
static bool to_journal;
static const char *log_identifier = "vmferry";

static bool stderr_is_journal(void)
{
        const char *e = getenv("JOURNAL_STREAM");
        unsigned long long dev, ino;
        struct stat st;

        return e && sscanf(e, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
               st.st_dev == (dev_t)dev && st.st_ino == (ino_t)ino;
}

void log_init(const char *identifier)
{
        log_identifier = identifier;
        to_journal = stderr_is_journal();
}

void log_set_max_level(int level)
{
        max_level = level;
}

static struct iovec field(char *buf, size_t size, const char *name, const char *value)
{
        int n = snprintf(buf, size, "%s=%s", name, value);

        return (struct iovec){ .iov_base = buf, .iov_len = n < 0 ? 0 : MIN((size_t)n, size - 1) };
}

static void write_journal(int level, const char *text, const char *uuid, const char *name, uint32_t job)
{
        char message[LINE_MAX_BYTES + 16], priority[16], identifier[64], domain_uuid[64], domain_name[320],
                id[32];
        char number[16];
        struct iovec iov[6];
        int n = 0;

        (void)snprintf(number, sizeof(number), "%d", level);
        iov[n++] = field(message, sizeof(message), "MESSAGE", text);
        iov[n++] = field(priority, sizeof(priority), "PRIORITY", number);
        iov[n++] = field(identifier, sizeof(identifier), "SYSLOG_IDENTIFIER", log_identifier);
        if (uuid)
                iov[n++] = field(domain_uuid, sizeof(domain_uuid), "DOMAIN_UUID", uuid);
        if (name)
                iov[n++] = field(domain_name, sizeof(domain_name), "DOMAIN_NAME", name);
        if (job > 0) {
                (void)snprintf(number, sizeof(number), "%u", job);
                iov[n++] = field(id, sizeof(id), "JOB_ID", number);
        }
        (void)sd_journal_sendv(iov, n);
}

static _printf_(5, 0) void log_writev(int level, const char *uuid, const char *name, uint32_t job,
                                      const char *format, va_list ap)
{
        char text[LINE_MAX_BYTES];

        if (level > max_level)
                return;
        (void)vsnprintf(text, sizeof(text), format, ap);
        if (to_journal)
                write_journal(level, text, uuid, name, job);
        else
                (void)fprintf(stderr, "%s\n", text);
}

void log_write(int level, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        log_writev(level, NULL, NULL, 0, format, ap);
        va_end(ap);
}

void log_guest(int level, const char *uuid, const char *name, uint32_t job, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        log_writev(level, uuid, name, job, format, ap);
        va_end(ap);
}
