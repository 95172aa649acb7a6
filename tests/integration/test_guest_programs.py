# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of a guest, and the people who administer it: messages through guestd's socket and its own commands, both ways; how the
daemon is started, told to read its configuration again, and ended."""

import os
import signal
import socket
import subprocess

import pytest
from guestdaemon import Guest, ended
from hostpeer import Remote

from lab.need import eventually, guestd_program


@pytest.fixture(scope="module")
def guest():
    guest = Guest()
    yield guest
    guest.end()


@pytest.fixture
def host(guest):
    guest.host.handshake(10)
    guest.host.requests.clear()
    return guest.host


def request(host, method):
    """The guest's next one of that method: (id, json, payload)."""
    def found():
        return next((r for r in host.requests if r[1]["method"] == method), None)
    host.wait(found, 10, method)
    return found()


def test_send(guest, host):
    r = guest.run("send", "app.started", "hello")
    assert (r.returncode, r.stdout, r.stderr) == (0, b"", b"")
    ident, body, payload = request(host, "message.publish")
    assert (body["topic"], payload) == ("app.started", b"hello")
    host.reply(ident)
    # What the host has not acknowledged comes again, under its id, in the next session.
    guest.run("send", "app.started", "-", input=b"\0\xff")
    first = request(host, "message.publish")
    assert first[2] == b"\0\xff"
    host.handshake(10)
    host.requests.clear()
    again = request(host, "message.publish")
    assert again[1]["id"] == first[1]["id"] and again[2] == b"\0\xff"
    host.reply(again[0])


def test_killed(tmp_path):
    """What a program was told that guestd keeps is kept, whatever ends guestd; what the host has does not come again."""
    again = tmp_path / "again"
    again.write_text(f'#!/bin/sh\n{guestd_program()} "$@" &\necho $! > {tmp_path}/pid\nwait $!\nexec {guestd_program()} "$@"\n')
    again.chmod(0o755)
    guest = Guest(program=str(again))
    try:
        program = guest.connect()
        ids = [program.ask(method="publish", topic="kept", text=str(i))["id"] for i in range(3)]
        guest.host.wait(lambda: len([r for r in guest.host.requests if r[1]["method"] == "message.publish"]) == 3, 10, "messages")
        first = request(guest.host, "message.publish")
        guest.host.reply(first[0])
        guest.host.ping(2)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        program.close()
        guest.host.requests.clear()
        guest.host.handshake(10)
        guest.host.wait(lambda: len(guest.host.requests) >= 2, 10, "the messages again")
        assert [(r[1]["id"], r[2]) for r in guest.host.requests] == [(ids[1], b"1"), (ids[2], b"2")]
        for r in guest.host.requests:
            guest.host.reply(r[0])
    finally:
        guest.end()


def test_call(guest, host):
    process = guest.start("call", "app.ask", "what")
    ident, body, payload = request(host, "message.call")
    assert (body["topic"], payload) == ("app.ask", b"what")
    host.reply(ident, payload=b"that\0\xff")
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, b"that\0\xff", b"")


def test_call_refused(guest, host):
    process = guest.start("call", "app.ask")
    host.reply(request(host, "message.call")[0], {"error": "NoHandler", "message": "nobody here"})
    out, err = process.communicate(timeout=10)
    assert process.returncode == 1 and out == b"" and b"NoHandler: " in err and b"app.ask" in err


def test_call_host_leaves(guest, host):
    """The host is gone before it has answered: that is an answer too."""
    program = guest.connect()
    program.say(method="call", topic="app.ask", tag=7)
    request(host, "message.call")
    host.handshake(10)
    answer = program.hear()
    assert answer["error"] == "Interrupted" and answer["tag"] == 7 and answer["message"]
    program.close()


def test_call_in_time(guest, host):
    """A caller's own patience; the late answer harms nobody."""
    program = guest.connect()
    program.say(method="call", topic="app.ask", timeout=200_000, tag="t")
    ident, body, _ = request(host, "message.call")
    assert body["timeout"] == 200_000
    assert program.hear()["error"] == "Timeout"
    host.reply(ident, payload=b"late")
    host.ping(2)
    assert program.ask(method="subscribe", topic="x", tag=1) == {"ok": True, "tag": 1}
    program.close()


