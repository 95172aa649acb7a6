# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disk images with partitions, and trees that look like systems."""

import os
import shutil
import subprocess

from .need import tool

PARTITION_AT = 1 << 20

OS_RELEASE = 'NAME="Lab"\nPRETTY_NAME="Lab with %s"\nID=lab\n'
SYSINIT = """::sysinit:/bin/busybox mount -t devtmpfs devtmpfs /dev
::sysinit:/bin/busybox mount -t proc proc /proc
::sysinit:/bin/busybox mount -t sysfs sysfs /sys
::sysinit:/bin/busybox mount -t tmpfs tmpfs /run
::sysinit:/bin/busybox mount -t tmpfs tmpfs /tmp
"""

DEBIAN_INITTAB = """# /etc/inittab: init(8) configuration.
id:2:initdefault:
si::sysinit:/etc/init.d/rcS
~~:S:wait:/sbin/sulogin --force
l2:2:wait:/etc/init.d/rc 2
ca:12345:ctrlaltdel:/sbin/shutdown -t1 -a -r now
1:2345:respawn:/sbin/getty --noclear 38400 tty1
"""

# init → what tells it: files, where a value of None is a directory.
SYSTEMS = {
    "systemd": {"usr/lib/systemd/systemd": "", "usr/lib/udev/rules.d": None, "etc/systemd/system": None},
    "openrc": {"sbin/openrc-run": "", "etc/init.d": None, "etc/runlevels/default": None, "etc/inittab": "::sysinit:/x\n"},
    # As on Debian with sysvinit-core, where systemd's package may be there as well.
    "sysv": {"etc/init.d": None, "etc/inittab": DEBIAN_INITTAB, "etc/rc2.d": None, "etc/rc3.d": None, "sbin/init": "",
             "usr/lib/systemd/systemd": ""},
    "busybox": {"etc/inittab": SYSINIT},
    "none": {},
}


def partitioned(path, file_system):
    """A disk with one partition, as qcow2."""
    raw = path + ".raw"
    with open(raw, "wb") as file:
        file.truncate(os.path.getsize(file_system) + 2 * PARTITION_AT)
    subprocess.run([tool("sfdisk"), "-q", raw], input=f"label: gpt\nstart={PARTITION_AT // 512}, size={os.path.getsize(file_system) // 512}\n",
                   text=True, check=True)
    subprocess.run(["dd", f"if={file_system}", f"of={raw}", "bs=1M", f"seek={PARTITION_AT >> 20}", "conv=notrunc,sparse",
                    "status=none"], check=True)
    subprocess.run([tool("qemu-img"), "convert", "-O", "qcow2", raw, path], check=True)
    os.unlink(raw)
    os.chmod(path, 0o666)
    return path


def write(path, content):
    if content is None:
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    os.chmod(path, 0o755)


def system_tree(path, init, **more):
    """A tree that has what is looked for in a system with that init, and a shell of this machine's architecture. more: files by
    name, with __ for a slash."""
    with open("/bin/busybox", "rb") as file:
        head = file.read(64)
    files = {"etc/os-release": OS_RELEASE % init, "bin/sh": head, "usr/sbin": None, "tmp": None, **SYSTEMS[init]}
    for name, content in {**files, **{name.replace("__", "/"): content for name, content in more.items()}}.items():
        write(os.path.join(path, name), content)
    return path


def busybox_tree(path):
    """One that boots."""
    system_tree(path, "busybox", dev=None, proc=None, sys=None, run=None, var__lib=None, sbin=None, root=None)
    os.unlink(os.path.join(path, "bin/sh"))
    shutil.copy("/bin/busybox", os.path.join(path, "bin/busybox"))
    for link, to in ("bin/sh", "busybox"), ("sbin/init", "../bin/busybox"):
        os.symlink(to, os.path.join(path, link))
    return path
