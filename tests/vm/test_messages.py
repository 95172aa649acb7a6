# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages both ways: handlers and local programs in the guest, topics of host programs."""

import os
import subprocess
import threading
import time

import pytest

from lab.bus import BusError, Client
from lab.need import built, eventually


def test_order_of_sends(client, vm):
    """One handler a message, none lost."""
    client.run("lab", "sh", "-c", "rm -f /run/note")
    for i in range(20):
        client.message("lab", "note", f"message {i}", method="Send")
    eventually(lambda: client.run("lab", "cat", "/run/note")[1].startswith("message"), 10, "the note")


def test_many_calls_at_once(lab, vm):
    wrong = []

    def work(n):
        own = Client(lab.bus.address)
        for i in range(10):
            text = f"{n}-{i}"
            if own.message("lab", "echo", text) != text:
                wrong.append(text)
        own.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


def test_guest_publishes(lab, client, vm):
    since = time.monotonic()
    assert client.run("lab", "vmferry-guestd", "send", "news", "from the guest")[0] == 0
    for path in "/org/vmferry1", client.guest_path("lab"):
        _, _, args = client.wait_signal(
            lambda at, signal, args, path=path: at == path and signal == "MessageReceived" and "news" in args, since=since)
        assert b"from the guest" in [bytes(a) for a in args if isinstance(a, (list, bytes))]


def test_published_while_host_is_away(lab, client, vm):
    """Kept in the guest until a host is there again, in order, each once."""
    client.run("lab", "sh", "-c",
               "(sleep 3; for i in 1 2 3 4 5; do vmferry-guestd send kept $i; done; touch /run/kept) >/dev/null 2>&1 &")
    lab.hostd.stop()
    time.sleep(6)
    since = time.monotonic()
    lab.hostd.start()
    client.wait_ready("lab", 20)

    def got():
        try:
            client.wait_signal(lambda *_: False, timeout=0.2)
        except AssertionError:
            pass
        return [bytes(a[3]).decode() for t, path, s, a in client.signals
                if t >= since and s == "MessageReceived" and path == "/org/vmferry1" and a[2] == "kept"]

    eventually(lambda: len(got()) >= 5, 10, "five messages")
    assert list(dict.fromkeys(got())) == ["1", "2", "3", "4", "5"]


def test_listen(lab, client, vm):
    """A program in the guest subscribes to a topic."""
    client.run("lab", "sh", "-c", "vmferry-guestd listen heard >/run/heard 2>&1 & echo $! >/run/heard.pid")

    def heard():
        try:
            client.message("lab", "heard", "hello listener", method="Send")
        except BusError as e:
            assert e.name == "NoHandler"  # it has not subscribed yet
        return "hello listener" in client.run("lab", "cat", "/run/heard")[1]

    eventually(heard, 10, "the listener", every=0.3)
    client.run("lab", "sh", "-c", "kill $(cat /run/heard.pid)")


def test_guest_calls_are_forbidden(client, vm):
    """Nothing is allowed by default."""
    status, _, err = client.run("lab", "vmferry-guestd", "call", "time", "x")
    assert status != 0 and err.strip()


def test_limit_of_payload(client, vm):
    payload = os.urandom(65536)
    assert bytes(client.guest("lab", "Call", "(saya{sv})", "echo", payload, {})) == payload
    for n in 65537, 1 << 20:
        with pytest.raises(BusError) as e:
            client.guest("lab", "Call", "(saya{sv})", "echo", b"x" * n, {})
        assert e.value.name == "TooLarge"
    client.ping("lab")


def test_command(lab, vm):
    assert lab.vmferry("call", "lab", "upper", "typed", check=True).stdout.strip() == "TYPED"
    assert lab.vmferry("call", "lab", "upper", "-", input="piped", check=True).stdout.strip() == "PIPED"
    r = lab.vmferry("call", "lab", "nothing", "x")
    assert r.returncode == 1 and r.stderr.count("\n") == 1
    lab.vmferry("send", "lab", "note", "typed", check=True)


def test_monitor(lab, client, vm):
    process = subprocess.Popen([built("src/cli/vmferry"), "--user", "monitor"], stdout=subprocess.PIPE, text=True,
                               env=lab.hostd.env)
    try:
        time.sleep(1)
        client.run("lab", "vmferry-guestd", "send", "seen", "by the monitor")
        vm.suspend()
        lab.wait_state("lab", "paused")
        vm.resume()
        lab.wait_state("lab", "ready")
        time.sleep(0.5)
    finally:
        process.terminate()
    text = process.communicate(timeout=10)[0]
    assert "seen" in text and "by the monitor" in text
    assert "paused" in text and "ready" in text
