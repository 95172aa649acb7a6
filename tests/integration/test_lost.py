# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that is lost when something was accepted and has hardly begun: a transfer waits and goes on by itself, and a command whose
caller was told that it failed does not run on."""

import os
import shlex
import stat

import pytest
import records as r
from conftest import Host
from guestpeer import GuestPeer

from lab.bus import BusError
from lab.need import built, eventually

NAME = "lost"


class Lost:
    """A guest that comes and goes. Its pulls are of a file that says hello."""

    def __init__(self, host):
        self.host, self.client = host, host.client

    @property
    def peer(self):
        return self.host.peers[NAME]

    def leaves(self):
        self.peer.close()
        eventually(lambda: self.client.state(NAME) != "ready", 20, "the guest's end")

    def comes(self, **opens):
        peer = self.host.peers[NAME] = GuestPeer(self.host.socket(NAME, "ctl"), self.host.socket(NAME, "data"), NAME)
        peer.opens.update({"pull": self._hello, **opens})
        self.client.wait_ready(NAME, 20)

    @staticmethod
    def _hello(port, s):
        port.opened(s, {"name": "hello", "bytes": 5})
        port.send_data(s, r.totals(5, 1) + r.file(b"hello") + r.end())
        port.end_stream(s)

    def states(self, jobs):
        return [self.client.job_properties(path)["State"] for _, path in jobs]


@pytest.fixture(scope="module")
def host():
    host = Host(peers=(NAME,), config="MaxTransfersPerGuest=2\n")
    yield host
    host.end()


@pytest.fixture
def lost(host):
    lost = Lost(host)
    lost.leaves()
    lost.comes()
    return lost


@pytest.fixture
def place(host, request):
    return host.directory(request.node.name)


@pytest.fixture
def held_worker(host, place):
    """A file: as long as it is there, hostd's workers do not begin."""
    wrapper, held = os.path.join(place, "worker"), os.path.join(place, "held")
    worker = host.hostd.env["VMFERRY_WORKER"]
    with open(wrapper, "w") as file:
        file.write(f"#!/bin/sh\nwhile [ -e {shlex.quote(held)} ]; do sleep 0.05; done\nexec {shlex.quote(worker)} \"$@\"\n")
    os.chmod(wrapper, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    host.hostd.env["VMFERRY_WORKER"] = wrapper
    host.hostd.stop()
    host.hostd.start()
    host.client.wait_ready(NAME, 20)
    open(held, "w").close()
    yield held
    if os.path.exists(held):
        os.unlink(held)
    host.hostd.env["VMFERRY_WORKER"] = worker
    host.hostd.stop()
    host.hostd.start()


def test_queued(lost, place):
    """Two have their turn when the guest is lost, and leave it to those behind them, which have not begun: all wait, and end well."""
    lost.peer.serve["data.open"] = lambda *_: None
    jobs = [lost.client.pull(NAME, "/hello", f"{place}/{i}") for i in range(6)]
    once = lost.client.pull(NAME, "/hello", f"{place}/once", resume=False)
    eventually(lambda: lost.states(jobs) == ["running"] * 2 + ["queued"] * 4, 10, "two turns")
    lost.leaves()
    assert lost.client.failed(once, 10) == "NotReady", "who wants one attempt has had it"
    eventually(lambda: lost.states(jobs) == ["waiting"] * 6, 10, "six that wait")
    with pytest.raises(BusError) as e:
        lost.client.pull(NAME, "/hello", f"{place}/late")
    assert e.value.name == "NotReady"
    lost.comes()
    for i, job in enumerate(jobs):
        lost.client.done(job, 20)
        assert open(f"{place}/{i}").read() == "hello"


def test_looking(lost, place, held_worker):
    """The guest is lost while the source is being looked at, before anything was asked of it."""
    pushed = []

    def push(port, s):
        pushed.append(s.params)
        port.reset(s, "NoSpace")

    with open(f"{place}/file", "w") as file:
        file.write("hello")
    job = lost.client.push(NAME, f"{place}/file", "/tmp/file")
    once = lost.client.push(NAME, f"{place}/file", "/tmp/once", resume=False)
    eventually(lambda: lost.states([job, once]) == ["running"] * 2, 10, "their turn")
    lost.leaves()
    os.unlink(held_worker)
    assert lost.client.failed(once, 20) == "Interrupted"
    eventually(lambda: lost.states([job]) == ["waiting"], 20, "one that waits")
    lost.comes(push=push)
    assert lost.client.failed(job, 20) == "NoSpace"
    assert [(p["path"], p["resume"]) for p in pushed] == [("/tmp/file", False)], "there was nothing to resume"
