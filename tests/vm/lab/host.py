# SPDX-License-Identifier: LGPL-2.1-or-later
"""hostd on a private bus, the command that talks to it, and the whole of a lab."""

import os
import subprocess

from .bus import NAME, BusDaemon, BusError, Client
from .need import build_dir, built, eventually, tool
from .place import Place
from .virt import Domain, Image, Libvirtd

EXT4 = ("crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4", "virtio_blk")


class Hostd:
    def __init__(self, place, address, uri, config="", name="hostd"):
        self.place = place
        self.name = name
        self.program = built("src/hostd/vmferry-hostd")
        self.home = place.directory(name)
        for part in "run", "cfg/vmferry", "state":
            place.directory(name, part, mode=0o700)
        self.address = address
        self.env = place.environment(self.home, DBUS_SESSION_BUS_ADDRESS=address,
                                     VMFERRY_WORKER=os.path.join(build_dir(), "src/worker/vmferry-worker"))
        self.configure(f"ConnectUri={uri}\n{config}")
        self.process = None

    def configure(self, text):
        with open(os.path.join(self.home, "cfg/vmferry/hostd.conf"), "w") as file:
            file.write("[Host]\n" + text)

    def start(self):
        self.process = self.place.start(self.name, [self.program, "--user"], env=self.env, cwd=self.home)
        client = Client(self.address)
        eventually(lambda: self._owned(client), 20, "hostd on the bus")
        client.close()

    def _owned(self, client):
        assert self.process.poll() is None, f"hostd ended: {self.place.log(self.name)[-2000:]}"
        return client.call("/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "(s)", NAME,
                           destination="org.freedesktop.DBus")

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        return self.place.stop(self.process)

    def restart(self):
        self.kill()
        self.start()

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    def children(self):
        found = []
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                with open(f"/proc/{self.process.pid}/task/{thread}/children") as file:
                    found += [int(p) for p in file.read().split()]
            except FileNotFoundError:
                pass
        return found

    def is_sanitized(self):
        """Then what was freed is kept, and sizes say nothing."""
        with open(f"/proc/{self.process.pid}/maps") as file:
            return "libasan" in file.read()

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


class Lab:
    """bus and client are there from the start, hostd and domains when asked for."""

    def __init__(self):
        self.place = Place()
        try:
            self.bus = BusDaemon(self.place)
            self.client = Client(self.bus.address)
            self.libvirtd = Libvirtd(self.place)
        except BaseException:
            self.place.remove()
            raise
        self.hostd = None
        self.images = {}

    def start_hostd(self, config=""):
        self.hostd = Hostd(self.place, self.bus.address, self.libvirtd.uri, config)
        self.hostd.start()
        return self.hostd

    def image(self, name="guest", **kw):
        if name not in self.images:
            self.images[name] = Image(self.place, name, **kw)
        return self.images[name]

    def domain(self, name, image=None, **kw):
        return Domain(self.libvirtd, self.place, name, image or self.image(), **kw)

    def domain_with_disk(self, name, gib=4, memory=768):
        """One with a disk at /mnt/vda, which survives its resets and has extended attributes; ready."""
        disk = self.place.file("disk-" + name)
        with open(disk, "wb") as file:
            file.truncate(gib << 30)
        subprocess.run([tool("mkfs.ext4"), "-q", "-E", "root_owner=0:0,lazy_itable_init=1", disk], check=True)
        os.chmod(disk, 0o666)
        domain = self.domain(name, self.image("disk-guest", modules=EXT4), disks=[disk], memory=memory)
        self.client.wait_ready(name, 90)
        assert self.client.run(name, "grep", "-q", "/mnt/vda", "/proc/mounts")[0] == 0
        return domain

    def vmferry(self, *args, check=False, timeout=120, input=None, text=True):
        """The command, as somebody types it."""
        r = subprocess.run([built("src/cli/vmferry"), "--user", *args], capture_output=True, text=text, timeout=timeout,
                           input=input, env=self.hostd.env)
        assert not check or r.returncode == 0, f"vmferry {' '.join(args)}: {r.stderr}"
        return r

    def scratch(self, name):
        return self.place.file(self.place.directory("scratch"), name)

    def guests(self):
        """name → state."""
        return {name: state for name, _, state, _ in self.client.manager("ListGuests")}

    def wait_state(self, name, state, timeout=30):
        def reached():
            try:
                return self.client.state(name) == state
            except BusError:
                return False
        eventually(reached, timeout, f"{name} {state}")

    def end(self):
        """Ends everything; what the sanitizers said fails the test that ran last."""
        crashed = None
        if self.hostd:
            status = self.hostd.stop() if self.hostd.process.poll() is None else self.hostd.process.returncode
            if status != 0:
                crashed = f"hostd ended with {status}:\n{self.place.log('hostd')[-4000:]}"
        self.client.close()
        self.libvirtd.end()
        reports = self.place.sanitizer_reports()
        self.place.remove()
        assert not reports, reports
        assert not crashed, crashed
