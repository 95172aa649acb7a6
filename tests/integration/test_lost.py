# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that is lost when something was accepted and has hardly begun: a transfer waits and goes on by itself, and a command whose
caller was told that it failed does not run on."""

import os
import shlex
import stat
import threading
import time

import pytest
import records as r
from conftest import Host
from guestpeer import GuestPeer
from hostpeer import NOTIFY

from lab.bus import BusError
from lab.need import built, eventually

NAME = "lost"


class Lost:
    """A guest that comes and goes. Its pulls are of a file that says hello, and it says nothing to a command's start."""

    def __init__(self, host):
        self.host, self.client = host, host.client
        self.asked, self.answers = [], {"process.start": None}

    @property
    def peer(self):
        return self.host.peers[NAME]

    def leaves(self):
        self.peer.close()
        eventually(lambda: self.client.state(NAME) != "ready", 20, "the guest's end")

    def comes(self, **opens):
        peer = self.host.peers[NAME] = GuestPeer(self.host.socket(NAME, "ctl"), self.host.socket(NAME, "data"), NAME)
        peer.opens.update({"pull": self._hello, **opens})
        peer.serve.update({f"process.{what}": self._serve for what in ("start", "kill", "list", "forget")})
        self.client.wait_ready(NAME, 20)

    def _serve(self, port, ident, body, payload):
        self.asked.append(body)
        answer = self.answers.get(body["method"], {})
        if answer is not None:
            port.reply(ident, answer)

    @staticmethod
    def _hello(port, s):
        port.opened(s, {"name": "hello", "bytes": 5})
        port.send_data(s, r.totals(5, 1) + r.file(b"hello") + r.end())
        port.end_stream(s)

    def states(self, jobs):
        return [self.client.job_properties(path)["State"] for _, path in jobs]

    def told(self, method, n=1):
        """What it was asked by that method, when it was so often."""
        def of():
            return [body for body in list(self.asked) if body["method"] == method]
        eventually(lambda: len(of()) >= n, 10, f"{n} × {method}")
        return of()

    def breaks(self):
        """A new session, on the same connection."""
        n = self.peer.control.n_sessions
        self.peer.control.hello_req()
        eventually(lambda: self.peer.control.n_sessions > n and self.client.state(NAME) == "ready", 10, "a new session")

    def calls(self, **how):
        """Who waits for a command in a thread, and how that has ended: the answer, or the error's name."""
        ended = []

        def run():
            try:
                ended.append(self.client.run(NAME, "sleep", "1000", **how))
            except BusError as e:
                ended.append(e.name)

        caller = threading.Thread(target=run)
        caller.start()
        return caller, ended

    def begins(self, **how):
        """The id of a command whose start it does not confirm before the session breaks, and whose caller was told so."""
        before = len(self.asked)
        caller, ended = self.calls(wait=25, **how)
        eventually(lambda: len(self.asked) > before, 10, "a start")
        self.breaks()
        caller.join(30)
        assert ended == ["Interrupted"]
        assert self.asked[before]["method"] == "process.start"
        return self.asked[before]["id"]

    def exits(self, ident):
        self.peer.control.message(NOTIFY, 0, {"method": "process.exited", "id": ident, "exit_signal": 9})


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


def kill(ident):
    return {"method": "process.kill", "id": ident, "signal": 9, "tree": True}


@pytest.mark.parametrize("detach", [False, True])
def test_start_unanswered(lost, detach):
    """It was told that it failed, and must not run on: ended when the guest is back, and forgotten when it has ended."""
    ident = lost.begins(detach=detach)
    assert lost.told("process.kill") == [kill(ident)]
    assert lost.client.manager("ListJobs") == []
    time.sleep(0.3)
    assert lost.asked[-1]["method"] == "process.kill", "it has not ended yet"
    lost.exits(ident)
    assert lost.told("process.forget") == [{"method": "process.forget", "id": ident}]
    lost.breaks()
    time.sleep(0.3)
    assert len(lost.told("process.kill")) == len(lost.told("process.forget")) == 1, "once is enough"


def test_start_unanswered_twice(lost):
    """The guest is lost again before it has answered; then it was restarted, and knows nothing of it."""
    lost.answers["process.kill"] = None
    ident = lost.begins()
    lost.told("process.kill")
    lost.breaks()
    assert lost.told("process.kill", 2) == [kill(ident)] * 2
    lost.leaves()
    lost.answers["process.kill"] = {"error": "NotFound", "message": "no such process"}
    lost.comes()
    assert lost.told("process.kill", 3) == [kill(ident)] * 3
    lost.told("process.forget")
    lost.breaks()
    time.sleep(0.3)
    assert len(lost.told("process.kill")) == 3


def test_start_unanswered_never(lost):
    """It says yes to everything, and nothing of an end: it is asked a few times, then its word is taken for it."""
    ident = lost.begins()
    eventually(lambda: lost.asked[-1]["method"] == "process.forget", 40, "hostd gives up", 0.5)
    assert 1 < len(lost.told("process.kill")) < 5 and lost.asked[-1]["id"] == ident


