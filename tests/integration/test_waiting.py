# SPDX-License-Identifier: LGPL-2.1-or-later
"""What waits for a guest that is not there: carried out in order and once when it comes, over hostd's death and the guest's; and a
guest that tells stories of what it has carried out."""

import threading
import time

import pytest
from conftest import Host
from guestpeer import GuestPeer

from lab.bus import BusError
from lab.need import eventually

NAME = "late"


class Late:
    """A guest that comes and goes, and writes down what it was asked."""

    def __init__(self, host):
        self.host, self.asked, self.idents, self.answers = host, [], [], {}

    @property
    def peer(self):
        return self.host.peers[NAME]

    @property
    def client(self):
        return self.host.client

    def leaves(self):
        self.peer.close()
        eventually(lambda: self.client.state(NAME) != "ready", 20, "the guest's end")

    def comes(self, ready=True, **hello):
        peer = self.host.peers[NAME] = GuestPeer(self.host.socket(NAME, "ctl"), self.host.socket(NAME, "data"), NAME, **hello)
        for method in "message.send", "message.call", "process.start", "process.kill", "process.list", "process.forget", "agent.upgrade":
            peer.serve[method] = self._serve
        if ready:
            self.client.wait_ready(NAME, 20)

    def _serve(self, port, ident, body, payload):
        self.asked.append((body["method"], body, payload))
        self.idents.append(ident)
        answer = self.answers.get(body["method"], {})
        answer = answer(body) if callable(answer) else answer
        if answer is not None:
            port.reply(ident, answer)

    def of(self, method):
        return [(body, payload) for name, body, payload in list(self.asked) if name == method]

    def told(self, method, n=1, timeout=15):
        eventually(lambda: len(self.of(method)) >= n, timeout, f"{n} × {method}")
        return self.of(method)

    def exits(self, ident, **how):
        self.peer.control.message(18, 0, {"method": "process.exited", "id": ident, **how})

    def queue(self):
        return self.client.manager("ListQueue", "(s)", NAME)

    def send(self, text, **more):
        return self.client.message(NAME, "app.go", text, method="Send", queue=True, **more)

    def run(self, *argv, **more):
        """Queues a command; its job's path."""
        self.client.run(NAME, *argv, queue=True, **more)
        return f"/org/vmferry1/job/{self.queue()[-1][0]}"


@pytest.fixture(scope="module")
def host():
    host = Host(peers=(NAME,))
    yield host
    host.end()


@pytest.fixture
def late(host):
    """Not there, with nothing in its queue."""
    late = Late(host)
    if host.client.state(NAME) == "ready":
        late.leaves()
    for item in late.queue():
        host.client.manager("DropQueued", "(u)", item[0])
    yield late
    if host.client.state(NAME) != "ready":
        late.comes()


def test_in_order_and_once(host, late):
    """Messages and commands, one after the other, also where hostd was killed in between."""
    ids = [late.send(f"m{i}") for i in range(3)]
    job = late.run("/bin/true", "a b")
    late.send("last")
    listed = late.queue()
    assert [item[0] for item in listed[:3]] == ids and [item[1] for item in listed] == ["send"] * 3 + ["exec", "send"]
    assert all(item[3] < item[4] for item in listed), "each has its time"
    host.hostd.restart()
    assert [item[0] for item in late.queue()] == [item[0] for item in listed]
    late.comes()
    body, _ = late.told("process.start")[0]
    assert body["argv"] == ["/bin/true", "a b"] and body["detach"] and body["once"]
    time.sleep(0.3)
    assert [payload for _, payload in late.of("message.send")] == [b"m0", b"m1", b"m2"], "the command has not ended"
    late.exits(body["id"], exit_status=3)
    assert late.told("message.send", 4)[3][1] == b"last"
    eventually(lambda: not late.queue(), 10, "an empty queue")
    assert late.client.get(job, "org.vmferry1.Process", "ExitStatus") == 3
    assert late.told("process.forget")[0][0]["id"] == body["id"]
    late.leaves()
    late.comes()
    time.sleep(0.3)
    assert len(late.of("message.send")) == 4 and len(late.of("process.start")) == 1


