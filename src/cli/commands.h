/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The table of commands, in the order of the manual.
 */

#include "cli/cli.h"

static const Command commands[] = {
        { "list", command_list, "", "guests, state, agent, uptime" },
        { "status", command_status, "GUEST", "one guest, all of it" },
        { "wait", command_wait, "GUEST [--timeout S]", "until it is ready" },
        { "ping", command_ping, "GUEST [-c N]", "round trips to the guest's daemon" },
        { "send", command_send, "GUEST TOPIC [TEXT|-]", "one-way message" },
        { "call", command_call, "GUEST TOPIC [TEXT|-]", "message with a reply" },
        { "monitor", command_monitor, "[GUEST]", "states, messages and jobs as they happen" },
        { "exec", command_exec, "[-t] [-i] [-u USER] … GUEST [--] CMD…", "run a command in the guest" },
        { "shell", command_shell, "GUEST", "a login shell on a terminal" },
        { "cp", command_cp, "[--preserve] … SRC… DST",
          "copy; one side is GUEST:PATH, - is stdin or stdout" },
        { "jobs", command_jobs, "[--all]", "transfers, processes and queued items" },
        { "cancel", command_cancel, "ID", "end a job" },
        { "queue", command_queue, "GUEST [drop ID]", "what waits for a guest" },
        { "enable", command_enable, "DOMAIN [--dry-run]", "add the channels, live where it runs" },
        { "disable", command_disable, "DOMAIN [--dry-run]", "remove them" },
        { "deploy", command_deploy, "DOMAIN|IMAGE [--dry-run] …",
          "put guestd into an image that is not in use" },
        { "adopt", command_adopt, "DOMAIN [--timeout S] …",
          "bring guestd into a running VM by its guest agent" },
        { "upgrade", command_upgrade, "GUEST | --all [--at-once N]",
          "replace the guestd of running guests" },
        { "metrics", command_metrics, "", "counters in OpenMetrics text" },
        { "actions", command_actions, "[check [FILE…]]",
          "what happens on VM start; whether the files are right" },
        {},
};
