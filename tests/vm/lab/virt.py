# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirtd of our own, in session mode with private directories, and domains on it."""

import os
import re
import signal
import subprocess
import time
import uuid
from xml.sax.saxutils import escape, quoteattr

from . import harvest
from .need import SOURCE, eventually, guestd_program, need, tool

CONTROL = "org.vmferry.ctl.0"
DATA = "org.vmferry.data.0"


class Image:
    """A kernel and an initramfs; see tests/vm/guest-image."""

    def __init__(self, place, name="guest", guestd=True, files=(), modules=(), root=None):
        need(os.path.exists("/bin/busybox") or None, "busybox-static")
        for name_of_tool in "cpio", "dpkg", "apt-get", "flock":
            tool(name_of_tool)
        script = os.path.join(SOURCE, "tests/vm/guest-image")
        kernel = subprocess.run([script, "kernel"], capture_output=True, text=True)
        need(kernel.returncode == 0, f"a kernel for guests ({kernel.stderr.strip()})")
        self.kernel = place.file("vmlinuz")
        self.initramfs = place.file(name + ".img")
        if not os.path.exists(self.kernel):
            # The cache may be where QEMU's user cannot read.
            subprocess.run(["cp", kernel.stdout.strip(), self.kernel], check=True)
        argv = [script, "build", "-o", self.initramfs, "-r", root or os.path.join(SOURCE, "tests/vm/guest-root")]
        if guestd:
            argv += ["-g", guestd_program() if guestd is True else guestd]
        for file in [*files, *harvest.guest_files(place)]:
            argv += ["-f", ":".join(file)]
        for module in modules:
            argv += ["-m", module]
        subprocess.run(argv, check=True)
        os.chmod(self.kernel, 0o644)
        os.chmod(self.initramfs, 0o644)


class Libvirtd:
    def __init__(self, place, name="lv"):
        """name: of its directory. Each has a host UUID of its own, so that a domain can go from one to the other."""
        self.place = place
        self.program = tool("libvirtd")
        self.virsh_program = tool("virsh")
        tool("qemu-system-x86_64")
        self.home = place.directory(name, mode=0o755, owned=True)
        for part in "run", "cfg", "cfg/libvirt", "cache":
            place.directory(name, part, mode=0o700 if part == "run" else 0o755, owned=True)
        with open(os.path.join(self.home, "cfg/libvirt/libvirtd.conf"), "w") as file:
            file.write(f'host_uuid = "{uuid.uuid4()}"\n')
        self.socket = os.path.join(self.home, "run/libvirt/libvirt-sock")
        self.uri = f"qemu:///session?socket={self.socket}"
        self.env = place.environment(self.home)
        self.process = None
        self.start()

    def start(self):
        self.process = self.place.start("libvirtd", [self.program], as_owner=True, env=self.env, cwd=self.home)
        eventually(lambda: self.answers() or self._ended(), 30, "libvirtd", every=0.1)

    def _ended(self):
        assert self.process.poll() is None, f"libvirtd ended: {self.place.log('libvirtd')}"

    def answers(self):
        return os.path.exists(self.socket) and self.virsh("list", check=False).returncode == 0

    def stop(self):
        self.place.stop(self.process)

    def restart(self):
        self.stop()
        self.start()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def virsh(self, *args, check=True, timeout=60):
        r = subprocess.run([self.virsh_program, "-q", "-c", self.uri, *args], capture_output=True, text=True, timeout=timeout,
                           env=self.env)
        assert not check or r.returncode == 0, f"virsh {' '.join(args)}: {r.stderr.strip()}"
        return r

    def end(self):
        """Ends the domains and the daemons."""
        self.thaw()
        if self.process.poll() is None:
            for name in self.virsh("list", "--name", check=False).stdout.split():
                harvest.from_guest(self.virsh, name)
                self.virsh("destroy", name, check=False)
        self.stop()
        self.place.end_pidfile(os.path.join(self.home, "run/libvirt/virtlogd.pid"))