def test_unanswered(late):
    """The guest leaves without an answer: the same message again, under its id, so that the guest can tell."""
    late.answers["message.send"] = lambda body: None
    late.send("once")
    late.comes()
    late.told("message.send")
    late.leaves()
    assert len(late.queue()) == 1
    late.answers.clear()
    late.comes()
    eventually(lambda: not late.queue(), 15, "an empty queue")
    (first, _), (second, _) = late.of("message.send")[:2]
    assert first["id"] == second["id"] and first["topic"] == second["topic"] == "app.go"


def test_refused(late):
    """What the guest refuses has failed with its words, and holds nobody up."""
    late.answers["message.send"] = lambda body: {"error": "NoHandler", "message": "nobody \x1b here"} if len(late.asked) == 1 else {}
    late.answers["process.start"] = {"error": "PermissionDenied", "message": "not in this house"}
    refused, command = late.send("x"), late.run("rm")
    last = late.send("y")
    jobs = [f"/org/vmferry1/job/{refused}", command]
    late.comes()
    names = [late.client.failed((0, job), 20) for job in jobs]
    assert names == ["NoHandler", "PermissionDenied"]
    text = late.client.job_properties(jobs[0])["ErrorMessage"]
    assert "nothing that serves topic" in text and "\x1b" not in text
    assert late.client.wait_job(f"/org/vmferry1/job/{last}", 10)["State"] == "done"


def test_expires(late):
    job = late.send("stale", ttl=300_000)
    assert late.client.failed((0, f"/org/vmferry1/job/{job}"), 20) == "Timeout"
    assert late.queue() == []
    late.comes()
    late.client.ping(NAME)
    assert late.of("message.send") == []


def test_end_unheard(host, late):
    """hostd was away when the command ended: it asks what became of it."""
    job = late.run("sleep", "1")
    late.comes()
    ident = late.told("process.start")[0][0]["id"]
    host.hostd.kill()
    late.answers["process.start"] = {"duplicate": True}
    late.answers["process.list"] = {"processes": [{"id": ident, "state": "exited", "exit_signal": 9}]}
    host.hostd.start()
    late.client.wait_ready(NAME, 20)
    late.told("process.list")
    properties = late.client.wait_job(job, 15)
    assert properties["State"] == "done", properties
    assert late.client.get(job, "org.vmferry1.Process", "ExitSignal") == 9


PROCESS = "org.vmferry1.Process"


def test_process_from_the_start(host, late):
    """A command has its interface while it waits, for those who look and for those who were told; its pid is news."""
    client, since = late.client, time.monotonic()
    job = late.run("/bin/sleep", "a\nb")
    waiting = {"Argv": ["/bin/sleep", "a\nb"], "GuestPid": 0, "ExitStatus": -1, "ExitSignal": 0}
    assert client.get_all(job, PROCESS) == waiting
    _, _, (_, interfaces) = client.wait_signal(lambda path, signal, args: signal == "InterfacesAdded" and args[0] == job, since=since)
    assert interfaces[PROCESS] == waiting
    with pytest.raises(BusError) as e:
        client.call(job, PROCESS, "Kill", "(i)", 15)
    assert e.value.name == "NotFound" and "not started" in e.value.message
    host.hostd.restart()
    assert client.get_all(job, PROCESS) == waiting
    late.answers["process.start"] = {"pid": 4711}
    late.comes()
    client.wait_signal(lambda path, signal, args: path == job and signal == "PropertiesChanged" and args[0] == PROCESS
                       and args[1].get("GuestPid") == 4711, since=since)
    late.exits(late.told("process.start")[0][0]["id"], exit_status=0)
    assert client.wait_job(job, 15)["State"] == "done"
    assert client.get_all(job, PROCESS) == {**waiting, "GuestPid": 4711, "ExitStatus": 0}


