# SPDX-License-Identifier: LGPL-2.1-or-later
"""The durable queue: for a guest that is off, over kill -9 of hostd and restarts of the guest."""

import time

import pytest

from lab.bus import BusError
from lab.need import eventually

N = 100


@pytest.fixture
def off(lab, vm):
    """The machine, switched off; it is on again afterwards."""
    vm.destroy()
    lab.wait_state("lab", "off")
    yield vm
    if lab.client.state("lab") == "off":
        vm.start()
    lab.client.wait_ready("lab", 90)


def started(lab, vm):
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


def test_not_ready_without_queue(client, off):
    with pytest.raises(BusError) as e:
        client.message("lab", "append", "x", method="Send")
    assert e.value.name == "NotReady"


def test_hundred_survive_kill(lab, client, off, tmp_path):
    source = tmp_path / "file"
    source.write_text("pushed")
    source.chmod(0o644)
    tmp_path.chmod(0o755)
    for i in range(N):
        if i % 5 == 4:
            client.push("lab", str(source), f"/run/pushed-{i}", queue=True)
            continue
        if i % 2:
            assert client.message("lab", "append", f"{i}", method="Send", queue=True) > 0
        else:
            assert queue_run(client, f"echo {i} >> /run/ran; sync") == (0, "", "")
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
    ran = [i for i in range(N) if i % 5 != 4 and i % 2 == 0]
    sent = [i for i in range(N) if i % 5 != 4 and i % 2]
    assert [int(line) for line in lines(client, "/run/ran")] == ran
    eventually(lambda: len(lines(client, "/run/appended")) >= len(sent), 10, "the messages")
    assert sorted(int(line) for line in lines(client, "/run/appended")) == sent
    for i in range(4, N, 5):
        assert client.run("lab", "cat", f"/run/pushed-{i}")[1] == "pushed"


def test_ids_are_jobs(lab, client, off):
    """An item is a job with the same id after a restart, and can be waited for."""
    job_id, path = client.push("lab", "/etc/hostname", "/run/host-name", queue=True)
    properties = client.job_properties(path)
    assert (properties["State"], properties["Kind"]) == ("queued", "push")
    lab.hostd.restart()
    assert client.job_properties(path)["State"] == "queued"
    started(lab, off)
    assert client.done((job_id, path))["State"] == "done"


def test_exit_status_is_the_jobs(lab, client, off):
    queue_run(client, "exit 7")
    (job_id, kind, description, queued_at, expires_at), = queue(client)
    assert kind == "exec" and "exit 7" in description and abs(queued_at / 1e6 - time.time()) < 60 < expires_at / 1e6
    path = f"/org/vmferry1/job/{job_id}"
    started(lab, off)
    assert client.done((job_id, path))["State"] == "done"
    assert client.get(path, "org.vmferry1.Process", "ExitStatus") == 7


def test_failed_item_holds_up_nobody(lab, client, off):
    bad, bad_path = client.push("lab", "/nonexistent/file", "/run/never", queue=True)
    good, good_path = client.push("lab", "/etc/hostname", "/run/after", queue=True)
    started(lab, off)
    assert client.failed((bad, bad_path)) == "NotFound"
    client.done((good, good_path))


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


def test_ready_guest_gets_it_now(lab, client, vm):
    client.wait_ready("lab", 60)
    client.done(client.push("lab", "/etc/hostname", "/run/now", queue=True))
    eventually(lambda: length(client) == 0, 10, "the end of the queue")


@pytest.mark.parametrize("call", [
    lambda c: c.pull("lab", "/etc/hostname", "/tmp/x", queue=True),
    lambda c: c.run("lab", "cat", queue=True, stdin=b"x"),
], ids=["pull", "stdin"])
def test_not_queued(client, vm, call):
    with pytest.raises(BusError) as e:
        call(client)
    assert e.value.name == "Unsupported"


def test_bounds(lab, client, vm):
    lab.hostd.configure(f"ConnectUri={lab.libvirtd.uri}\nMaxQueuedPerGuest=3\n")
    lab.hostd.restart()
    vm.destroy()
    lab.wait_state("lab", "off")
    try:
        for _ in range(3 - length(client)):
            client.message("lab", "append", "bound", method="Send", queue=True)
        with pytest.raises(BusError) as e:
            client.message("lab", "append", "one more", method="Send", queue=True)
        assert e.value.name == "LimitsExceeded"
    finally:
        lab.hostd.configure(f"ConnectUri={lab.libvirtd.uri}\n")
        lab.hostd.restart()
        started(lab, vm)


def test_command(lab, client, off):
    r = lab.vmferry("send", "--queue", "--ttl", "60", "lab", "append", "typed", check=True)
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
    assert r.returncode == 0


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
