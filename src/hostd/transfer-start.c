/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What is asked of a transfer before there is a job: it begins, or is refused, and who was refused what is
 * in the journal.
 */

#include "hostd/transfer-private.h"

#include "base/base.h"
#include "hostd/audit.h"
#include "proto/limits.h"
#include "proto/name.h"

WireError transfer_check(const Guest *g, const char *host_path, const char *guest_path, char **ret_text)
{
        const char *wrong = NULL;

        if (host_path && !name_is_absolute_path(host_path))
                wrong = host_path;
        else if (!name_is_absolute_path(guest_path))
                wrong = guest_path;
        if (!wrong)
                return WIRE_OK;
        *ret_text = g_strdup_printf("The path \"%s\" %s %s must be absolute, at most %u bytes, and without "
                                    "empty, \".\" or \"..\" components",
                                    wrong, wrong == host_path ? "on the host for guest" : "in guest",
                                    guest_name(g), PATH_BYTES_MAX);
        return WIRE_INVALID_PATH;
}

static WireError start(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *host_path, int fd,
                       const char *guest_path, const TransferOptions *options, Job **ret, char **ret_text)
{
        _cleanup_close_ int taken = fd;
        const char *host = host_path ? host_path : "";
        WireError error = transfer_check(g, host_path, guest_path, ret_text);
        Transfer *t;

        if (error != WIRE_OK || (error = jobs_check_guest(g, ret_text)) != WIRE_OK)
                return error;
        if (!guest_domain(g)->data_socket) {
                *ret_text = g_strdup_printf(
                        "Guest %s has no data channel, which files need; \"vmferry enable %s\" adds it",
                        guest_name(g), guest_name(g));
                return WIRE_NO_CHANNEL;
        }
        t = transfer_make(js, host_path, TAKE_FD(taken), guest_path, options);
        if (!t) {
                *ret_text = g_strdup("No memory");
                return WIRE_FAILED;
        }
        error = jobs_add(js, kind, g, caller, kind == JOB_PUSH ? host : guest_path,
                         kind == JOB_PUSH ? guest_path : host, &transfer_ops, t, &t->job, ret_text);
        if (error != WIRE_OK)
                return error;
        t->job->detached = options->detach;
        transfer_keep(t);
        *ret = t->job;
        return WIRE_OK;
}

WireError transfer_start(Jobs *js, JobKind kind, Guest *g, const Caller *caller, const char *host_path,
                         int fd, const char *guest_path, const TransferOptions *options, Job **ret,
                         char **ret_text)
{
        WireError error = start(js, kind, g, caller, host_path, fd, guest_path, options, ret, ret_text);

        if (error != WIRE_OK)
                audit_write(&(AuditEntry){
                        .verb = job_kind_to_string(kind),
                        .caller = caller,
                        .guest_uuid = guest_uuid(g),
                        .guest_name = guest_name(g),
                        .path = guest_path,
                        .host_path = host_path,
                        .refused = true,
                        .error = error,
                        .text = *ret_text,
                });
        return error;
}