STORIES = {
    "not known": {"processes": []},
    "somebody else": {"processes": [{"id": "ff", "state": "exited", "exit_status": 0}]},
    "no list": {"processes": {"id": 1}},
    "round in circles": {"processes": [{"id": "ff"}], "next": 1},
}


@pytest.mark.parametrize("name", STORIES)
def test_stories(late, name):
    """It says that the command was started before, and nothing of use about it: the job ends, and says that it does not know."""
    late.answers.update({"process.start": {"error": "Exists", "message": "known"}, "process.list": STORIES[name]})
    job = late.run("true")
    late.comes()
    assert late.client.failed((0, job), 15) == "Interrupted"
    assert len(late.of("process.list")) < 10


def test_cancelled(late):
    """While it waits, and while it runs."""
    waiting, running = late.send("x"), late.run("sleep", "1000")
    late.client.job(f"/org/vmferry1/job/{waiting}", "Cancel")
    assert late.client.wait_job(f"/org/vmferry1/job/{waiting}", 10)["State"] == "cancelled"
    late.comes()
    ident = late.told("process.start")[0][0]["id"]
    eventually(lambda: late.client.job_properties(running)["State"] == "running", 10, "it runs")
    late.client.job(running, "Cancel")
    assert late.told("process.kill")[0][0] == {"method": "process.kill", "id": ident, "signal": 15}
    late.exits(ident, exit_signal=15)
    assert late.client.wait_job(running, 15)["State"] == "cancelled"
    assert late.of("message.send") == []


@pytest.mark.parametrize("how", ["Cancel", "DropQueued"])
def test_cancelled_unanswered(late, how):
    """The guest leaves without an answer and the message is cancelled: it does not go to the guest that comes back, and what
    was behind it does."""
    late.answers["message.send"] = lambda body: None
    first, second = late.send("first"), late.send("second")
    job = f"/org/vmferry1/job/{first}"
    late.comes()
    late.told("message.send")
    late.leaves()
    if how == "Cancel":
        late.client.job(job, "Cancel")
    else:
        late.client.manager("DropQueued", "(u)", first)
    assert late.client.wait_job(job, 10)["State"] == "cancelled"
    late.answers.clear()
    late.comes()
    assert late.client.wait_job(f"/org/vmferry1/job/{second}", 15)["State"] == "done"
    time.sleep(0.6)
    assert [payload for _, payload in late.of("message.send")] == [b"first", b"second"]


def test_cancelled_under_way(late):
    """While the guest has it and says nothing: the next one's turn has come."""
    late.answers["message.send"] = lambda body: None if len(late.of("message.send")) == 1 else {}
    first, second = late.send("first"), late.send("second")
    late.comes()
    late.told("message.send")
    late.client.job(f"/org/vmferry1/job/{first}", "Cancel")
    assert late.client.wait_job(f"/org/vmferry1/job/{second}", 15)["State"] == "done"
    properties = late.client.job_properties(f"/org/vmferry1/job/{first}")
    assert properties["State"] == "cancelled" and "may have arrived" in properties["ErrorMessage"]
    late.peer.control.reply(late.idents[0], {})  # too late
    assert late.client.ping(NAME) < 10_000_000


def test_key_of_what(host, late):
    """A key is one of a method, and of a topic."""
    def message(method, topic, key="k"):
        late.client.message(NAME, topic, "x", method=method, queue=True, key=key)
        return late.queue()[-1][0]

    send, call, other = message("Send", "a.b"), message("Call", "a.b"), message("Send", "a.c")
    push, path = late.client.push(NAME, "/etc/hostname", "/x", queue=True, key="k")
    command = late.run("true", key="k")
    assert len(late.queue()) == 5 and late.queue()[-1][1] == "exec" and late.client.job_properties(path)["Kind"] == "push"
    host.hostd.restart()
    for method, topic, job in ("Send", "a.b", send), ("Send", "a.c", other):
        assert late.client.message(NAME, topic, "another", method=method, queue=True, key="k") == job
    message("Call", "a.b")
    assert late.client.push(NAME, "/etc/hostname", "/x", queue=True, key="k") == (push, path)
    assert late.run("true", key="k") == command
    assert [item[0] for item in late.queue()] == [send, call, other, push, int(command.rpartition("/")[2])]


