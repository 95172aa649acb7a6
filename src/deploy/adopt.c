/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Installed as deploy would, so that the next boot has it too, and then started by the guest's own init.
 */

#include "base/fs.h"
#include "deploy/adopt.h"
#include "deploy/guest-agent.h"
#include "deploy/install.h"
#include "deploy/report.h"

static int check_architecture(GuestAgent *a, const Program *p)
{
        _cleanup_free_ char *machine = NULL;
        int status, r = guest_agent_run(a, "uname -m", &status, &machine);

        if (r < 0)
                return r;
        machine[strcspn(machine, "\n")] = '\0';
        if (program_fits(p, machine))
                return 0;
        return target_fail(&a->target, -EOPNOTSUPP,
                           "the guest is %s, and this vmferry-guestd is for %s (--agent=FILE)", machine,
                           program_architecture(p));
}

static int start(GuestAgent *a, InitSystem init)
{
        static const char *const scripts[] = {
                [INIT_SYSTEMD] = ("systemctl daemon-reload && udevadm control --reload; "
                                  "systemctl --no-block restart vmferry-guestd.service"),
                [INIT_OPENRC] = "rc-service vmferry-guestd restart",
                [INIT_BUSYBOX] = "kill -HUP 1",
                [INIT_SYSV] = "/etc/init.d/vmferry-guestd restart",
                [INIT_NONE] = "/usr/sbin/vmferry-guestd --daemon </dev/null >/dev/null 2>&1",
        };
        int status, r = guest_agent_run(a, scripts[init], &status, NULL);

        if (r < 0)
                return r;
        if (status != 0)
                return target_fail(&a->target, -EIO,
                                   "vmferry-guestd could not be started in the guest (status %d)", status);
        report_step("start", "vmferry-guestd was started in the guest");
        return 0;
}

int adopt_run(const char *uri, const char *name, const Program *p, uint64_t timeout_usec, bool dry_run)
{
        _cleanup_(domain_freep) Domain *domain = NULL;
        Install install = { .dry_run = dry_run };
        _cleanup_free_ char *why = NULL;
        GuestAgent a;
        int r = domain_open(uri, name, &domain, &why);

        if (r < 0)
                return report_failure("%s: %s", name, why ? why : strerror(-r));
        if (!domain_is_active(domain))
                return report_failure("%s is not running: vmferry deploy puts vmferry-guestd into its image",
                                      name);
        guest_agent_init(&a, domain, fs_now_usec() + timeout_usec);
        r = guest_agent_ping(&a);
        if (r < 0)
                return report_failure("%s: there is no way in: %s", name, a.target.why);
        report_step("agent", "the guest agent of %s answers", name);
        r = check_architecture(&a, p);
        if (r == 0)
                r = install_look(&install, &a.target, false);
        if (r == 0)
                r = install_run(&install, &a.target, p);
        if (r == 0 && !dry_run)
                r = start(&a, install.init);
        return r < 0 ? report_failure("%s: %s", name, a.target.why[0] ? a.target.why : strerror(-r)) : 0;
}