def domain_xml(name, uuid, kernel, initramfs, console, memory=512, channels=((CONTROL, None), (DATA, None)), disks=(),
               cmdline="", controller=True, vcpus=1, allocated=False):
    """A domain under emulation. /dev/kvm may open and still boot nothing, so it is never used."""
    devices = ""
    if controller:
        devices += "<controller type='virtio-serial' index='0'/>"
    for channel, path in channels:
        source = f"<source mode='bind' path={quoteattr(path)}/>" if path else ""
        devices += f"<channel type='unix'>{source}<target type='virtio' name={quoteattr(channel)}/></channel>"
    for i, disk in enumerate(disks):
        kind = "qcow2" if disk.endswith(".qcow2") else "raw"
        devices += (f"<disk type='file' device='disk'><driver name='qemu' type='{kind}' cache='unsafe'/>"
                    f"<source file={quoteattr(disk)}/><target dev='vd{chr(97 + i)}' bus='virtio'/></disk>")
    backing = "<memoryBacking><allocation mode='immediate'/></memoryBacking>" if allocated else ""
    # append: the boots of one domain, one after the other, write one file.
    return f"""<domain type='qemu'>
<name>{escape(name)}</name><uuid>{uuid}</uuid>
<memory unit='MiB'>{memory}</memory>{backing}<vcpu>{vcpus}</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initramfs}</initrd>
<cmdline>console=ttyS0 quiet panic=1 {escape(cmdline)}</cmdline></os>
<features><acpi/></features><cpu mode='maximum'/>
<devices>{devices}
<serial type='file'><source path={quoteattr(console)} append='on'/></serial>
<memballoon model='none'/></devices></domain>"""


class Domain:
    """A domain of libvirt. channels: (name, path) pairs; a path of None is libvirt's business. allocated: all its memory is
    there from the start; else the first touch of each page is the host's work, in the middle of whatever is measured."""

    def __init__(self, libvirtd, place, name, image, memory=512, channels=((CONTROL, None), (DATA, None)), disks=(),
                 cmdline="", controller=True, vcpus=1, allocated=False, start=True):
        self.libvirtd = libvirtd
        self.place = place
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.image = image
        self.console_path = place.file(f"console-{len(os.listdir(place.path))}")
        with open(self.console_path, "w"):
            pass
        os.chmod(self.console_path, 0o666)
        xml = place.file("domain.xml")
        with open(xml, "w") as file:
            file.write(domain_xml(name, self.uuid, image.kernel, image.initramfs, self.console_path, memory=memory,
                                  channels=channels, disks=disks, cmdline=cmdline, controller=controller, vcpus=vcpus,
                                  allocated=allocated))
        libvirtd.virsh("define", xml)
        if start:
            self.start()

    def virsh(self, verb, *args, **kw):
        return self.libvirtd.virsh(verb, self.uuid, *args, **kw)

    def start(self):
        self.virsh("start")

    def destroy(self):
        harvest.from_guest(self.libvirtd.virsh, self.name)
        self.virsh("destroy")

    def reset(self):
        self.virsh("reset")

    def suspend(self):
        self.virsh("suspend")

    def resume(self):
        self.virsh("resume")

    def undefine(self):
        harvest.from_guest(self.libvirtd.virsh, self.name)
        self.virsh("destroy", check=False)
        self.virsh("undefine", check=False)

    def live_xml(self):
        return self.virsh("dumpxml").stdout

    def channel_path(self, name=CONTROL):
        """The socket of a channel as the live XML has it."""
        match = re.search(rf"path='([^']*)'/>\s*<target type='virtio' name='{re.escape(name)}'", self.live_xml())
        return match and match[1]

    def console(self):
        try:
            with open(self.console_path, errors="replace") as file:
                return file.read()
        except FileNotFoundError:  # the lab has gone
            return ""

    def said(self, line):
        """How often the console had this line; the log of a command that has it among its words is another one."""
        return len(re.findall(rf"^{re.escape(line)}\r*$", self.console(), re.M))

    def guestd_starts(self):
        return self.console().count("lab: guestd starts")

    def wait_guestd(self, starts, timeout=120):
        """Until guestd was started more than `starts` times in all; returns when that was seen."""
        eventually(lambda: self.guestd_starts() > starts, timeout, f"guestd's start in {self.name}: {self.console()[-500:]}",
                   every=0.02)
        return time.monotonic()

    def qemu_pid(self):
        with open(os.path.join(self.libvirtd.home, "run/libvirt/qemu/run", self.name + ".pid")) as file:
            return int(file.read())
