/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/job.h"

#include <glib.h>

#include "base/escape.h"
#include "proto/limits.h"
#include "proto/name.h"

const char *job_kind_to_string(JobKind k)
{
        switch (k) {
        case JOB_PUSH:
                return "push";
        case JOB_PULL:
                return "pull";
        case JOB_EXEC:
                return "exec";
        case JOB_SEND:
                return "send";
        }
        return "unknown";
}

const char *job_state_to_string(JobState s)
{
        switch (s) {
        case JOB_QUEUED:
                return "queued";
        case JOB_RUNNING:
                return "running";
        case JOB_WAITING:
                return "waiting";
        case JOB_DONE:
                return "done";
        case JOB_FAILED:
                return "failed";
        case JOB_CANCELLED:
                return "cancelled";
        }
        return "unknown";
}

Caller *caller_new(uid_t uid, gid_t gid, const gid_t *groups, size_t n_groups, const char *sender)
{
        Caller *c = g_new0(Caller, 1);
        c->uid = uid;
        c->gid = gid;
        c->groups = n_groups > 0 ? g_memdup2(groups, n_groups * sizeof(gid_t)) : NULL;
        c->n_groups = n_groups;
        c->sender = g_strdup(sender);
        return c;
}

Caller *caller_copy(const Caller *c)
{
        return caller_new(c->uid, c->gid, c->groups, c->n_groups, c->sender);
}

Caller *caller_free(Caller *c)
{
        if (!c)
                return NULL;
        g_free(c->groups);
        g_free(c->sender);
        g_free(c);
        return NULL;
}

char *job_text(const char *untrusted)
{
        size_t n;

        if (!untrusted)
                return g_strdup("");
        n = strlen(untrusted);
        if (name_is_text(untrusted, JOB_TEXT_MAX) && !strpbrk(untrusted, "\t\n\x7f"))
                return g_strdup(untrusted);
        char *text = escape_text(untrusted, n, JOB_TEXT_MAX);
        return text ? text : g_strdup("");
}

const char *job_bare_text(const char *guest_name, const char *text)
{
        g_autofree char *prefix = g_strdup_printf("Guest %s: ", guest_name);
        return text && str_has_prefix(text, prefix) ? text + strlen(prefix) : text;
}

JobProcess *job_process_new(const char *const *argv)
{
        size_t n = g_strv_length((char **)argv), left = JOB_TEXT_MAX;
        JobProcess *p = g_new0(JobProcess, 1);

        p->argv = g_new0(char *, n + 1);
        for (size_t i = 0; i < n; i++) {
                char *text = name_is_text(argv[i], left) ? g_strdup(argv[i]) : job_text(argv[i]);
                size_t n_bytes = strlen(text);

                if (n_bytes > left) {
                        g_free(text);
                        p->argv[i] = escape_text(argv[i], strlen(argv[i]), MAX(left, sizeof("…") - 1));
                        break;
                }
                left -= n_bytes;
                p->argv[i] = text;
        }
        p->exit_status = -1;
        return p;
}

JobProcess *job_process_free(JobProcess *p)
{
        if (!p)
                return NULL;
        g_strfreev(p->argv);
        g_free(p);
        return NULL;
}
