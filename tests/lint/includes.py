#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The include law: layers include downwards only, as ARCHITECTURE.md has it; own headers are spelled from src/; a foreign
library is met in the files that are its customs posts, and nowhere else."""

import fnmatch
import re

import source

LAYERS = {
    "base": (),
    "proto": ("base",),
    "files": ("base", "proto"),
    "carrier": ("base", "proto"),
    "guestd": ("base", "proto", "files", "carrier"),
    "hostd": ("base", "proto", "files", "carrier"),
    "worker": ("base", "proto", "files", "carrier"),
    "cli": ("base", "proto"),
    "deploy": ("base", "proto"),
}

# header → where it may be included, below src/
CUSTOMS = {
    "libvirt/*": ("hostd/virt*", "deploy/domain.c"),
    "libvirt-glib/*": ("hostd/virt*",),
    "sqlite3.h": ("hostd/store*",),
    "libxml/*": ("hostd/domain-xml*", "hostd/virt.c", "deploy/disks-xml.c"),  # virt.c: xmlInitParser() before its thread
    "systemd/sd-bus*.h": ("hostd/bus*", "hostd/services*", "hostd/inbox*", "hostd/polkit*", "hostd/units*", "hostd/loop*", "cli/*"),
    "systemd/sd-event.h": ("hostd/loop*", "hostd/bus*", "hostd/polkit*", "hostd/units*", "cli/*"),
    "systemd/sd-daemon.h": ("hostd/loop*", "hostd/main*", "hostd/fdstore*"),
    "systemd/sd-journal.h": ("hostd/log*", "hostd/audit*"),
    "xxhash.h": ("proto/digest*",),
    "guestfs.h": ("deploy/guestfs-library.h",),
    "glib*.h": ("hostd/*", "deploy/guest-agent.c"),
    "gio/*": (),
    "json.h": (),
}

# What a layer without I/O has no use for; src/proto/ never reads, writes, sleeps, logs, asks the time or exits.
PROTO_NEVER = ("unistd.h", "fcntl.h", "poll.h", "sys/socket.h", "sys/stat.h", "syslog.h", "pthread.h", "time.h", "signal.h",
               "sys/wait.h", "sys/mman.h", "sys/ioctl.h", "stdio.h")
STDIO_ALLOWED = {"vsnprintf", "snprintf", "asprintf", "vasprintf"}


# A pure rule of another layer, for the one who shows it to people.
EXCEPTIONS = {("src/cli/actions.c", "hostd/action.h")}


def layer_problems(path, line, included):
    layer, target = path.split("/")[1], included.split("/")[0]
    if (path, included) in EXCEPTIONS:
        return []
    if not source.exists("src/" + included):
        return [f'{path}:{line}: "{included}" is not a header below src/']
    if target != layer and target not in LAYERS.get(layer, ()):
        return [f"{path}:{line}: {layer} may not include {target} (ARCHITECTURE.md)"]
    return []


def customs_problems(path, line, included):
    for header, posts in CUSTOMS.items():
        if fnmatch.fnmatch(included, header):
            if not any(fnmatch.fnmatch(path, "src/" + post) for post in posts):
                return [f"{path}:{line}: <{included}> belongs to {', '.join(posts) or 'nobody'}"]
    if path.startswith("src/proto/") and included in PROTO_NEVER:
        text = source.without_comments(source.read(path))
        used = set(re.findall(r"\b\w*printf\b", text))
        if included != "stdio.h" or used - STDIO_ALLOWED:
            return [f"{path}:{line}: the protocol has no hands: <{included}>"]
    return []


def main():
    problems = []
    paths = source.files("src", (".c", ".h"))
    for path in paths:
        layer = path.split("/")[1]
        if layer not in LAYERS:
            problems.append(f"{path}: {layer} is no layer of ARCHITECTURE.md")
        for line, text in enumerate(source.read(path).split("\n"), 1):
            match = re.match(r'\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', text)
            if match and match[1]:
                problems += layer_problems(path, line, match[1])
            elif match:
                problems += customs_problems(path, line, match[2])
    source.report(problems)


main()
