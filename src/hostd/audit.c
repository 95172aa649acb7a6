/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/audit.h"

#include <glib.h>
#include <inttypes.h>
#include <systemd/sd-journal.h>

#include "base/escape.h"
#include "base/fs.h"
#include "proto/limits.h"

/* journalctl MESSAGE_ID=… finds them all. */
#define AUDIT_MESSAGE_ID "6d1c2b0e5a3f4f6e9b0c7c1f4e8d2a95"
#define FIELDS_MAX 24
#define REFUSALS_PER_SECOND 10u
#define COMMAND_BYTES_MAX 4096u

typedef struct Fields {
        struct iovec iov[FIELDS_MAX];
        int n;
} Fields;

static void _printf_(2, 3) put(Fields *f, const char *format, ...)
{
        va_list ap;

        if (f->n == FIELDS_MAX)
                return;
        va_start(ap, format);
        char *s = g_strdup_vprintf(format, ap);
        va_end(ap);
        f->iov[f->n++] = (struct iovec){ .iov_base = s, .iov_len = strlen(s) };
}

static void put_text(Fields *f, const char *field, const char *untrusted)
{
        if (!untrusted || !*untrusted)
                return;
        _cleanup_free_ char *s = escape_text(untrusted, strlen(untrusted), PATH_BYTES_MAX + 1);
        if (s)
                put(f, "%s=%s", field, s);
}

static char *command_line(const char *const *argv)
{
        GString *s = g_string_new(NULL);

        for (; *argv && s->len < COMMAND_BYTES_MAX; argv++) {
                g_autofree char *quoted = g_shell_quote(*argv);
                g_string_append_printf(s, "%s%s", s->len > 0 ? " " : "", quoted);
        }
        _cleanup_free_ char *escaped = escape_text(s->str, s->len, COMMAND_BYTES_MAX);
        g_string_free(s, TRUE);
        return g_strdup(escaped ? escaped : "");
}

void audit_write(const AuditEntry *a)
{
        g_autofree char *command = a->command ? command_line(a->command) : NULL;
        const char *result = a->refused                   ? "refused"
                             : a->error == WIRE_OK        ? "done"
                             : a->error == WIRE_CANCELLED ? "cancelled"
                                                          : "failed";
        const char *guest = a->guest_name ? a->guest_name : "?";
        g_autofree char *who = a->caller ? g_strdup_printf("uid %" PRIu32, (uint32_t)a->caller->uid)
                                         : g_strdup("the guest");
        Fields f = { .n = 0 };
        const char *what = command ? command : a->path ? a->path : a->topic ? a->topic : "";
        _cleanup_free_ char *shown = command ? strdup(command) : escape_text(what, strlen(what), 200);
        _cleanup_free_ char *shown_guest = escape_text(guest, strlen(guest), FACT_BYTES_MAX);

        put(&f, "MESSAGE=%s of %s in guest %s by %s: %s%s%s", a->verb, shown ? shown : "",
            shown_guest ? shown_guest : "", who, result, a->error != WIRE_OK ? ", " : "",
            a->error != WIRE_OK ? wire_error_to_string(a->error) : "");
        put(&f, "MESSAGE_ID=" AUDIT_MESSAGE_ID);
        put(&f, "PRIORITY=%i", a->refused ? LOG_NOTICE : LOG_INFO);
        put(&f, "SYSLOG_IDENTIFIER=vmferry-hostd");
        put(&f, "VMFERRY_VERB=%s", a->verb);
        put(&f, "VMFERRY_RESULT=%s", result);
        if (a->error != WIRE_OK)
                put(&f, "VMFERRY_ERROR=%s", wire_error_to_string(a->error));
        put_text(&f, "VMFERRY_ERROR_TEXT", a->text);
        if (a->caller)
                put(&f, "VMFERRY_CALLER_UID=%" PRIu32, (uint32_t)a->caller->uid);
        put_text(&f, "VMFERRY_CALLER", a->caller ? a->caller->sender : NULL);
        put_text(&f, "DOMAIN_UUID", a->guest_uuid);
        put_text(&f, "DOMAIN_NAME", a->guest_name);
        if (a->job > 0)
                put(&f, "JOB_ID=%" PRIu32, a->job);
        put_text(&f, "VMFERRY_ID", a->id);
        if (command)
                put(&f, "VMFERRY_COMMAND=%s", command);
        put_text(&f, "VMFERRY_USER", a->user);
        put_text(&f, "VMFERRY_PATH", a->path);
        put_text(&f, "VMFERRY_HOST_PATH", a->host_path);
        put_text(&f, "VMFERRY_TOPIC", a->topic);
        put_text(&f, "VMFERRY_DIGEST", a->digest);
        if (a->has_bytes)
                put(&f, "VMFERRY_BYTES=%" PRIu64, a->n_bytes);
        if (a->has_exit)
                put(&f, "VMFERRY_EXIT_STATUS=%i", a->exit_status);
        if (a->n_left_out > 0)
                put(&f, "VMFERRY_LEFT_OUT=%" PRIu32, a->n_left_out);
        (void)sd_journal_sendv(f.iov, f.n); /* without a journal there is nobody to complain to */
        for (int i = 0; i < f.n; i++)
                g_free(f.iov[i].iov_base);
}

void audit_write_refusal(AuditFlood *f, const AuditEntry *a)
{
        AuditEntry refusal = *a;

        if (!quota_bucket_take(&f->bucket, REFUSALS_PER_SECOND, fs_now_usec())) {
                f->n_left_out += f->n_left_out < UINT32_MAX;
                return;
        }
        refusal.refused = true;
        refusal.n_left_out = f->n_left_out;
        f->n_left_out = 0;
        audit_write(&refusal);
}