def test_listen(guest, host):
    process = guest.start("listen", "news.a", "news.b")
    eventually(lambda: deliver(host, "news.a", b"one", 71), 10, "a subscriber")
    deliver(host, "news.b", b"two", 72)
    assert process.stdout.readline() == b"news.a\tone\n"
    assert process.stdout.readline() == b"news.b\ttwo\n"
    process.terminate()
    process.communicate()
    process = guest.start("listen", "--json", "news.c")
    eventually(lambda: deliver(host, "news.c", b"\xff", 73), 10, "a subscriber")
    assert process.stdout.readline() == b'{"event":"message","topic":"news.c","id":73,"data64":"/w=="}\n'
    process.terminate()
    process.communicate()


def deliver(host, topic, payload, ident):
    try:
        host.request("message.send", payload, topic=topic, id=ident)
        return True
    except Remote as e:
        assert e.name == "NoHandler"
        return False


def test_serve(guest, host):
    """A program that answers the host's calls; when it has gone, the one who asked hears that."""
    program = guest.connect()
    assert program.ask(method="serve", topic="app.time")["ok"]
    ask = host.ask("message.call", b"q", topic="app.time", id=81)
    call = heard(program)
    assert (call["event"], call["topic"], call["text"]) == ("call", "app.time", "q")
    program.say(method="answer", call=call["call"], text="noon")
    assert host.answer_to(ask)[1] == b"noon"
    ask = host.ask("message.call", b"q", topic="app.time", id=82)
    heard(program)
    program.close()
    with pytest.raises(Remote) as e:
        host.answer_to(ask)
    assert e.value.name == "Interrupted"


def heard(program):
    return program.hear(5)


@pytest.mark.parametrize("arguments", [
    ("send",), ("send", "a", "b", "c"), ("call",), ("listen",), ("listen", "--json"), ("--log-level=loud",), ("dance",), ("--nonsense",),
])
def test_usage(guest, arguments):
    r = guest.run(*arguments)
    assert r.returncode == 2 and r.stdout == b"" and r.stderr


@pytest.mark.parametrize("arguments, why", [
    (("send", "a/b", "x"), b"InvalidArgs"),
    (("listen", ".hidden"), b"topic is not one"),
    (("send", "big", "-"), b"64 KiB"),
    (("call", "big", "-"), b"64 KiB"),
])
def test_refused(guest, host, arguments, why):
    r = guest.run(*arguments, input=bytes(65537))
    assert r.returncode == 1 and why in r.stderr and r.stderr.count(b"\n") == 1, r.stderr


def test_help(guest):
    r = guest.run("--help")
    assert r.returncode == 0 and b"--foreground" in r.stdout and b"listen" in r.stdout
    r = guest.run("--version")
    assert r.returncode == 0 and r.stdout.startswith(b"vmferry-guestd ")


def test_nobody_there():
    """No daemon: one line that names its socket."""
    for verb in "send", "listen":
        r = subprocess.run(["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c",
                            "mount -t tmpfs x /run && exec \"$@\"", "-", guestd_program(), verb, "x"], capture_output=True)
        assert r.returncode == 1 and b"/run/vmferry/guestd.sock" in r.stderr


def test_one_only(guest, host):
    r = guest.run("--foreground", "--config", guest.config)
    assert r.returncode == 1 and b"Another vmferry-guestd is running" in r.stderr
    host.ping(2)


SHUT = "AllowExec=no\nAllowPush=no\nAllowPull=no\nAllowSend=no\nAllowCall=no\nAllowUpgrade=no\n"
VERBS = {
    "exec": ("process.start", {"id": "a1", "argv": ["true"]}),
    "send": ("message.send", {"topic": "echo", "id": 91}),
    "call": ("message.call", {"topic": "echo", "id": 92}),
    "upgrade": ("agent.upgrade", {"path": "/bin/true", "digest": "xxh64:0000000000000000"}),
}


