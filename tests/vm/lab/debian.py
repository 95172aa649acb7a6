# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian 12 as an administrator would have it: a minimal root with systemd and the QEMU guest agent, made once by debootstrap
and kept beside the kernel, and disks and machines of it. Making it needs root, and a minute."""

import fcntl
import os
import subprocess

from .need import need, tool
from .virt import CONTROL, DATA, Domain, Image

SUITE = "bookworm"
# kmod to libxml2: as a host of images, for vmferry deploy --backend=nbd, which vmferry-deploy with its libraries runs.
PACKAGES = ("systemd,systemd-sysv,dbus,udev,init-system-helpers,qemu-guest-agent,"
            "kmod,e2fsprogs,fdisk,lvm2,qemu-utils,libvirt0,libglib2.0-0,libjson-c5,libxml2")
AGENT = "org.qemu.guest_agent.0"
# From the initramfs, which has the drivers, to the disk that etc/lab-root names; the other drivers go with it.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "$module"; done < /lib/lab/modules
mkdir -p /mnt
for i in 1 2 3 4 5 6 7 8 9 10; do
        mount -t ext4 "/dev/$(cat /etc/lab-root)" /mnt && break
        sleep 0.2
done
mkdir -p /mnt/lib/modules
cp -r /lib/modules/* /mnt/lib/modules/
umount /proc /sys
exec switch_root /mnt /sbin/init
"""


def cache():
    path = os.environ.get("VMFERRY_TEST_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/root", ".cache"), "vmferry-tests")
    os.makedirs(path, exist_ok=True)
    return path


def root_archive():
    """The root as a tar file: unpack it with its owners, as root."""
    need(os.geteuid() == 0, "root (for debootstrap)")
    archive = os.path.join(cache(), f"debian-{SUITE}-2.tar")
    with open(archive + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(archive):
            work = archive + ".new.d"
            subprocess.run(["rm", "-rf", work], check=True)
            r = subprocess.run([tool("debootstrap"), "--variant=minbase", "--include=" + PACKAGES, SUITE, work],
                               capture_output=True, text=True)
            need(r.returncode == 0, f"a Debian root ({r.stdout[-500:]})")
            subprocess.run("rm -rf {0}/var/cache/apt/archives/*.deb {0}/var/lib/apt/lists/* {0}/etc/machine-id && "
                           "tar -C {0} --xattrs --numeric-owner -cf {1}.new . && mv {1}.new {1} && rm -rf {0}"
                           .format(work, archive), shell=True, check=True)
    return archive


def unpack(directory):
    os.makedirs(directory, exist_ok=True)
    subprocess.run(["tar", "-C", directory, "--xattrs", "--numeric-owner", "-xf", root_archive()], check=True)
    # An empty one is filled at the first boot; the password is for whoever looks into a failure.
    for path, text in (("etc/machine-id", ""), ("etc/hostname", "debian\n"), ("etc/fstab", "")):
        with open(os.path.join(directory, path), "w") as file:
            file.write(text)
    subprocess.run(["sed", "-i", "s,^root:[^:]*:,root::,", os.path.join(directory, "etc/shadow")], check=True)


def disk(place, name, change=None, mib=1024):
    """A disk with the root on it, without a partition table. change(DIRECTORY): what else the root is to have."""
    tool("mke2fs")
    tree, image = place.file(name + ".d"), place.file(name + ".raw")
    unpack(tree)
    if change:
        change(tree)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image, f"{mib}M"], check=True)
    subprocess.run(["rm", "-rf", tree], check=True)
    os.chown(image, place.uid, -1)
    return image


def starter(lab, device="vda"):
    """A kernel and an initramfs for the system on that disk."""
    name = "start-" + device
    root = lab.place.directory(name)
    for file, text in ("init", INIT), ("etc/lab-root", device):
        path = os.path.join(root, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o755)
    if name not in lab.images:
        lab.images[name] = Image(lab.place, name, guestd=False, root=root,
                                 modules=("virtio_blk", "crc32c_generic", "libcrc32c", "crc16", "mbcache", "jbd2", "ext4"))
    return lab.images[name]


def machine(lab, name, change=None, channels=((CONTROL, None), (DATA, None)), **kw):
    """A domain that boots such a disk."""
    return Domain(lab.libvirtd, lab.place, name, starter(lab), channels=channels, disks=[disk(lab.place, name, change)], **kw)
