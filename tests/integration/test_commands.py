# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command where a guest that answers everything is enough: what its words mean, and whom they concern."""

import fcntl
import json
import os
import signal
import subprocess
import termios
import time

import pytest
from conftest import Host
from hostpeer import NOTIFY

from lab.need import built, eventually

NAMES = "one", "two"
DISK = "<disk type='file'><source file='{}'/><target dev='vda'/></disk>"
SAVED = "<test:runstate>5</test:runstate><test:hasmanagedsave/>"


@pytest.fixture(scope="module")
def host():
    host = Host(peers=NAMES, domains={"saved": (DISK.format("/dev/null"), SAVED)}, config="JobRetention=0\n")
    yield host
    host.end()


@pytest.fixture
def vmferry(host):
    """The command with --user."""
    def run(*argv, **popen):
        return subprocess.run([built("src/cli/vmferry"), "--user", *argv], capture_output=True, text=True, timeout=60,
                              env=host.hostd.env, **popen)
    return run


@pytest.fixture
def off(host):
    """The guest "one", whose daemon is not there; nothing waits for it."""
    host.peers["one"].close()
    eventually(lambda: host.client.state("one") != "ready", 20, "the guest's end")
    yield "one"
    for item in queue(host, "one"):
        host.client.manager("DropQueued", "(u)", item[0])
    host.peers["one"] = type(host.peers["one"])(host.socket("one", "ctl"), host.socket("one", "data"), "one")
    host.client.wait_ready("one", 20)


def queue(host, guest):
    return host.client.manager("ListQueue", "(s)", guest)


def test_drop_of_another_guest(host, vmferry, off):
    """The id is right, the guest is not: both items stay."""
    ident = str(host.client.message(off, "app.go", "x", method="Send", queue=True))
    r = vmferry("queue", "two", "drop", ident)
    assert r.returncode == 1 and ident in r.stderr and "two" in r.stderr, r.stderr
    r = vmferry("queue", "nobody", "drop", ident)
    assert r.returncode == 1 and "nobody" in r.stderr, r.stderr
    assert [str(item[0]) for item in queue(host, off)] == [ident]
    r = vmferry("queue", off, "drop", ident)
    assert r.returncode == 0, r.stderr
    assert queue(host, off) == []


@pytest.fixture
def told(host):
    """What "two" is sent: topic and payload."""
    got, serve = [], host.peers["two"].serve
    for method in "message.send", "message.call":
        def answer(port, ident, body, payload):
            got.append((body["topic"], payload.decode()))
            port.reply(ident, {})
        serve[method] = answer
    yield got
    serve.clear()


@pytest.mark.parametrize("verb,words,payload", [
    ("send", ["two", "app.go", "--timeout=5", "text"], "text"), ("send", ["two", "app.go", "text", "--timeout", "5"], "text"),
    ("send", ["two", "--key=a", "app.go", "text"], "text"), ("send", ["--timeout", "5", "two", "app.go", "-5"], "-5"),
    ("send", ["two", "app.go", "--", "--ttl=5"], "--ttl=5"), ("send", ["two", "app.go"], ""),
    ("call", ["two", "app.go", "text", "--timeout=5"], "text"), ("call", ["two", "app.go", "--", "--timeout"], "--timeout"),
])
def test_options_anywhere(vmferry, told, verb, words, payload):
    r = vmferry(verb, *words)
    assert r.returncode == 0, r.stderr
    assert told == [("app.go", payload)]


