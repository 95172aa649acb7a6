# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real vmferry-hostd between two worlds that a test owns: a private bus, and guests of libvirt's test driver whose channels
are sockets of ours, with a peer in Python behind them."""

import os
import sys
import time
import uuid

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "vm"), os.path.join(HERE, "..", "peer")]

from guestpeer import GuestPeer  # noqa: E402
from lab.bus import BusDaemon, BusError, Client  # noqa: E402
from lab.host import Hostd  # noqa: E402
from lab.need import built, eventually  # noqa: E402
from lab.place import Place  # noqa: E402

CHANNEL = "<channel type='unix'><source mode='bind' path='{path}'/><target type='virtio' name='{name}'/></channel>"
DOMAIN = """<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{state}
<name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<devices>{devices}</devices></domain>
"""
NODE = """<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{domains}
<cpu><mhz>1000</mhz><model>x</model><active>1</active><nodes>1</nodes><sockets>1</sockets><cores>1</cores><threads>1</threads>
</cpu><memory>1000000</memory></node>
"""


class Host:
    """hostd, and its guests by name: those of `peers` have somebody behind their channels. journal: what it says there is kept."""

    def __init__(self, peers=("good", "liar"), domains=None, config="", journal=False):
        self.place = Place()
        self.peers, self.hostd, self.client = {}, None, None
        try:
            self.bus = BusDaemon(self.place)
            self.client = Client(self.bus.address)
            self.place.directory("ch")
            texts = [self.domain(name, self.channels(name)) for name in peers]
            texts += [self.domain(name, devices) for name, devices in (domains or {}).items()]
            with open(self.place.file("node.xml"), "w") as file:
                file.write(NODE.format(domains="".join(texts)))
            for name in peers:
                self.peers[name] = GuestPeer(self.socket(name, "ctl"), self.socket(name, "data"), name)
            self.hostd = Hostd(self.place, self.bus.address, "test://" + self.place.file("node.xml"), config)
            if journal:
                env = self.hostd.env
                env.update(LD_PRELOAD=built("tests/integration/journal.so"), TEST_JOURNAL=self.place.file("journal"),
                           ASAN_OPTIONS=env["ASAN_OPTIONS"] + ":verify_asan_link_order=0")
            self.hostd.start()
            for name in peers:
                self.client.wait_ready(name, 20)
        except BaseException:
            self.end()
            raise

    def socket(self, name, port):
        return self.place.file("ch", f"{name}.{port}")

    def channels(self, name):
        return "".join(CHANNEL.format(path=self.socket(name, port), name=f"org.vmferry.{port}.0") for port in ("ctl", "data"))

    def domain(self, name, devices):
        """devices may be a pair: and what else the test driver is told of it."""
        devices, state = devices if isinstance(devices, tuple) else (devices, "")
        return DOMAIN.format(name=name, uuid=uuid.uuid5(uuid.NAMESPACE_DNS, name), devices=devices, state=state)

    def log(self):
        return self.place.log("hostd").splitlines()

    def journal(self):
        """All entries so far, as dictionaries; only with `journal`."""
        try:
            with open(self.place.file("journal"), errors="replace") as file:
                texts = file.read().split("\n\n")
        except FileNotFoundError:
            return []
        return [dict(line.split("=", 1) for line in text.split("\n") if "=" in line) for text in texts if text]

    def directory(self, name):
        path = self.place.directory("files")
        path = os.path.join(path, name)
        os.makedirs(path)
        return path

    def rss_kib(self, pid=None):
        return rss_kib(pid or self.hostd.process.pid)

    def workers(self):
        """The processes that hostd has started."""
        pid = self.hostd.process.pid
        found = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    found += [int(p) for p in file.read().split()]
            except OSError:
                pass
        return found

    def wait_well(self, name="liar", within=2.0):
        """Ready, and it answers, within so many seconds from now."""
        start = time.monotonic()
        deadline = start + within
        while True:
            try:
                if self.client.state(name) == "ready":
                    self.client.ping(name, timeout=within)
                    break
            except BusError:
                pass
            assert time.monotonic() < deadline, f"{name} is {self.client.state(name)} after {within} s"
            time.sleep(0.02)
        return time.monotonic() - start

    def end(self):
        crashed = None
        if self.hostd and self.hostd.process:
            status = self.hostd.stop() if self.hostd.process.poll() is None else self.hostd.process.returncode
            if status != 0:
                crashed = f"hostd ended with {status}:\n{self.place.log('hostd')[-4000:]}"
        for peer in self.peers.values():
            peer.close()
        if self.client:
            self.client.close()
        reports = self.place.sanitizer_reports()
        self.place.remove()
        assert not reports, reports
        assert not crashed, crashed


def rss_kib(pid):
    """What it has had at most; 0: it is gone, or has a sanitizer, which keeps what was freed."""
    try:
        with open(f"/proc/{pid}/maps") as file:
            if "libasan" in file.read():
                return 0
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


@pytest.fixture(scope="module")
def host():
    host = Host()
    yield host
    host.end()


@pytest.fixture
def client(host):
    return host.client


@pytest.fixture
def liar(host):
    """The guest that lies; honest again afterwards."""
    peer = host.peers["liar"]
    hello, body = dict(peer.hello), peer.hello_body
    yield peer
    peer.hello, peer.hello_body = hello, body
    peer.serve.clear()
    peer.opens.clear()
    for port in peer.control, peer.data:
        port.is_deaf = port.is_mute = False
    if peer.control.conn:
        peer.control.hello_req()
    eventually(lambda: host.client.state("liar") == "ready", 20, "the liar's recovery")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the daemons said."""
    report = (yield).get_result()
    host = item.funcargs.get("host")
    if report.failed and isinstance(host, Host):
        report.sections.append(("hostd", host.place.log("hostd")[-6000:]))