def test_reload(guest, host):
    """What is shut is absent from the capabilities, refused by name, and open again when it is opened."""
    assert not set(guest.reload(SHUT)["capabilities"]) & {"exec", "push", "pull", "send", "call", "upgrade"}
    for method, parameters in VERBS.values():
        with pytest.raises(Remote) as e:
            host.request(method, b"", **parameters)
        assert e.value.name == "PermissionDenied" and len(e.value.body["message"]) > 10
    n_refusals = guest.log().count("result=PermissionDenied")
    assert n_refusals >= 3, guest.log()[-2000:]
    assert set(guest.reload("")["capabilities"]) >= {"exec", "push", "pull", "send", "call", "upgrade"}


def test_reload_of_limits(guest, host):
    """Sizes, times and permissions count at once, and who is connected stays."""
    path = f"/proc/{guest.process.pid}/root/run/vmferry/guestd.sock"
    guest.reload("KillGrace=10min\n")
    program = guest.connect()
    assert program.ask(method="subscribe", topic="news.d", tag=1)["ok"]
    guest.reload("ProcessesMax=1\nKillGrace=100ms\nSocketMode=0600\n")
    assert os.stat(path).st_mode & 0o777 == 0o600
    host.request("process.start", id="b1", argv=["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    with pytest.raises(Remote) as e:
        host.request("process.start", id="b2", argv=["true"])
    assert e.value.name == "LimitsExceeded"
    host.request("process.kill", id="b1", signal=15, tree=True)
    eventually(lambda: running(host) == [], 20, "the end of what does not mind SIGTERM")
    assert deliver(host, "news.d", b"still here", 95) and program.hear()["topic"] == "news.d"
    program.close()
    guest.reload("")
    assert os.stat(path).st_mode & 0o777 == 0o660


def running(host):
    return [p["id"] for p in host.request("process.list")[0]["processes"] if p.get("state") == "running"]


def test_reload_of_mistakes(guest, host):
    """A line that is wrong is told with its number and its key, and shuts rather than opens; the rest counts."""
    ack = guest.reload("SpoolSize=much\nNoSuchKey=1\nAllowPull=perhaps\nAllowPush=no\nWriteRoots=srv\nSocketMode=abc\nLogLevel=loud\n"
                       "HandlersMax=0\nLocalTopics=\n[Other]\nx=1\nno line\n")
    assert set(ack["capabilities"]) >= {"exec", "send", "call"} and not {"push", "pull"} & set(ack["capabilities"])
    log = guest.log()
    for key in "SpoolSize", "NoSuchKey", "AllowPull", "WriteRoots", "SocketMode", "LogLevel", "HandlersMax":
        assert any(key in line and guest.config + ":" in line for line in log.splitlines()), (key, log[-3000:])
    guest.reload("ControlChannel=org.elsewhere.0\n")
    assert "ControlChannel= has changed" in guest.log()
    guest.reload("")


def test_service_manager():
    """READY=1 when it is, STOPPING=1 when it was told to end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind("\0vmferry-test-notify-%d" % os.getpid())
    listener.settimeout(10)
    guest = Guest(env={"NOTIFY_SOCKET": "@vmferry-test-notify-%d" % os.getpid()})
    try:
        assert listener.recv(100) == b"READY=1"
    finally:
        guest.end()
    assert listener.recv(100) == b"STOPPING=1"
    listener.close()


def test_background():
    """--daemon returns when it serves, and the daemon outlives whoever started it."""
    guest = Guest(arguments=("--daemon",))
    try:
        assert guest.process.wait(10) == 0
        guest.host.ping(2)
    finally:
        assert ended(guest.config)
        guest.end()


def test_no_configuration():
    """One that was asked for by name has to be there."""
    r = subprocess.run(["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c",
                        "mount -t tmpfs x /run && exec \"$@\"", "-", guestd_program(), "--foreground", "--config",
                        "/nonexistent.conf"], capture_output=True, timeout=20)
    assert r.returncode == 1 and b"/nonexistent.conf" in r.stderr
