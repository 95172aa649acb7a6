# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that lies on its control port: its session ends or the frame is dropped, in a line of the log at most, the other
guest is served all the while, and the liar is ready again within two seconds of talking sense."""

import json
import os
import subprocess
import threading
import time

import pytest
from guestpeer import PeerError
from hostpeer import (BODY_MAX, BYE, DATA, EOF, HELLO, HELLO_ACK, HELLO_REQ, MAGIC, MORE, NOTIFY, OPEN, OPENED, PING, PONG,
                      REPLY, REQUEST, START, frame)

from lab.bus import NAME, PATH, BusError, GLib
from lab.need import built, eventually

RSS_SLACK_KIB = 24 * 1024


def message(text, kind=NOTIFY, stream=0):
    return lambda p: p.next_frame(kind, text if isinstance(text, bytes) else json.dumps(text).encode(), stream=stream)


def broken(at):
    """A right frame with one byte flipped."""
    def make(p):
        whole = bytearray(p.next_frame(NOTIFY, b'{"method":"process.exited"}'))
        whole[at] ^= 0x40
        return bytes(whole)
    return make


def half(p):
    return p.next_frame(REPLY, b'{"x":"' + b"y" * 20000 + b'"}', stream=1)[:9000] + frame(HELLO_REQ, b"{}")


def unfinished(p):
    return b"".join(p.next_frame(REPLY, b'{"x":', flags=MORE, stream=i) for i in range(1, 7))


def endless(p):
    return b"".join(p.next_frame(NOTIFY, b" " * BODY_MAX, flags=MORE) for _ in range(64))


def requests(n, step=1):
    def make(p):
        return b"".join(p.next_frame(REQUEST, b'{"method":"message.call","topic":"none","id":1}', stream=1 + i * step)
                        for i in range(n))
    return make


def many(n, kind, body, stream=0):
    def make(p):
        return b"".join(p.next_frame(kind, body, stream=stream) for _ in range(n))
    return make


EXITED = {"method": "process.exited"}
LIES = {
    "noise": lambda p: os.urandom(65536),
    "zeros": lambda p: bytes(200000),
    "magic upon magic": lambda p: MAGIC * 5000,
    "half a frame": half,
    "four gibibytes": lambda p: p.next_frame(NOTIFY, b"{}", length=0xFFFFFFFF),
    "a byte too long": lambda p: p.next_frame(NOTIFY, b"{}", length=BODY_MAX + 1) + bytes(BODY_MAX),
    "another layout": lambda p: p.next_frame(NOTIFY, b"{}", version=9),
    "wrong check": broken(33),
    "wrong seal": broken(-1),
    "flipped body": broken(45),
    "another session": lambda p: p.next_frame(NOTIFY, b"{}", session=1234),
    "sequence leaps": lambda p: p.next_frame(PING, bytes(8), seq=99),
    "sequence goes back": lambda p: p.next_frame(PING, bytes(8), seq=0),
    "no JSON": message(b"{not json"),
    "half of JSON": message(b'{"method":"x"'),
    "JSON that is no object": message(b'["method"]'),
    "empty body": message(b""),
    "NUL escaped": message(b'{"method":"a\\u0000b"}'),
    "no UTF-8": message(b'{"method":"\xff\xfe"}'),
    "noncharacter": message(b'{"method":"\\uffff"}'),
    "lone surrogate": message(b'{"method":"\\ud800"}'),
    "too deep": message(b'{"a":' * 100 + b"1" + b"}" * 100),
    "method of another type": message({"method": 7}),
    "no method": message({"x": 1}),
    "method of a mile": message({"method": "m" * 30000}),
    "exit of nothing": message(EXITED),
    "exit of nobody": message({**EXITED, "id": "0123456789abcdef", "exit_status": 0}),
    "exit of other types": message({**EXITED, "id": ["x"], "exit_status": {}, "exit_signal": "nine"}),
    "exit beyond all numbers": message({**EXITED, "id": "ab", "exit_status": 10**30}),
    "answer to nothing": message({}, REPLY, 4711),
    "ten thousand answers to nothing": many(10000, REPLY, b"{}", 4711),
    "answer of no JSON": message(b"}", REPLY, 1),
    "request without method": message({}, REQUEST, 1),
    "request nobody knows": message({"method": "rm.rf"}, REQUEST, 1),
    "request of id 0": message({"method": "message.publish"}, REQUEST, 0),
    "requests that descend": requests(2, -1),
    "1500 requests": requests(1500),
    "publish to a path": message({"method": "message.publish", "topic": "../x", "id": 1}, REQUEST, 1),
    "publish to 10 KiB": message({"method": "message.publish", "topic": "t" * 10240, "id": 1}, REQUEST, 1),
    "publish of other types": message({"method": "message.publish", "topic": {}, "id": "x"}, REQUEST, 1),
    "call of nothing": message({"method": "message.call"}, REQUEST, 1),
    "short ping": message(b"abc", PING),
    "long pong": message(b"x" * 9, PONG),
    "pong to nothing": message(b"x" * 8, PONG),
    "unknown type": message(b"x", 200),
    "data on the control port": message(b"x" * 100, DATA, 1),
    "streams on the control port": lambda p: b"".join(p.next_frame(k, b"{}", stream=1) for k in (OPEN, OPENED, EOF)),
    "six unfinished messages": unfinished,
    "a message without end": endless,
    "nothing, and more": lambda p: p.next_frame(NOTIFY, b"", flags=MORE),
    "HELLO of a host": lambda p: frame(HELLO, b'{"port":"control","version":[1,1],"nonce":"' + b"0" * 32 + b'"}'),
    "HELLO_ACK again": lambda p: frame(HELLO_ACK, b'{"version":1,"nonce":"' + b"0" * 32 + b'","echo":"' + b"0" * 32 + b'"}'),
    "START from a guest": message({"echo": "0" * 32}, START),
    "goodbye, and on": lambda p: p.next_frame(BYE) + p.next_frame(NOTIFY, b"{}"),
}


def quiet(host, before):
    """At most one line for what happened, beside those of states."""
    lines = [line for line in host.log()[before:] if "liar" in line]
    assert len(lines) <= 3, lines


@pytest.mark.parametrize("name", LIES)
def test_lie(host, client, liar, name):
    liar.control.wait_up()
    before, sessions = len(host.log()), liar.control.n_sessions
    liar.control.raw(LIES[name](liar.control))
    assert client.ping("good", timeout=2) < 1_000_000
    host.wait_well("liar")
    if not liar.control.is_up or liar.control.n_sessions == sessions:
        # The session has outlived it: then it still works both ways.
        liar.control.wait_up(2)
    quiet(host, before)
    assert host.hostd.process.poll() is None


def flood(port, make, seconds, stop):
    """Sends what make() makes as fast as hostd takes it; (bytes, errors)."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end and not stop.is_set():
        try:
            port.wait_up(2)
            data = make(port)
            if port.raw(data, 2):
                n += len(data)
        except PeerError:
            pass
    return n


