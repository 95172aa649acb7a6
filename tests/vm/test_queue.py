# SPDX-License-Identifier: LGPL-2.1-or-later
"""The durable queue: for a guest that is off, over kill -9 of hostd, of guestd, and resets of the guest."""

import os
import time

import pytest

from lab.bus import BusError
from lab.need import eventually

N = 100


@pytest.fixture
def off(lab, vm):
    """The machine, switched off, and nothing in its queue. Who needs it on starts it: a boot takes long."""
    if lab.client.state("lab") != "off":
        vm.destroy()
    lab.wait_state("lab", "off")
    for item in queue(lab.client):
        lab.client.manager("DropQueued", "(u)", item[0])
    return vm


def started(lab, vm):
    if lab.client.state("lab") == "off":
        vm.start()
    lab.client.wait_ready("lab", 90)


def queue(client):
    return client.manager("ListQueue", "(s)", "lab")


def length(client):
    return client.get(client.guest_path("lab"), "org.vmferry1.Guest", "QueueLength")


def lines(client, path):
    return client.run("lab", "cat", path)[1].splitlines()


def queue_run(client, command, **opts):
    return client.run("lab", "sh", "-c", command, queue=True, **opts)


GUESTD = "$(pidof vmferry-guestd | tr ' ' '\\n' | sort -n | head -n 1)"


def test_not_ready_without_queue(client, off):
    with pytest.raises(BusError) as e:
        client.message("lab", "append", "x", method="Send")
    assert e.value.name == "NotReady"


def test_key_makes_it_once(lab, client, off):
    first = client.message("lab", "append", "keyed", method="Send", queue=True, key="order-17")
    assert client.message("lab", "append", "keyed", method="Send", queue=True, key="order-17") == first
    assert client.message("lab", "append", "keyed", method="Send", queue=True, key="order-18") != first
    lab.hostd.restart()
    assert client.message("lab", "append", "keyed", method="Send", queue=True, key="order-17") == first
    assert length(client) == 2


def test_drop(lab, client, off):
    job_id, path = client.push("lab", "/etc/hostname", "/run/dropped", queue=True)
    client.manager("DropQueued", "(u)", job_id)
    assert job_id not in [item[0] for item in queue(client)]
    assert client.job_properties(path)["State"] == "cancelled"
    with pytest.raises(BusError) as e:
        client.manager("DropQueued", "(u)", job_id)
    assert e.value.name == "NotFound"
    lab.hostd.restart()
    assert job_id not in [item[0] for item in queue(client)]


def test_command(lab, client, off):
    lab.vmferry("send", "--queue", "--ttl", "60", "lab", "append", "typed", check=True)
    listed = lab.vmferry("queue", "lab", check=True).stdout
    assert "append" in listed
    job_id = queue(client)[-1][0]
    assert str(job_id) in listed
    assert f'"id":{job_id}' in lab.vmferry("--json", "queue", "lab", check=True).stdout
    lab.vmferry("queue", "lab", "drop", str(job_id), check=True)
    assert job_id not in [item[0] for item in queue(client)]
    assert lab.vmferry("queue", "lab", "drop", str(job_id)).returncode == 1
    assert lab.vmferry("queue", "lab", "drop", "x").returncode == 2
    assert lab.vmferry("queue", "nobody").returncode == 1


def test_not_queued(client, off):
    with pytest.raises(BusError) as e:
        client.run("lab", "cat", queue=True, stdin=b"x")
    assert e.value.name == "Unsupported"


def test_bounds(lab, client, off):
    lab.hostd.configure(f"ConnectUri={lab.libvirtd.uri}\nMaxQueuedPerGuest=3\n")
    lab.hostd.restart()
    try:
        for _ in range(3):
            client.message("lab", "append", "bound", method="Send", queue=True)
        for more in (lambda: client.message("lab", "append", "one more", method="Send", queue=True),
                     lambda: queue_run(client, "true"),
                     lambda: client.push("lab", "/etc/hostname", "/run/more", queue=True)):
            with pytest.raises(BusError) as e:
                more()
            assert e.value.name == "LimitsExceeded" and "MaxQueuedPerGuest" in e.value.message
        assert length(client) == 3
    finally:
        lab.hostd.configure(f"ConnectUri={lab.libvirtd.uri}\n")
        lab.hostd.restart()


def test_hundred_survive_kill(lab, client, off, tmp_path):
    source = tmp_path / "file"
    source.write_text("pushed")
    source.chmod(0o644)
    tmp_path.chmod(0o755)
    # Whatever the kind: each that can leaves its number, in one file, when it is carried out.
    for i in range(N):
        if i % 5 == 0:
            assert client.message("lab", "append", f"{i}", method="Send", queue=True) > 0
        elif i % 5 == 1:
            assert queue_run(client, f"echo {i} >> /run/appended") == (0, "", "")
        elif i % 5 == 2:
            assert client.message("lab", "append", f"{i}", method="Call", queue=True) == ""
        elif i % 5 == 3:
            client.push("lab", str(source), f"/run/pushed-{i}", queue=True)
        else:
            queue_run(client, f"mv /run/pushed-{i - 1} /run/found-{i - 1} && echo {i} >> /run/appended")
        if i % 25 == 20:
            lab.hostd.restart()
    before = queue(client)
    assert len(before) == N and length(client) == N
    assert [item[0] for item in before] == sorted(item[0] for item in before)
    lab.hostd.restart()
    assert queue(client) == before
    started(lab, off)
    # Once more while they are carried out.
    eventually(lambda: length(client) < N - 5, 30, "the first items")
    lab.hostd.restart()
    client.wait_ready("lab", 30)
    eventually(lambda: length(client) == 0, 120, "the end of the queue")
    assert [int(line) for line in lines(client, "/run/appended")] == [i for i in range(N) if i % 5 != 3]
    for i in range(3, N, 5):
        assert client.run("lab", "cat", f"/run/found-{i}")[1] == "pushed"
        assert client.run("lab", "ls", f"/run/pushed-{i}")[0] != 0