@pytest.mark.parametrize("verb", ["send", "call"])
@pytest.mark.parametrize("words", [
    ["two", "app.go", "--tll=5"], ["two", "app.go", "text", "--nothing"], ["two", "app.go", "--timeout=soon", "text"],
    ["two", "app.go", "--timeout"], ["two", "app.go", "text", "more"], ["two"], ["-x", "two", "app.go"],
])
def test_no_text(vmferry, told, verb, words):
    """What may be a mistyped option is none, and nothing is sent."""
    r = vmferry(verb, *words)
    assert r.returncode == 2 and r.stderr, r.stderr
    assert not told


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--backend=nbd"]])
def test_deploy_into_a_saved_one(host, vmferry, words):
    """It is off, and its disks are not: their state is in its memory, which is kept."""
    host.hostd.env["VMFERRY_DEPLOY"] = built("src/deploy/vmferry-deploy")
    assert host.client.state("saved") == "off"
    r = vmferry("deploy", *words, f"--agent={built('src/guestd/vmferry-guestd')}", "saved")
    assert r.returncode == 1 and "saved state" in r.stderr and "managedsave-remove" in r.stderr, r.stderr


@pytest.mark.parametrize("words,kind,what", [
    (["send", "{}", "app.go", "--queue", "--ttl=60", "x"], "send", "app.go"),
    (["call", "{}", "app.ask", "x", "--queue", "--ttl", "60"], "send", "app.ask"),
    (["exec", "--queue", "--ttl=60", "{}", "--", "/bin/true", "--queue"], "exec", "/bin/true"),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_queued(host, vmferry, off, words, kind, what, as_json):
    """Kept for a guest that is not there, for a minute; the id is that of its job, and others are queued meanwhile."""
    other = host.client.message("two", "app.go", "x", method="Send", queue=True)
    r = vmferry(*(["--json"] if as_json else []), *(word.format(off) for word in words))
    assert r.returncode == 0, r.stderr
    (item,) = queue(host, off)
    assert item[0] != other and item[0] == (json.loads(r.stdout)["id"] if as_json else int(r.stdout))
    assert item[1] == kind and what in item[2] and item[4] - item[3] == 60000000
    assert vmferry("queue", off, "drop", str(item[0])).returncode == 0


@pytest.mark.parametrize("words", [
    ["exec", "-t"], ["exec", "-i"], ["exec", "--detach"], ["exec", "--attach=1"],
])
def test_not_queued(host, vmferry, off, words):
    r = vmferry(words[0], "--queue", *words[1:], off, "--", "true")
    assert r.returncode == 2 and "--queue" in r.stderr, r.stderr
    r = vmferry(words[0], "--ttl=5", off, "--", "true")
    assert r.returncode == 2 and "--queue" in r.stderr, r.stderr
    assert queue(host, off) == []


def test_upgrade_all_by_name(host, vmferry):
    """These guests take no files. Which one it is, people know by its name."""
    uuids = {guest[0]: guest[1] for guest in host.client.manager("ListGuests")}
    r = vmferry("upgrade", "--all", f"--agent={built('src/guestd/vmferry-guestd')}")
    assert r.returncode == 1 and "2 of 2" in r.stderr, r.stderr
    for name in NAMES:
        assert f"vmferry: {name}: " in r.stderr and uuids[name] not in r.stderr, r.stderr


@pytest.fixture
def start(host):
    """How "two" answers a start, and what it was asked."""
    asked, answer, serve = [], {}, host.peers["two"].serve

    def on_start(port, ident, body, payload):
        asked.append(body)
        port.reply(ident, answer)
    serve["process.start"] = on_start
    yield answer, asked
    serve.clear()


@pytest.mark.parametrize("error,more,status", [
    ("NotFound", {"exit_status": 127}, 127), ("PermissionDenied", {"exit_status": 126}, 126),
    ("InvalidArgs", {}, 125), ("InvalidPath", {}, 125), ("Failed", {}, 125), ("LimitsExceeded", {}, 125),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_not_started(vmferry, start, error, more, status, as_json):
    """Not found, not to be executed, or neither: with descriptors (Exec) and without (Run)."""
    start[0].update(error=error, message="a reason", **more)
    r = vmferry(*(["--json"] if as_json else []), "exec", "two", "--", "it")
    assert r.returncode == status and "a reason" in r.stdout + r.stderr, r


@pytest.mark.parametrize("cwd,is_right", [("/usr/../tmp", True), ("/tmp//x/.", True), ("/", True), ("tmp", False), ("", False)])
def test_directory(vmferry, start, cwd, is_right):
    """As the guest's kernel takes it: it has to be absolute, no more."""
    start[0].update(error="Failed", message="a reason")
    r = vmferry("exec", "--cwd", cwd, "two", "--", "it")
    assert r.returncode == 125, r.stderr
    assert [body["cwd"] for body in start[1]] == ([cwd] if is_right else []), r.stderr


@pytest.fixture
def yes(host):
    """"two" runs a command that writes without end until it is interrupted; the signals that it was sent."""
    two, signals, idents = host.peers["two"], [], []

    def write(port, s):
        port.opened(s)
        while not signals and port.send_data(s, b"y\n" * 8192):
            pass
        port.end_stream(s)

    def kill(port, ident, body, payload):
        signals.append(body["signal"])
        port.reply(ident)
        two.control.message(NOTIFY, 0, {"method": "process.exited", "id": idents[-1], "exit_signal": body["signal"]})

    def start(port, ident, body, payload):
        idents.append(body["id"])
        port.reply(ident, {"pid": 2})

    two.serve.update({"process.start": start, "process.kill": kill, "process.forget": lambda port, ident, *_: port.reply(ident)})
    two.opens.update(stdio=write, stderr=lambda port, s: (port.opened(s), port.end_stream(s)))
    yield signals
    two.serve.clear()
    two.opens.clear()


def test_interrupted_with_a_full_pipe(host, yes):
    """Nobody reads its output, and it is heard all the same; the pipe is as it was, for the others who have it."""
    reader, writer = os.pipe()
    command = subprocess.Popen([built("src/cli/vmferry"), "--user", "exec", "two", "--", "yes"], stdout=writer,
                               stderr=subprocess.DEVNULL, env=host.hostd.env)
    written = [-1]

    def full():
        written.append(int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), "little"))
        return written[-1] == written[-2] > 0

    eventually(full, 20, "a full pipe", 0.5)
    assert command.poll() is None and os.get_blocking(writer)
    started = time.monotonic()
    command.send_signal(signal.SIGINT)
    assert command.wait(15) == 128 + signal.SIGINT
    assert yes == [signal.SIGINT] and time.monotonic() - started < 10
    os.close(reader)
    os.close(writer)


def test_slow_reader(host, yes):
    """What is read late is whole."""
    command = subprocess.Popen([built("src/cli/vmferry"), "--user", "exec", "two", "--", "yes"], stdout=subprocess.PIPE,
                               env=host.hostd.env)
    time.sleep(2)
    assert command.stdout.read(1 << 20) == b"y\n" * (1 << 19)
    command.send_signal(signal.SIGINT)
    command.stdout.read()
    assert command.wait(15) == 128 + signal.SIGINT


@pytest.mark.parametrize("n,wait", [(0, 0), (150000, 6)])
def test_exit_status_of_a_job_that_does_not_stay(host, n, wait):
    """JobRetention=0, and with more output than that: whoever reads it may take longer than the job is there."""
    two = host.peers["two"]

    def write(port, s):
        port.opened(s)
        port.send_data(s, b"x" * n)
        port.end_stream(s)

    def start(port, ident, body, payload):
        port.reply(ident, {"pid": 2})
        port.message(NOTIFY, 0, {"method": "process.exited", "id": body["id"], "exit_status": 7})

    two.serve["process.start"] = start
    two.opens.update(stdio=write, stderr=lambda port, s: (port.opened(s), port.end_stream(s)))
    try:
        command = subprocess.Popen([built("src/cli/vmferry"), "--user", "exec", "two", "--", "it"], stdout=subprocess.PIPE,
                                   env=host.hostd.env)
        time.sleep(wait)
        assert command.communicate(timeout=20)[0] == b"x" * n and command.returncode == 7
        eventually(lambda: "done" not in [job[4] for job in host.client.manager("ListJobs")], 10, "it does not stay")
    finally:
        two.serve.clear()
        two.opens.clear()