FLOODS = {
    "noise": lambda p: os.urandom(1 << 18),
    "answers to nothing": many(1000, REPLY, b'{"error":"Failed","message":"' + b"x" * 200 + b'"}', 4711),
    "pings": many(500, PING, b"12345678"),
    "notes": many(500, NOTIFY, json.dumps({"method": "process.exited", "id": "ab", "exit_status": 0}).encode()),
    "hellos": lambda p: frame(HELLO_REQ, b"{}") * 200,
    "unfinished": unfinished,
    "publish": lambda p: b"".join(
        p.next_frame(REQUEST, json.dumps({"method": "message.publish", "topic": "flood", "id": p.seq_out}).encode() + b"\0" + b"x" * 9000,
                     stream=p.seq_out + 1) for _ in range(50)),
    "calls": lambda p: b"".join(
        p.next_frame(REQUEST, b'{"method":"message.call","topic":"flood","id":1}', stream=p.seq_out + 1) for _ in range(200)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood(host, client, liar, name):
    """Two seconds as fast as it can: bounded memory, the other guest answers, and few words are lost on it."""
    before, rss, stop = len(host.log()), host.rss_kib(), threading.Event()
    thread = threading.Thread(target=flood, args=(liar.control, FLOODS[name], 2, stop))
    thread.start()
    slowest, n = 0, 0
    try:
        while thread.is_alive():
            start = time.monotonic()
            client.ping("good", timeout=2)
            slowest, n = max(slowest, time.monotonic() - start), n + 1
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
    assert slowest < 2, slowest  # on a machine that others use as well
    assert n > 0
    assert host.rss_kib() < rss + RSS_SLACK_KIB
    assert len(host.log()) - before < 20, host.log()[before:]
    liar.control.raw(frame(HELLO_REQ, b"{}"))
    host.wait_well("liar", 3)


def test_flood_is_held_back(host, client, liar):
    """A guest gets its share of hostd, however fast it writes: so many of its calls are answered, and no more."""
    before, stop = client.guest_properties("liar"), threading.Event()
    flood(liar.control, FLOODS["calls"], 3, stop)
    after = client.guest_properties("liar")
    assert 0 < after["RequestsRefused"] - before["RequestsRefused"] < 20_000
    assert after["HeldBack"] > before["HeldBack"]
    # It is served again as soon as it is moderate.
    liar.control.raw(frame(HELLO_REQ, b"{}"))
    host.wait_well("liar", 3)
    for _ in range(20):
        client.ping("liar", timeout=2)


ENDS = {"goodbye": lambda p: p.next_frame(BYE), "anew": lambda p: frame(HELLO_REQ, b"{}"),
        "out of order": lambda p: p.next_frame(PING, bytes(8), seq=99)}


@pytest.mark.parametrize("name", ENDS)
def test_sessions_without_end(host, client, liar, name):
    """One that ends each session as soon as it is there has to wait for the next, and nobody has to hear of thousands."""
    client.heard()  # what others have left behind
    since, before = time.monotonic(), liar.control.n_sessions
    flood(liar.control, ENDS[name], 3, threading.Event())
    assert liar.control.n_sessions - before <= 20
    changes = [args for at, _, signal, args in client.heard() if at > since and signal == "GuestStateChanged" and args[1] == "liar"]
    assert len(changes) < 100, len(changes)
    assert client.ping("good", timeout=2) < 1_000_000
    host.wait_well("liar", 10)


def test_never_reads(host, client, liar):
    """What is sent to a guest that doesn't read is bounded; callers are told, others served."""
    rss = host.rss_kib()
    liar.control.is_deaf = True
    time.sleep(0.1)
    send = GLib.Variant("(sssa{sv})", ("liar", "t", "x" * 60000, {}))
    for _ in range(300):  # 18 MiB
        client.connection.call(NAME, PATH, NAME + ".Manager", "Send", send, None, 0, 1000, None, None)
    client.connection.flush_sync(None)
    assert client.ping("good", timeout=2) < 1_000_000
    assert host.rss_kib() < rss + 64 * 1024
    eventually(lambda: client.state("liar") == "unresponsive", 15, "unresponsive")
    with pytest.raises(BusError) as e:
        client.ping("liar", timeout=5)
    assert e.value.name == "NotReady" and "liar" in e.value.message
    liar.control.is_deaf = False
    host.wait_well("liar", 12)  # it is asked at intervals: HELLO_REQ is what would hurry it


def test_mute_then_sense(host, client, liar):
    """A guest that only reads; then it says HELLO_REQ, and is back within two seconds."""
    liar.control.is_mute = True
    with pytest.raises(BusError) as e:
        client.ping("liar", timeout=20)
    assert e.value.name in ("Timeout", "Interrupted", "NotReady")
    liar.control.is_mute = False
    try:
        liar.control.hello_req()
    except PeerError:  # hostd was just connecting anew, and is greeted then
        pass
    host.wait_well("liar")


FACTS = {
    "other types": {"agent": [], "boot_id": 7, "capabilities": "exec", "facts": "x", "instance": {}},
    "null": {"agent": None, "boot_id": None, "capabilities": None, "facts": None},
    "controls": {"agent": "\x1b[2Jx", "facts": {"hostname": "a\nb\t\x07\x7f\x9b31m", "os_release": {"ID": "x\r\ny"}}},
    "order": {"facts": {"hostname": "abc\u202edef\u2028", "os_release": {"NAME": "\u2066x"}}},
    "noncharacters": {"facts": {"hostname": "a\U0001fffeb"}},
    "much": {"agent": "a" * 10000, "facts": {"hostname": "h" * 10000}},
    "many": {"capabilities": [f"c{i}" for i in range(1500)], "facts": {"os_release": {f"K{i}": "v" for i in range(800)}}},
    "odd keys": {"capabilities": ["", " ", "a b", "../x", 7, None, "ok"],
                 "facts": {"os_release": {"": "x", "a b": "y", "\n": "z", "OK": "1", "N": 5}}},
}


@pytest.mark.parametrize("name", FACTS)
def test_facts(host, client, liar, name):
    """What a guest says about itself is shown bounded and escaped, whatever it is; no reply is lost by it."""
    liar.hello = {**liar.hello, **FACTS[name]}
    liar.control.hello_req()
    eventually(lambda: client.guest_properties("liar")["AgentVersion"] != "guestpeer" or "agent" not in FACTS[name], 5)
    if name == "noncharacters":  # no JSON of ours: dropped, so it is as if nothing was said
        liar.hello.pop("facts")
        liar.control.hello_req()
    host.wait_well("liar", 5)
    shown = client.guest_properties("liar")
    texts = [shown[k] for k in ("AgentVersion", "BootId", "Hostname")] + shown["Capabilities"]
    texts += [s for pair in shown["OsRelease"].items() for s in pair]
    for text in texts:
        assert len(text) <= 256 and not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2028\u2066" for c in text), text
    assert len(shown["Capabilities"]) <= 32 and len(shown["OsRelease"]) <= 32
    assert all(c and " " not in c and "/" not in c for c in [*shown["Capabilities"], *shown["OsRelease"]])
    assert {g[0] for g in client.manager("ListGuests")} == {"good", "liar"}


@pytest.mark.parametrize("body", [b"\xff\xfe not utf-8", b"{", b"[]", b"x" * BODY_MAX, b"{}",
                                  b'{"version":1,"nonce":"00","echo":"zz"}'])
def test_handshake_of_nonsense(host, client, liar, body):
    """HELLO_ACK that is none: never ready, nothing shown; then a right one."""
    liar.hello_body = lambda ack: body
    liar.control.hello_req()
    time.sleep(0.3)
    assert client.state("liar") in ("connecting", "waiting")
    assert client.ping("good", timeout=2) < 1_000_000
    liar.hello_body = lambda ack: json.dumps(ack).encode()
    liar.control.hello_req()
    host.wait_well("liar")


@pytest.mark.parametrize("version", [0, 2, -1, 2**40])
def test_versions(host, client, liar, version):
    liar.hello = {**liar.hello, "version": version, "range": [2, 3]}
    liar.control.hello_req()
    eventually(lambda: client.state("liar") == "incompatible", 3, "incompatible")
    reason = client.guest_properties("liar")["StateReason"]
    assert "version" in reason, reason
    liar.hello.pop("version")
    liar.control.hello_req()
    host.wait_well("liar")


def test_journal_tells_why(host, client, liar):
    """The state that a guest has settled in, with its reason; those that only pass by are not worth a line."""
    def told(state):
        return [line for line in host.log()[before:] if f"liar: The guest is {state}: " in line]

    before = len(host.log())
    liar.hello = {**liar.hello, "version": 7, "range": [7, 7]}
    liar.control.hello_req()
    eventually(lambda: told("incompatible"), 10, "a line on why")
    assert all("version" in line for line in told("incompatible"))
    liar.hello.pop("version")
    liar.control.hello_req()
    eventually(lambda: told("ready"), 10, "a line on its return")
    assert len(told("incompatible")) == 1 and not told("connecting")


def test_replies_that_lie(host, client, liar):
    """What answers a caller's request is judged, and the caller gets words that can be shown."""
    def answer(body, payload=None):
        liar.serve["message.call"] = lambda port, ident, *_: port.reply(ident, body, payload)

    answer({"error": "NoSuchName", "message": "a\nb\x1b[31m\u202e"})
    with pytest.raises(BusError) as e:
        client.message("liar", "t", "x")
    assert e.value.name == "org.freedesktop.DBus.Error.Failed"
    assert not any(c in e.value.message for c in "\n\x1b\u202e")
    answer({"error": 7})
    with pytest.raises(BusError):
        client.message("liar", "t", "x")
    answer({"error": "Timeout", "message": "x" * 20000})
    with pytest.raises(BusError) as e:
        client.message("liar", "t", "x")
    assert e.value.name == "Timeout" and len(e.value.message) < 2000
    answer({}, b"\xff\xfe\0not text")
    assert client.message("liar", "t", "x").endswith("not text")  # text is for people
    path = client.guest_path("liar")
    reply = client.call(path, "org.vmferry1.Guest", "Call", "(saya{sv})", "t", b"", {})
    assert bytes(reply) == b"\xff\xfe\0not text"
    liar.serve.clear()
    host.wait_well("liar")


def test_outdated(host, liar):
    """A guest whose daemon is older than the host's is one to upgrade."""
    def listed(*options):
        return subprocess.run([built("src/cli/vmferry"), "--user", *options, "list"], capture_output=True, text=True,
                              env=host.hostd.env, check=True).stdout.splitlines()

    liar.hello["agent"] = "0.0.9"
    liar.control.hello_req()
    eventually(lambda: any("0.0.9 (outdated)" in line and line.startswith("liar ") for line in listed()), 10, "its mark")
    found = {guest["Name"]: guest["Outdated"] for guest in map(json.loads, listed("--json"))}
    assert found == {"good": False, "liar": True}
