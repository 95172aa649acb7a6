/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a transfer's caller finds at its end.
 */

#include "hostd/transfer-private.h"

#include <glib.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/base.h"

char *transfer_failure_text(int64_t n_failed, bool is_tree, const char *path, const char *text)
{
        if (n_failed <= 0 || (n_failed == 1 && (!is_tree || !*path)))
                return g_strdup(text);
        return g_strdup_printf("%" PRId64 " of its entries failed, the first being %s: %s", n_failed,
                               *path ? path : "the directory itself", text);
}

/* Content goes by pread(2) and pwrite(2), so that an attempt can begin again; the description is shared with
 * the caller, and with all that a shell starts next on the same file. */
void transfer_move_offset(const Transfer *t)
{
        /* What the guest says of a push is not what was read. */
        uint64_t n = t->job->kind == JOB_PUSH && t->source.n_bytes != UINT64_MAX ? t->source.n_bytes
                                                                                 : t->job->bytes_done;

        if (t->fd >= 0 && t->fd_is_file && n <= (uint64_t)(INT64_MAX - t->fd_offset))
                (void)lseek(t->fd, t->fd_offset + (int64_t)n, SEEK_SET);
}