def test_start_unanswered_restart(host, lost):
    """hostd ends meanwhile: a detached one is nobody else's to end."""
    lost.answers["process.kill"] = None
    ident = lost.begins(detach=True)
    lost.told("process.kill")
    lost.leaves()
    host.hostd.restart()
    assert lost.client.manager("ListJobs") == []
    lost.answers.clear()
    lost.comes()
    assert lost.told("process.kill", 2) == [kill(ident)] * 2
    lost.exits(ident)
    lost.told("process.forget")
    host.hostd.restart()
    lost.client.wait_ready(NAME, 20)
    time.sleep(0.3)
    assert len(lost.told("process.kill")) == 2
    assert lost.client.manager("ListJobs") == []


def job_of(lost):
    """The path of the one that is running."""
    def running():
        return [path for _, path, _, _, state in lost.client.manager("ListJobs") if state == "running"]
    (path,) = eventually(running, 10, "the job")
    return path


def runs(lost, answer=(), **how):
    """The id of a command that has started, and what becomes of its caller."""
    lost.answers["process.start"] = {"pid": 2, **dict(answer)}
    lost.leaves()
    lost.comes(stdio=lambda port, s: port.opened(s), stderr=lambda port, s: port.opened(s))
    caller, ended = lost.calls(wait=60, **how)
    (start,) = lost.told("process.start")
    return start["id"], job_of(lost), caller, ended


def is_ended(lost, ident):
    """Once it is back: the guest is asked to end it, and to forget it then."""
    assert lost.told("process.kill")[-1] == kill(ident)
    lost.exits(ident)
    assert lost.told("process.forget") == [{"method": "process.forget", "id": ident}]
    n = len(lost.told("process.kill"))
    lost.breaks()
    time.sleep(0.3)
    assert len(lost.told("process.kill")) == n, "that was all"


def test_running_lost(lost):
    """Its output is cut off with the session: its caller is told so, and it does not run on behind their back."""
    ident, _, caller, ended = runs(lost)
    lost.leaves()
    caller.join(20)
    assert ended == ["Interrupted"]
    lost.asked.clear()
    lost.comes()
    is_ended(lost, ident)


def test_cancelled_while_it_is_silent(lost):
    """As in a paused domain: nothing is answered, the caller is let go, and the command is ended when there is an answer again."""
    ident, job, caller, ended = runs(lost)
    lost.peer.control.is_mute = True
    lost.client.job(job, "Cancel")
    caller.join(40)
    assert ended == ["Cancelled"]
    lost.asked.clear()
    lost.leaves()
    lost.comes()
    is_ended(lost, ident)


def test_cancelled_with_grace(lost):
    """The guest leaves it longer than others would: that is waited for."""
    ident, job, caller, ended = runs(lost, {"grace": 9000000})
    lost.client.job(job, "Cancel")
    time.sleep(8)
    assert [body["signal"] for body in lost.told("process.kill")] == [15] and not ended
    lost.exits(ident)
    caller.join(20)
    assert ended == ["Cancelled"]


def test_grace_of_one_that_is_silent(lost):
    """It answers no more: its grace is nothing to wait for. Nor is what nobody would grant."""
    ident, job, caller, ended = runs(lost, {"grace": 1 << 62})
    lost.client.job(job, "Cancel")
    lost.told("process.kill")
    lost.peer.control.close()
    caller.join(30)
    assert ended == ["Cancelled"]
    lost.asked.clear()
    lost.leaves()
    lost.comes()
    is_ended(lost, ident)


def test_detached_cancelled_while_it_is_silent(lost):
    """Who has cancelled it is owed its end too, and what it wrote stays to be read."""
    lost.answers["process.start"] = {"pid": 2}
    lost.client.run(NAME, "sleep", "1000", detach=True)
    (start,) = lost.told("process.start")
    job = job_of(lost)
    lost.peer.control.is_mute = True
    lost.client.job(job, "Cancel")
    assert lost.client.wait_job(job, 40)["State"] == "cancelled"
    lost.asked.clear()
    lost.leaves()
    lost.comes()
    assert lost.told("process.kill") == [kill(start["id"])]
    lost.exits(start["id"])
    lost.breaks()
    time.sleep(0.3)
    assert len(lost.told("process.kill")) == 1 and "process.forget" not in [body["method"] for body in lost.asked]


def test_detached_goes_on(lost):
    """Nobody has asked for its end: it outlives the session."""
    lost.answers["process.start"] = {"pid": 2}
    lost.client.run(NAME, "sleep", "1000", detach=True)
    (start,) = lost.told("process.start")
    lost.answers["process.list"] = {"processes": [{"id": start["id"], "state": "running"}]}
    job = job_of(lost)
    lost.leaves()
    lost.comes()
    lost.told("process.list")
    lost.exits(start["id"])
    assert lost.client.wait_job(job, 20)["State"] == "done"
    assert "process.kill" not in [body["method"] for body in lost.asked]
