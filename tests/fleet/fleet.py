# SPDX-License-Identifier: LGPL-2.1-or-later
"""hostd on a private bus with as many guests as one likes: domains of libvirt's test driver, and one process that serves the
guest's side of all their channels with real sessions (fleet.c)."""

import os
import resource
import signal
import subprocess
import sys
import uuid

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "vm"))

from lab.bus import BusDaemon, Client, GLib, NAME, PATH  # noqa: E402
from lab.host import Hostd  # noqa: E402
from lab.need import built, eventually  # noqa: E402
from lab.place import Place  # noqa: E402

CHANNEL = "<channel type='unix'><source mode='bind' path='{path}'/><target type='virtio' name='org.vmferry.{port}.0'/></channel>"
DOMAIN = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<devices>{devices}</devices></domain>
"""
NODE = """<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{domains}
<cpu><mhz>1000</mhz><model>x</model><active>1</active><nodes>1</nodes><sockets>1</sockets><cores>1</cores><threads>1</threads>
</cpu><memory>100000000</memory></node>
"""


def descriptors():
    """As many as there may be, for our children too; the unit says so by LimitNOFILE=."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Fleet:
    def __init__(self, n, config="", **manners):
        self.n = n
        self.place = Place()
        self.hostd = self.client = None
        self.simulators = []
        try:
            self.directory = self.place.directory("ch")
            self.bus = BusDaemon(self.place)
            self.client = Client(self.bus.address, signals=False)
            with open(self.place.file("node.xml"), "w") as file:
                file.write(NODE.format(domains="".join(self.domain(f"g{i}") for i in range(n))))
            self.start_guests(**manners)
            self.hostd = Hostd(self.place, self.bus.address, "test://" + self.place.file("node.xml"), config)
        except BaseException:
            self.end()
            raise

    def domain(self, name):
        devices = "".join(CHANNEL.format(path=os.path.join(self.directory, f"{name}.{port}"), port=port) for port in ("ctl", "data"))
        return DOMAIN.format(name=name, uuid=self.uuid(name), devices=devices)

    def uuid(self, name):
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))

    def path(self, name):
        """As sd_bus_path_encode() has it."""
        text = self.uuid(name)
        return PATH + "/guest/" + "".join(c if c.isalpha() or c.isdigit() and i else f"_{ord(c):02x}" for i, c in enumerate(text))

    def start_guests(self, **manners):
        """manners: fleet's options, with numbers."""
        share = descriptors() // 4 - 100  # of one process: two listening sockets each, and their clients
        for first in range(0, self.n, share):
            argv = [built("tests/fleet/fleet"), "--first", str(first), "--guests", str(min(share, self.n - first)),
                    "--dir", self.directory]
            for key, value in manners.items():
                argv += [f"--{key}", str(value)]
            self.simulators.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            self.place.processes.append(self.simulators[-1])
        for simulator in self.simulators:
            assert simulator.stdout.readline() == "ready\n"

    def lose_all(self):
        for simulator in self.simulators:
            simulator.send_signal(signal.SIGUSR1)

    def n_ready(self):
        return self.client.call(PATH, "org.freedesktop.DBus.Properties", "Get", "(ss)", NAME + ".Manager", "ReadyCount", timeout=300)

    def wait_all(self, timeout=60, n=None):
        eventually(lambda: self.n_ready() == (n or self.n), timeout, "all guests ready", every=0.02)

    def calls(self, requests, timeout=60):
        """Many method calls at once: (path, interface, method, signature, arguments) each. What each came to, in their order:
        a tuple, or the GLib.Error."""
        results, context = [None] * len(requests), GLib.MainContext.default()
        left = len(requests)

        def on_reply(connection, result, i):
            nonlocal left
            left -= 1
            try:
                results[i] = connection.call_finish(result).unpack()
            except GLib.Error as error:
                results[i] = error

        for i, (path, interface, method, signature, arguments) in enumerate(requests):
            self.client.connection.call(NAME, path, interface, method, GLib.Variant(signature, arguments), None, 0, timeout * 1000,
                                        None, on_reply, i)
        while left:
            context.iteration(True)
        return results

    def end(self):
        status = None
        if self.hostd and self.hostd.process:
            status = self.hostd.stop() if self.hostd.process.poll() is None else self.hostd.process.returncode
        log = self.place.log("hostd")
        if self.client:
            self.client.close()
        reports = self.place.sanitizer_reports()
        self.place.remove()
        assert not reports, reports
        assert not status, f"hostd ended with {status}:\n{log[-4000:]}"
