# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages both ways: handlers and local programs in the guest, topics of host programs."""

import os
import subprocess
import threading
import time

import pytest

from lab.bus import BusError, Client, GLib, options
from lab.need import SOURCE, built, eventually
from lab.programs import python

CONFIG = "AllowGuestCall=time:lab asked-*:other\nMaxMessagesPerSecond=2000\n"

# In the guest: publishes N messages and says how many got an id, each higher than the one before.
PUBLISHER = """
import json, socket, sys
n = int(sys.argv[1])
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/vmferry/guestd.sock")
lines = sock.makefile("r")
answered = last = 0
for first in range(0, n, 100):
    sock.sendall(b"".join(b'{"method":"publish","topic":"flood","text":"%d"}\\n' % i for i in range(first, min(first + 100, n))))
    for _ in range(min(100, n - first)):
        answer = json.loads(next(lines))
        assert answer["id"] > last, answer
        last = answer["id"]
        answered += 1
print(answered)
"""

# In the guest: reads until N different texts have come, and says whether the ids only went up.
SUBSCRIBER = """
import json, socket, sys
n = int(sys.argv[1])
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/vmferry/guestd.sock")
sock.sendall(b'{"method":"subscribe","topic":"sink"}\\n')
texts, last, ordered = set(), 0, True
for line in sock.makefile("r"):
    event = json.loads(line)
    if event.get("event") == "message":
        ordered &= event["id"] > last
        last = event["id"]
        texts.add(event["text"])
        if len(texts) == n:
            break
    else:
        open("/run/subscribed", "w").close()
open("/run/sunk", "w").write(f"{len(texts)} {ordered}")
"""


@pytest.fixture(scope="module")
def lab(bare_lab):
    bare_lab.start_hostd(CONFIG)
    return bare_lab


@pytest.fixture(scope="module")
def vm(lab):
    """With Python, and with a syslogd: an emulated serial console is no place for a line a message."""
    domain = lab.domain("lab", lab.image("python", files=python(lab.place)))
    lab.client.wait_ready("lab", 120)
    assert lab.client.run("lab", "syslogd", "-O", "/dev/null")[0] == 0
    return domain


def give(lab, name, text):
    """A file for the guest."""
    path = lab.scratch(name)
    with open(path, "w") as file:
        file.write(text)
    lab.client.done(lab.client.push("lab", path, f"/tmp/{name}"))
    return f"/tmp/{name}"


def test_order_of_sends(client, vm):
    """One handler a message, none lost."""
    client.run("lab", "sh", "-c", "rm -f /run/note")
    for i in range(10):  # no more than may be handled at once
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
    for topic in "secret", "asked-something":
        status, _, err = client.run("lab", "vmferry-guestd", "call", topic, "x")
        assert status != 0 and "PermissionDenied" in err, err
    # Allowed, and nobody is there.
    status, _, err = client.run("lab", "vmferry-guestd", "call", "time", "x")
    assert status != 0 and "NoHandler" in err, err


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


def test_example_service_of_the_guest(lab, client, vm):
    with open(os.path.join(SOURCE, "examples/guest-service.py")) as file:
        path = give(lab, "guest-service.py", file.read())
    job = lab.vmferry("exec", "--detach", "lab", "--", "python3", path, check=True).stdout.strip()
    try:
        def answered():
            try:
                return client.message("lab", "disk-free", "/tmp")
            except BusError as e:
                assert e.name == "NoHandler"  # it has only begun

        assert int(eventually(answered, 20, "its answer")) > 1 << 20
        with pytest.raises(BusError) as e:
            client.message("lab", "disk-free", "/no/such/path")
        assert "No such file" in e.value.message
        since = time.monotonic()
        client.message("lab", "disk-watch", "/tmp", method="Send")
        client.wait_signal(lambda at, signal, args: signal == "MessageReceived" and "disk-free" in args, since=since)
    finally:
        lab.vmferry("cancel", job)
    eventually(lambda: lab.vmferry("call", "lab", "disk-free").returncode == 1, 10, "its end")


def test_example_service_of_the_host(lab, client, vm):
    service = subprocess.Popen(["/usr/bin/python3", os.path.join(SOURCE, "examples/host-service.py"), "--user"],
                               stdout=subprocess.PIPE, text=True, env=lab.hostd.env)
    try:
        status, out, err = eventually(
            lambda: (lambda r: r if r[0] == 0 else None)(client.run("lab", "vmferry-guestd", "call", "time", "please")), 15,
            "the host's time", every=0.3)
        assert out.strip().endswith("+00:00"), (out, err)
        # Another program cannot have the topic.
        with pytest.raises(BusError) as e:
            client.manager("RegisterTopic", "(s)", "time")
        assert e.value.name == "Exists"
    finally:
        service.terminate()
        assert "lab asks: b'please'" in service.communicate(timeout=10)[0]
    # It has left the bus, and with it the topic.
    eventually(lambda: "NoHandler" in client.run("lab", "vmferry-guestd", "call", "time", "x")[2], 5, "the end of the topic")


def test_errors_say_which_topic_of_which_guest(lab, client, vm):
    for topic, opts, name in ("nothing", {}, "NoHandler"), ("fail", {}, None), ("slow", {"timeout": 300_000}, "Timeout"):
        with pytest.raises(BusError) as e:
            client.message("lab", topic, "x", **opts)
        assert topic in e.value.message and e.value.message.count("uest lab") == 1, e.value.message
        assert name in (None, e.value.name)
    r = lab.vmferry("call", "lab", "nothing", "x")
    assert "handlers.d/nothing" in r.stderr and r.stderr.count("\n") == 1