def test_key_unqueued(host, late):
    """The guest knows what came again by its id, which is made of the key; by that alone, whatever the text. Nor does the queue
    make it another message."""
    def send(text, topic="a.b", **more):
        return late.client.message(NAME, topic, text, method="Send", **more)

    late.comes()
    ident = send("1", key="order-17")
    assert 0 < ident < 1 << 63
    host.hostd.restart()
    late.client.wait_ready(NAME, 20)
    assert send("2", key="order-17") == ident
    assert len({ident, send("3", key="order-18"), send("4", topic="a.c", key="order-17"), send("5"), send("5")}) == 5
    send("6", key="order-17", queue=True)
    asked = {payload: body for body, payload in late.told("message.send", 7)}
    assert {body["id"] for text, body in asked.items() if text in (b"1", b"2", b"6")} == {ident}
    assert [asked[b"%d" % i].get("keyed", False) for i in range(1, 7)] == [True, True, True, True, False, True]


def test_timed_out(late):
    job = late.run("sleep", "1000", timeout=5_000_000)
    late.comes()
    body = late.told("process.start")[0][0]
    assert body["timeout"] == 5_000_000
    late.exits(body["id"], exit_signal=15, timed_out=True)
    assert late.client.failed((0, job), 15) == "Timeout"


UPGRADE = ("Upgrade", "(sssa{sv})", NAME)
DIGEST = "xxh64:0123456789abcdef"


def test_upgrade(late):
    """What the guest answers is the answer; what is wrong never gets there."""
    late.comes()
    with pytest.raises(BusError) as e:
        late.client.manager(*UPGRADE, "/x", DIGEST, {})
    assert e.value.name == "Unsupported" and "AllowUpgrade" in e.value.message
    late.leaves()
    late.comes(capabilities=["exec", "upgrade"])
    for path, digest in (("x", DIGEST), ("/x", "sha1:0123456789abcdef"), ("/x", DIGEST.upper()), ("/x/../y", DIGEST)):
        with pytest.raises(BusError) as e:
            late.client.manager(*UPGRADE, path, digest, {})
        assert e.value.name in ("InvalidPath", "org.freedesktop.DBus.Error.InvalidArgs")
    assert late.of("agent.upgrade") == []
    late.answers["agent.upgrade"] = {"version": "2.0"}
    assert late.client.manager(*UPGRADE, "/x", DIGEST, {}) == "2.0"
    late.answers["agent.upgrade"] = {"version": "2\x1b[1m"}
    assert late.client.manager(*UPGRADE, "/x", DIGEST, {}) == ""
    late.answers["agent.upgrade"] = {"error": "Incompatible", "message": "no"}
    with pytest.raises(BusError) as e:
        late.client.manager(*UPGRADE, "/x", DIGEST, {})
    assert e.value.name == "Incompatible" and NAME in e.value.message


def test_command_forgotten(late):
    """One that runs when the guest's daemon is another: the guest goes round in circles, the caller gets an end."""
    late.comes()
    late.peer.opens.update(dict.fromkeys(("stdio", "stderr"), lambda port, s: port.opened(s)))
    late.answers["process.list"] = STORIES["round in circles"]
    ended = []
    caller = threading.Thread(target=lambda: ended.append(failure(late)))
    caller.start()
    late.told("process.start")
    late.peer.control.hello_req()
    caller.join(30)
    assert ended == ["Interrupted"]
    assert len(late.of("process.list")) < 10


def failure(late):
    try:
        late.client.run(NAME, "sleep", "1000", wait=25)
    except BusError as e:
        return e.name
    return "done"
