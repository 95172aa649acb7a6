/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * hostd.conf: whatever stands in it, every key has a value that hostd can live with.
 */

#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/config.h"
#include "hostd/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        _cleanup_close_ int fd = memfd_create("hostd.conf", MFD_CLOEXEC);
        char path[64];
        Config *c;

        log_set_max_level(LOG_EMERG);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (fd < 0 || fs_write_all(fd, data, n) < 0)
                return 0;
        c = config_load_file(false, path);
        if (!c->connect_uri || !*c->control_channel || !*c->data_channel || !*c->state_dir ||
            !c->guest_calls)
                abort();
        for (char **g = c->guest_calls; *g; g++)
                if (!strchr(*g, ':'))
                        abort();
        if (c->max_jobs > INT32_MAX || c->max_messages_per_second > INT32_MAX)
                abort();
        (void)config_free(c);
        return 0;
}
