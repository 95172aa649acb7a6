# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a coverage build's daemons have counted where the host's file system is not: in guests, and in the container.

With VMFERRY_COVERAGE=DIR a guest's init ends guestd on Ctrl-Alt-Del, and says the counts on the console; they are unpacked into
a directory below DIR. Not set: nothing happens, and guests are as always.
"""

import base64
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile

from .need import build_dir, eventually

BEGIN, END = "lab: harvest begins", "lab: harvest ends"
INITTAB = "::sysinit:/init sysinit\n::respawn:/sbin/lab-supervise\n::ctrlaltdel:/sbin/lab-harvest\n"
SCRIPT = f"""#!/bin/busybox sh
touch /run/lab-hold
for pid in $(pidof vmferry-guestd); do kill -TERM $pid; done
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        pidof vmferry-guestd >/dev/null || break
        sleep 0.2
done
for pid in $(pidof vmferry-guestd); do kill -TERM $pid; done
sleep 0.3
echo "{BEGIN}"
tar -c -C / $(cat /lib/lab/coverage) | gzip | base64
echo "{END}"
"""


def directory():
    return os.environ.get("VMFERRY_COVERAGE")


def guest_files(place):
    """For Image: what the guest has besides."""
    if not directory():
        return []
    files = []
    for name, text, destination in (("inittab", INITTAB, "/etc/inittab"), ("harvest", SCRIPT, "/sbin/lab-harvest"),
                                    ("coverage", build_dir()[1:], "/lib/lab/coverage")):
        path = place.file("harvest-" + name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)
        files.append((path, destination))
    return files


def from_guest(virsh, name):
    """A guest that runs, before it is destroyed. One that does not answer is left alone."""
    if not directory():
        return
    match = re.search(r"<serial type='file'>\s*<source path='([^']*)'", virsh("dumpxml", name, check=False).stdout)
    if not match:
        return

    def said():
        with open(match[1], errors="replace") as file:
            return file.read()
    n_before = said().count(END)
    if virsh("send-key", name, "KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE", check=False).returncode != 0:
        return
    try:
        eventually(lambda: said().count(END) > n_before, 20, every=0.2)
    except AssertionError:
        return
    text = re.sub(r"[^A-Za-z0-9+/=]", "", said().rsplit(BEGIN, 1)[1].split(END)[0])
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:gz") as archive:
            archive.extractall(tempfile.mkdtemp(prefix="guest-", dir=directory()))
    except (tarfile.TarError, ValueError, OSError, EOFError):
        pass  # the kernel had something to say in between


CONTAINER_PREFIX = "/var/lib/vmferry-coverage"
DROP_IN = f"[Service]\nEnvironment=GCOV_PREFIX={CONTAINER_PREFIX}\nReadWritePaths={CONTAINER_PREFIX}\n"


def prepare_container(container):
    if directory():
        container.write("/etc/systemd/system/vmferry-hostd.service.d/coverage.conf", DROP_IN)
        os.makedirs(container.root + CONTAINER_PREFIX)


def from_container(container):
    if directory():
        container.run("systemctl", "stop", "vmferry-hostd", check=False)
        shutil.copytree(container.root + CONTAINER_PREFIX, tempfile.mkdtemp(prefix="host-", dir=directory()), dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "u+rwX", directory()], check=False)