def test_handler_that_never_ends(lab, client, vm):
    started = time.monotonic()
    with pytest.raises(BusError) as e:
        client.message("lab", "slow", "x", timeout=1_000_000)
    assert e.value.name == "Timeout" and time.monotonic() - started < 8
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 1, 15, "the end of its process")


def test_handlers_gone_wrong(lab, client, vm):
    client.run("lab", "sh", "-c", """cd /etc/vmferry/handlers.d
        printf '#!/bin/sh\\nexec head -c 1000000000 /dev/zero\\n' >huge
        printf '#!/bin/sh\\nexec <&-; echo deaf\\n' >deaf
        printf 'no program' >plain; chmod 755 huge deaf""")
    with pytest.raises(BusError) as e:
        client.message("lab", "huge", "x")
    assert e.value.name == "TooLarge"
    assert client.message("lab", "deaf", "x" * 60000) == "deaf\n"
    with pytest.raises(BusError) as e:
        client.message("lab", "plain", "x")
    assert e.value.name == "PermissionDenied"
    for topic, name in ("a/b", "org.freedesktop.DBus.Error.InvalidArgs"), ("x" * 10240, "TooLarge"), ("no-such", "NoHandler"):
        with pytest.raises(BusError) as e:
            client.message("lab", topic, "x")
        assert e.value.name == name
    eventually(lambda: client.run("lab", "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status")[1] == "", 10, "no zombies")


def send_all(lab, n):
    """Many one-way messages by one program, 32 under way at once; one that the guest had no room for is sent again."""
    client = Client(lab.bus.address)
    path = client.guest_path("lab")
    todo, under_way, failed = list(range(n - 1, -1, -1)), 0, []
    context = GLib.MainContext.default()

    def done(connection, result, i):
        nonlocal under_way
        under_way -= 1
        try:
            connection.call_finish(result)
        except GLib.Error as error:
            if "LimitsExceeded" in error.message:
                todo.append(i)
                time.sleep(0.01)
            else:
                failed.append(error.message)

    while (todo or under_way) and not failed:
        while todo and under_way < 32:
            i = todo.pop()
            under_way += 1
            client.connection.call("org.vmferry1", path, "org.vmferry1.Guest", "Send",
                                   GLib.Variant("(saya{sv})", ("sink", str(i).encode(), options())), None, 0, 60000, None, done, i)
        context.iteration(True)
    client.close()
    assert not failed, failed


def test_flood_both_ways(lab, client, vm, request):
    """None is lost and their ids only go up, while a transfer has the data port. --messages=100000 is the whole of it."""
    n = request.config.getoption("--messages")
    publisher, subscriber = give(lab, "publisher.py", PUBLISHER), give(lab, "subscriber.py", SUBSCRIBER)
    big = lab.scratch("big")
    with open(big, "wb") as file:
        file.write(os.urandom(100 << 20))
    client.run("lab", "rm", "-f", "/run/subscribed", "/run/sunk")
    lab.vmferry("exec", "--detach", "lab", "--", "python3", subscriber, str(n), check=True)
    eventually(lambda: client.run("lab", "test", "-e", "/run/subscribed")[0] == 0, 30, "the subscriber")

    over, transfers, pings = threading.Event(), [], []

    def keep_busy():
        own = Client(lab.bus.address)
        while not over.is_set():
            transfers.append(own.done(own.push("lab", big, "/tmp/big"))["BytesDone"])
        own.close()

    def keep_asking():
        own = Client(lab.bus.address)
        while not over.wait(0.05):
            pings.append(own.ping("lab"))
        own.close()

    threads = [threading.Thread(target=work) for work in (keep_busy, keep_asking)]
    since = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        flood = subprocess.Popen([built("src/cli/vmferry"), "--user", "exec", "lab", "--", "python3", publisher, str(n)],
                                 stdout=subprocess.PIPE, text=True, env=lab.hostd.env)
        send_all(lab, n)
        sent_after = time.monotonic() - since
        assert flood.communicate(timeout=3600)[0].strip() == str(n)
        assert eventually(lambda: client.run("lab", "cat", "/run/sunk")[1], 60, "the last message", every=0.5) == f"{n} True"
    finally:
        over.set()
        for thread in threads:
            thread.join()

    def arrived():
        try:
            client.wait_signal(lambda *_: False, timeout=0.1)
        except AssertionError:
            pass
        return [args for at, path, signal, args in client.signals
                if at >= since and path == "/org/vmferry1" and signal == "MessageReceived" and args[2] == "flood"]

    eventually(lambda: len(arrived()) >= n, 120, "the last message of the guest")
    messages = arrived()
    assert [int(bytes(m[3])) for m in messages] == list(range(n))
    assert all(a[4] < b[4] for a, b in zip(messages, messages[1:]))
    assert transfers
    pings.sort()
    print(f"{n} messages each way in {sent_after:.0f} and {time.monotonic() - since:.0f} s, {len(transfers)} transfers of 100 MiB; "
          f"ping median {pings[len(pings) // 2]} us, p99 {pings[len(pings) * 99 // 100]} us of {len(pings)}")
