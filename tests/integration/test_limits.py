# SPDX-License-Identifier: LGPL-2.1-or-later
"""Callers have limits: the one past it is told which, nobody else is, and there is room again when something has ended."""

import os
import signal

import pytest
from conftest import Host
from guestpeer import PeerError

from lab.bus import NAME, PATH, BusError, GLib, options
from lab.need import eventually

CONFIG = "MaxCallsPerGuest=4\nMaxJobs=3\nMaxQueuedPerGuest=2\nMaxTransfersPerGuest=1\n"


@pytest.fixture(scope="module")
def host():
    host = Host(peers=("good", "liar"), domains={"off": ""}, config=CONFIG)
    yield host
    host.end()


def many(client, n, method, signature, *arguments):
    """n calls at once; [reply or the error's message]."""
    results, context = [], GLib.MainContext.default()

    def on_reply(connection, result):
        try:
            results.append(connection.call_finish(result).unpack())
        except GLib.Error as error:
            results.append(error.message)

    for _ in range(n):
        client.connection.call(NAME, PATH, NAME + ".Manager", method, GLib.Variant(signature, arguments), None, 0, 30000, None,
                               on_reply)
    while len(results) < n:
        context.iteration(True)
    return results


def test_calls(host, client):
    late = []
    host.peers["liar"].serve["message.call"] = lambda port, ident, *_: late.append((port, ident))
    client.connection.call(NAME, PATH, NAME + ".Manager", "Ping", GLib.Variant("(s)", ("good",)), None, 0, 1000, None, None)
    results = many(client, 10, "Call", "(sssa{sv})", "liar", "t", "x", options(timeout=1_000_000))
    refused = [r for r in results if "LimitsExceeded" in r]
    assert len(refused) == 6 and all("MaxCallsPerGuest=" in r and "liar" in r for r in refused), results
    assert client.message("good", "echo", "x") == "x"
    host.peers["liar"].serve.clear()
    assert client.message("liar", "echo", "again") == "again"


def test_messages_that_the_bus_does_not_read(host, client):
    """What is in hostd's own memory only is not answered; what was answered arrives, and the rest is answered when the bus reads."""
    peer, n_answered = host.peers["good"].control, 0
    os.kill(host.bus.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(PeerError):
            for _ in range(300):  # far more than a socket takes
                assert not peer.request("message.publish", b"x" * 60000, timeout=2, topic="unread", id=1000 + n_answered)[0]
                n_answered += 1
    finally:
        os.kill(host.bus.process.pid, signal.SIGCONT)
    assert n_answered > 0
    eventually(lambda: peer.last_request in peer.replies, 20, "the answer")
    for i in range(n_answered + 1):
        client.wait_signal(lambda path, name, args, i=i: path == PATH and name == "MessageReceived" and args[4] == 1000 + i)
    client.signals.clear()


def test_jobs(host, client):
    """Three pulls that do not end: the fourth is refused, and one that is cancelled makes room."""
    liar = host.peers["liar"]
    liar.opens["pull"] = lambda port, s: None
    started = [client.pull("liar", f"/f{i}", "/tmp/never") for i in range(3)]
    with pytest.raises(BusError) as e:
        client.pull("good", "/f", "/tmp/never")
    assert e.value.name == "LimitsExceeded" and "MaxJobs=" in e.value.message
    assert client.get(PATH, NAME + ".Manager", "JobCount") == 3
    client.job(started[0][1], "Cancel")
    client.wait_job(started[0][1], 10)
    fourth = client.pull("good", "/f", "/tmp/never")
    for _, path in [*started[1:], fourth]:
        client.job(path, "Cancel")
        client.wait_job(path, 10)
    liar.opens.clear()


def test_queued(host, client):
    path = client.guest_path("off")
    for i in range(2):
        client.message("off", "t", f"{i}", method="Send", queue=True)
    with pytest.raises(BusError) as e:
        client.message("off", "t", "x", method="Send", queue=True)
    assert e.value.name == "LimitsExceeded" and "MaxQueuedPerGuest=" in e.value.message
    assert client.get(path, NAME + ".Guest", "QueueLength") == 2


def test_queued_behind_a_limit(host, client):
    """An item that has not got a place yet keeps its time."""
    liar, asked = host.peers["liar"], []
    liar.serve["message.call"] = lambda port, ident, *_: asked.append(ident)
    call = GLib.Variant("(sssa{sv})", ("liar", "t", "x", options(timeout=60_000_000)))
    for _ in range(4):
        client.connection.call(NAME, PATH, NAME + ".Manager", "Call", call, None, 0, 60000, None, None)
    client.connection.flush_sync(None)
    eventually(lambda: len(asked) == 4, 10, "four calls")
    job = client.message("liar", "t", "x", method="Send", queue=True, ttl=1_500_000)
    assert client.failed((0, f"/org/vmferry1/job/{job}"), 15) == "Timeout"
    liar.serve.clear()
    for ident in asked:
        liar.control.reply(ident)
