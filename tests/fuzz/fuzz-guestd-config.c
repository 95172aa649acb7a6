/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * guestd.conf, and the policy that comes of it: a list that the file names bounds what may be done.
 */

#include "fuzz.h"

#include "guestd/config.h"
#include "guestd/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        unsigned n_complaints = 0;
        Config c;

        log_set_max_level(LOG_EMERG);
        if (config_init(&c) < 0)
                abort();
        (void)config_parse("guestd.conf", (const char *)data, n, &c, &n_complaints);
        if (!*c.control_channel || !*c.data_channel || *c.handlers_dir != '/' || c.socket_mode > 0777)
                abort();
        for (char **r = c.policy.write_roots; r && *r; r++)
                if (**r != '/')
                        abort();
        for (char **r = c.policy.read_roots; r && *r; r++)
                if (**r != '/')
                        abort();
        (void)policy_may_run_as(&c.policy, "web", 1000);
        if (c.policy.exec_commands &&
            (policy_may_run(&c.policy, "bin/true") || policy_may_run(&c.policy, "")))
                abort();
        (void)policy_may_run(&c.policy, "/usr/bin/true");
        (void)policy_may_use_topic(&c.policy, "web", 1000, "app.started");
        if (!policy_may_use_topic(&c.policy, "root", 0, "app.started"))
                abort();
        config_done(&c);
        return 0;
}
