# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whoever dies during a transfer: the same job goes on, ends with the right bytes, and hardly any are sent twice.

What was sent is what the guest's BytesSent or BytesReceived have grown by. For hostd's own end to be counted to the byte, QEMU
stands still from the last reading until hostd is gone: what is under way then stays under way.
"""

import hashlib
import os
import random
import signal
import time

import pytest

from lab.need import eventually

TWICE = 0.05  # of 1 GiB, killed 20 times; of less as much for each kill
WHO = "reset", "guestd", "hostd"


@pytest.fixture(scope="module")
def vm(lab):
    return lab.domain_with_disk("lab")


@pytest.fixture(scope="module")
def n_kills(request):
    return request.config.getoption("--rounds") or (3 if request.config.getoption("--quick") else 20)


@pytest.fixture(scope="module")
def source(lab, n_kills):
    """1 GiB where it is killed 20 times."""
    path = lab.scratch("interrupted")
    with open(path, "wb") as file:
        for _ in range(max(192, n_kills * 1024 // 20)):
            file.write(os.urandom(1 << 20))
    yield path
    os.unlink(path)


@pytest.fixture
def chance():
    seed = int(os.environ.get("VMFERRY_SEED") or time.time())
    print(f"VMFERRY_SEED={seed}")
    return random.Random(seed)


class Meter:
    """Bytes on the ports, over the lives of hostd."""

    def __init__(self, lab, vm, push):
        self.lab, self.vm = lab, vm
        self.key = "BytesSent" if push else "BytesReceived"
        self.total = -self.now()

    def now(self):
        return self.lab.client.guest_properties("lab")[self.key]

    def _at_rest(self):
        before = self.now()
        time.sleep(0.05)
        return self.now() == before

    def kill_hostd(self):
        pid = self.vm.qemu_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(self._at_rest, 10, "no more bytes")
            self.total += self.now()
            self.lab.hostd.process.kill()
            self.lab.hostd.process.wait()
        finally:
            os.kill(pid, signal.SIGCONT)

    def read(self):
        return self.total + self.now()


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def kill(lab, vm, who, meter):
    if who == "reset":
        starts = vm.guestd_starts()
        vm.reset()
        vm.wait_guestd(starts)
    elif who == "guestd":
        lab.client.kill_guestd("lab")
    else:
        meter.kill_hostd()
        lab.hostd.start()


def reached(client, path, point):
    p = client.job_properties(path)
    return p["State"] == "running" and p["BytesDone"] >= point


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_killed(lab, client, vm, source, chance, n_kills, direction):
    push, size = direction == "push", os.path.getsize(source)
    if push:
        meter = Meter(lab, vm, push)
        number, path = client.push("lab", source, "/mnt/vda/pushed")
    else:
        client.done(client.push("lab", source, "/mnt/vda/source"), 600)
        client.run("lab", "sync")
        meter = Meter(lab, vm, push)
        number, path = client.pull("lab", "/mnt/vda/source", lab.scratch("pulled"))
    points = sorted(chance.uniform(0, 0.9) * size for _ in range(n_kills))
    for i, point in enumerate(points):
        who = WHO[i % len(WHO)]
        eventually(lambda: reached(client, path, point), 120, f"{point:.0f} bytes", every=0.01)
        time.sleep(chance.uniform(0, 0.1))
        p = client.job_properties(path)
        assert (p["Id"], p["State"]) == (number, "running"), p["ErrorMessage"]
        carried = meter.read()
        kill(lab, vm, who, meter)
        print(f"{direction}: {who} killed behind {p['BytesDone'] >> 20} MiB, {carried >> 20} MiB were carried")
    p = client.wait_job(path, 600)
    assert p["State"] == "done", p["ErrorMessage"]
    twice = meter.read() - size
    print(f"{direction}: {n_kills} kills, {twice} of {size} bytes sent twice: {100 * twice / size:.2f} %")
    if push:
        status, out, err = client.run("lab", "sha256sum", "/mnt/vda/pushed", wait=300)
        assert status == 0 and out.split()[0] == digest(source), err
    else:
        assert digest(lab.scratch("pulled")) == digest(source)
        os.unlink(lab.scratch("pulled"))
    left = client.run("lab", "sh", "-c", "ls -A /mnt/vda; rm -f /mnt/vda/pushed /mnt/vda/source")[1].split()
    assert left == ["lost+found", "pushed" if push else "source"]
    assert twice < TWICE * (1 << 30) / 20 * n_kills
    assert [n for n in os.listdir(os.path.dirname(source)) if n.startswith(".vmferry-")] == []


def test_not_resumed_if_changed(lab, client, vm, source):
    with open(source, "r+b") as file:
        file.truncate(200 << 20)
    _, path = client.push("lab", source, "/mnt/vda/changed")
    eventually(lambda: client.job_properties(path)["BytesDone"] > 1 << 20, 20, "some bytes")
    client.kill_guestd("lab")
    with open(source, "r+b") as file:
        file.write(b"changed")
    p = client.wait_job(path, 60)
    assert p["State"] == "failed" and p["ErrorName"].endswith("SourceChanged"), p
    assert client.run("lab", "test", "-e", "/mnt/vda/changed")[0] != 0