def test_items_are_jobs(lab, client, off):
    """With an id that outlives hostd, that can be waited for, and with a result; a failure holds up nobody."""
    job_id, path = client.push("lab", "/etc/hostname", "/run/host-name", queue=True)
    properties = client.job_properties(path)
    assert (properties["State"], properties["Kind"]) == ("queued", "push")
    lab.hostd.restart()
    assert client.job_properties(path)["State"] == "queued"
    bad = client.push("lab", "/nonexistent/file", "/run/never", queue=True)
    queue_run(client, "exit 7")
    (run_id, kind, description, queued_at, expires_at) = queue(client)[-1]
    assert kind == "exec" and "exit 7" in description and abs(queued_at / 1e6 - time.time()) < 60 < expires_at / 1e6
    run_path = f"/org/vmferry1/job/{run_id}"
    client.message("lab", "fail", "", method="Send", queue=True)
    send_id = queue(client)[-1][0]
    good = client.push("lab", "/etc/hostname", "/run/after", queue=True)
    back = client.pull("lab", "/run/after", lab.scratch("back"), queue=True)
    started(lab, off)
    assert client.done((job_id, path))["State"] == "done"
    assert client.failed(bad) == "NotFound"
    assert client.done((run_id, run_path))["State"] == "done"
    assert client.get(run_path, "org.vmferry1.Process", "ExitStatus") == 7
    assert client.failed((send_id, f"/org/vmferry1/job/{send_id}")).endswith(".Failed")
    client.done(good)
    client.done(back)
    with open("/etc/hostname") as a, open(lab.scratch("back")) as b:
        assert a.read() == b.read()


def test_ttl_runs_out(lab, client, off):
    job_id, path = client.push("lab", "/etc/hostname", "/run/late", queue=True, ttl=1_500_000)
    kept, kept_path = client.push("lab", "/etc/hostname", "/run/kept", queue=True)
    assert client.failed((job_id, path), 10) == "Timeout"
    assert [item[0] for item in queue(client)] == [kept]
    assert f"Queued item {job_id}" in lab.place.log("hostd")
    # It also runs out while hostd is away.
    job_id, path = client.push("lab", "/etc/hostname", "/run/late", queue=True, ttl=1_000_000)
    lab.hostd.kill()
    time.sleep(1.5)
    lab.hostd.start()
    assert client.failed((job_id, path), 10) == "Timeout"
    started(lab, off)
    client.done((kept, kept_path))
    assert client.run("lab", "ls", "/run/late")[0] != 0


def test_once_and_in_order_whatever_happens(lab, client, off, tmp_path):
    """The guest is reset in the middle of the first item; guestd dies when others are done and nobody knows yet."""
    size = 96 << 20
    source = tmp_path / "big"
    source.write_bytes(os.urandom(size))
    source.chmod(0o644)
    tmp_path.chmod(0o755)
    big = client.push("lab", str(source), "/srv/big", queue=True)
    queue_run(client, "stat -c %s /srv/big > /run/appended")
    client.message("lab", "mortal", "sent\n", method="Send", queue=True)
    queue_run(client, f"echo ran >> /run/appended; kill -9 {GUESTD}; sleep 1; echo on >> /run/appended")
    client.message("lab", "mortal", "called\n", method="Call", queue=True)
    last = client.push("lab", "/etc/hostname", "/run/last", queue=True)
    started(lab, off)
    eventually(lambda: client.job_properties(big[1])["BytesDone"] > size // 20, 60, "a part of the first item")
    off.reset()
    client.done(big)
    client.done(last)
    assert length(client) == 0
    assert lines(client, "/run/appended") == [str(size), "sent", "ran", "on", "called"]


def test_process_of_an_item(lab, client, off):
    """What can be asked of a command from the queue, before and while it runs."""
    queue_run(client, "sleep 2791")
    (job_id, *_), = queue(client)
    path = f"/org/vmferry1/job/{job_id}"

    def asked(method, signature, *args):
        with pytest.raises(BusError) as e:
            client.call(path, "org.vmferry1.Process", method, signature, *args)
        return e.value.name

    assert asked("Kill", "(i)", 15)
    started(lab, off)
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 0, 20, "the command")
    assert asked("Resize", "(qq)", 1, 1) == "Unsupported"
    assert asked("Attach", "(a{sv})", {}) == "Unsupported"
    client.call(path, "org.vmferry1.Process", "Kill", "(i)", 9)
    assert client.wait_job(path)["State"] == "done"
    assert client.get(path, "org.vmferry1.Process", "ExitSignal") == 9


def test_ready_guest_gets_it_now(lab, client, vm):
    started(lab, vm)
    client.done(client.push("lab", "/etc/hostname", "/run/now", queue=True))
    eventually(lambda: length(client) == 0, 10, "the end of the queue")
