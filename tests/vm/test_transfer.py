# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files and trees: identical on the other side, whatever their size and names, and whoever dies on the way."""

import hashlib
import os
import shutil
import subprocess
import threading
import time

import pytest

from lab import tree
from lab.need import eventually


@pytest.fixture(scope="module")
def vm(lab):
    return lab.domain_with_disk("lab", memory=1024)


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def random_file(lab, name, size):
    path = lab.scratch(name)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    return path


def guest_digest(client, path):
    status, out, err = client.run("lab", "sha256sum", path, wait=300)
    assert status == 0, err
    return out.split()[0]


def test_256_mib(lab, client, vm):
    source = random_file(lab, "large", 256 << 20)
    p = client.done(client.push("lab", source, "/srv/large"), 300)
    assert p["BytesDone"] == 256 << 20
    assert guest_digest(client, "/srv/large") == digest(source)
    q = client.done(client.pull("lab", "/srv/large", lab.scratch("large.back")), 300)
    assert p["Digest"] == q["Digest"]
    assert digest(lab.scratch("large.back")) == digest(source)
    client.run("lab", "rm", "/srv/large")
    os.unlink(source)
    os.unlink(lab.scratch("large.back"))


def test_atomic(lab, client, vm):
    """While it is being replaced a destination is the old file, and after a cancel it still is."""
    source = random_file(lab, "atomic", 64 << 20)
    client.run("lab", "sh", "-c", "echo old > /srv/atomic")
    _, job = client.push("lab", source, "/srv/atomic")
    assert client.run("lab", "cat", "/srv/atomic")[1] == "old\n" or client.job_properties(job)["State"] == "done"
    client.job(job, "Cancel")
    if client.wait_job(job)["State"] == "cancelled":
        assert client.run("lab", "cat", "/srv/atomic")[1] == "old\n"
        eventually(lambda: client.run("lab", "ls", "-A", "/srv")[1].split() == ["atomic"], 10, "no temporary left")
    client.run("lab", "rm", "-f", "/srv/atomic")


def test_tree(lab, client, vm):
    source = lab.scratch("tree")
    n = tree.build(source)
    p = client.done(client.push("lab", source, "/mnt/vda/tree"), 300)
    assert p["FilesDone"] == p["FilesTotal"] and p["FilesTotal"] > 300
    found = int(client.run("lab", "sh", "-c", "cd /mnt/vda/tree && find . -print0 | tr -cd '\\000' | wc -c")[1])
    assert found == n
    client.done(client.pull("lab", "/mnt/vda/tree", lab.scratch("tree.back")), 300)
    assert tree.differences(tree.describe(source), tree.describe(lab.scratch("tree.back"))) == []


def test_tree_preserved(lab, client, vm):
    source = lab.scratch("tree.kept")
    tree.build(source, 20)
    if not tree.add_xattrs(source):
        pytest.skip("no extended attributes here")
    if os.geteuid() == 0:
        os.chown(os.path.join(source, "plain"), 1234, 4321)
        os.chmod(os.path.join(source, "empty"), 0o2750)
    client.done(client.push("lab", source, "/mnt/vda/kept", preserve=True), 300)
    client.done(client.pull("lab", "/mnt/vda/kept", lab.scratch("kept.back"), preserve=True), 300)
    owners = os.geteuid() == 0
    assert tree.differences(tree.describe(source, owners, True), tree.describe(lab.scratch("kept.back"), owners, True)) == []


def test_options(lab, client, vm):
    open(lab.scratch("o"), "w").close()
    client.done(client.push("lab", lab.scratch("o"), "/srv/o", mode=("u", 0o640), owner="user:extra"))
    assert client.run("lab", "stat", "-c", "%a %U:%G", "/srv/o")[1] == "640 user:extra\n"


def test_no_space(lab, client, vm):
    """Refused before the first byte where the size is known."""
    client.run("lab", "sh", "-c", "mkdir -p /tmp/small && mount -t tmpfs -o size=4m tmpfs /tmp/small")
    source = random_file(lab, "toolarge", 8 << 20)
    assert client.failed(client.push("lab", source, "/tmp/small/x")) == "NoSpace"
    assert client.run("lab", "ls", "-A", "/tmp/small")[1] == ""
    # Of a pipe nobody knows the length.
    read, write = os.pipe()
    job = client.guest("lab", "PushFd", "(hsa{sv})", 0, "/tmp/small/x", {}, fds=[read])
    os.close(read)

    def feed():
        try:
            for _ in range(8):
                os.write(write, b"x" * (1 << 20))
        except BrokenPipeError:
            pass
        os.close(write)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert client.failed(job) == "NoSpace"
    feeder.join(20)
    assert not feeder.is_alive()
    eventually(lambda: client.run("lab", "ls", "-A", "/tmp/small")[1] == "", 10, "the partial file gone")


def test_space_of_what_is_there(lab, client, vm):
    """A tree that is there already is brought up to date on a file system that has no room for it twice."""
    client.run("lab", "sh", "-c", "mkdir -p /tmp/half && mount -t tmpfs -o size=8m tmpfs /tmp/half")
    source = lab.scratch("half")
    os.makedirs(source)
    for name in "a", "b":
        random_file(lab, f"half/{name}", 3 << 20)
    client.done(client.push("lab", source, "/tmp/half/t"))
    client.done(client.push("lab", source, "/tmp/half/t", contents=True, overwrite="update"))
    random_file(lab, "half/c", 4 << 20)
    p = client.wait_job(client.push("lab", source, "/tmp/half/new")[1])
    assert p["ErrorName"].endswith("NoSpace") and "entries failed" not in p["ErrorMessage"], p["ErrorMessage"]
    client.run("lab", "umount", "/tmp/half")


def test_merge_interrupted(lab, client, vm):
    """Contents into a directory that is there: behind an interruption, what the transfer made has the source's modes, and only that."""
    source = lab.scratch("merge")
    os.makedirs(source + "/kept/new/deep")
    random_file(lab, "merge/kept/new/deep/large", 96 << 20)
    for name in "", "kept", "kept/new", "kept/new/deep":
        os.chmod(os.path.join(source, name), 0o750)
    client.run("lab", "sh", "-c", "mkdir -p /srv/merge/kept && chmod 711 /srv/merge /srv/merge/kept")
    job = client.push("lab", source, "/srv/merge", contents=True)
    eventually(lambda: client.job_properties(job[1])["BytesDone"] > 16 << 20, 60, "16 MiB", every=0.01)
    client.kill_guestd("lab")
    client.done(job, 300)
    assert client.run("lab", "sh", "-c", "cd /srv/merge && find . -type d | sort | xargs stat -c '%a %n'; find . -name '*.part'")[1] == \
        "711 .\n711 ./kept\n750 ./kept/new\n750 ./kept/new/deep\n"
    client.run("lab", "rm", "-r", "/srv/merge")


def test_blocked_source_blocks_itself(lab, client, vm):
    read, write = os.pipe()
    _, blocked = client.guest("lab", "PushFd", "(hsa{sv})", 0, "/srv/blocked", {}, fds=[read])
    os.close(read)
    for i in range(5):
        client.done(client.push("lab", "/etc/passwd", f"/srv/meanwhile{i}"), 10)
    assert client.job_properties(blocked)["State"] == "running"
    os.write(write, b"at last")
    os.close(write)
    assert client.wait_job(blocked, 10)["State"] == "done"
    assert client.run("lab", "cat", "/srv/blocked")[1] == "at last"


def test_small_next_to_large(lab, client, vm):
    source = random_file(lab, "beside", 200 << 20)
    large = client.push("lab", source, "/srv/beside")
    started = time.monotonic()
    client.done(client.push("lab", "/etc/hostname", "/srv/small"), 30)
    small = time.monotonic() - started
    started = time.monotonic()
    client.ping("lab")
    assert time.monotonic() - started < 2
    state = client.job_properties(large[1])["State"]
    client.done(large, 300)
    assert state == "running" or small < 1
    client.run("lab", "rm", "-f", "/srv/beside")


def test_source_changed(lab, client, vm):
    """A file that changes while it is read is not said to have been carried."""
    source = random_file(lab, "changing", 128 << 20)
    job = client.push("lab", source, "/srv/changing")
    eventually(lambda: client.job_properties(job[1])["BytesDone"] > 0, 20, "the first byte")
    with open(source, "r+b") as file:
        file.truncate(10 << 20)
    assert client.failed(job) in ("SourceChanged", "Integrity")
    assert client.run("lab", "test", "-e", "/srv/changing")[0] != 0


@pytest.mark.slow
def test_large_tree(lab, client, vm):
    """In, and back, by programs that know nothing of vmferry; nothing of 20,000 entries is different."""
    source, back = lab.scratch("many"), lab.scratch("many.back")
    n = tree.build_large(source, 20000)
    tree.add_xattrs(source)
    p = client.done(client.push("lab", source, "/mnt/vda/many", preserve=True), 900)
    assert n >= 20000 and p["FilesDone"] == p["FilesTotal"]
    found = int(client.run("lab", "sh", "-c", "cd /mnt/vda/many && find . -print0 | tr -cd '\\000' | wc -c", wait=300)[1])
    assert found == n
    client.done(client.pull("lab", "/mnt/vda/many", back, preserve=True), 900)
    owners = os.geteuid() == 0
    assert tree.differences(tree.describe(source, owners, True), tree.describe(back, owners, True)) == []
    print(f"{n} entries, {p['BytesDone']} bytes")
    client.run("lab", "rm", "-rf", "/mnt/vda/many", wait=300)
    shutil.rmtree(source)
    shutil.rmtree(back)


class Memory:
    """The largest that each of the processes was, while it is looked: hostd, workers, and in the guest guestd and the carrier."""

    def __init__(self, lab):
        self.lab, self.kib, self.ended = lab, {}, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def note(self, who, kib):
        self.kib[who] = max(self.kib.get(who, 0), kib)

    def look(self):
        self.note("hostd", self.lab.hostd.rss_kib())
        for pid in self.lab.hostd.children():
            try:
                with open(f"/proc/{pid}/status") as file:
                    self.note("worker", next((int(line.split()[1]) for line in file if line.startswith("VmRSS:")), 0))
            except FileNotFoundError:
                pass

    def watch(self):
        while not self.ended.wait(0.2):
            self.look()

    def look_into_guest(self):
        for line in self.lab.client.run("lab", "sh", "-c", "for p in $(pidof vmferry-guestd); do cat /proc/$p/status; done")[1].splitlines():
            if line.startswith("VmRSS:"):
                self.note("guestd", int(line.split()[1]))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.ended.set()
        self.thread.join()


def wait_and_look(client, memory, job, timeout):
    deadline = time.monotonic() + timeout
    while client.job_properties(job[1])["State"] in ("queued", "running"):
        memory.look_into_guest()
        assert time.monotonic() < deadline
        time.sleep(1)
    return client.done(job)


@pytest.fixture(scope="module")
def gib(request):
    return 1 if request.config.getoption("--quick") else 10


def flat(lab, memory):
    """32 MiB are enough for each, whatever was carried."""
    print(f"most KiB: {memory.kib}")
    limit = 32 * 1024 if not lab.hostd.is_sanitized() else 1 << 30
    assert max(memory.kib.values()) < limit and set(memory.kib) == {"hostd", "worker", "guestd"}, memory.kib


def test_sparse(lab, client, vm, gib):
    """More than the guest has memory, both ways, in constant memory on both sides; holes are not carried."""
    source, back, size = lab.scratch("sparse"), lab.scratch("sparse.back"), gib << 30
    with open(source, "wb") as file:
        file.truncate(size)
        for i in range(gib * 10):
            file.seek(i * (100 << 20))
            file.write(os.urandom(1 << 20))
    carried = client.guest_properties("lab")["BytesSent"]
    with Memory(lab) as memory:
        p = wait_and_look(client, memory, client.push("lab", source, "/mnt/vda/sparse"), 900)
        assert p["BytesTotal"] == p["BytesDone"] == size
        assert client.guest_properties("lab")["BytesSent"] - carried < gib * (12 << 20)
        used, = client.run("lab", "sh", "-c", "du -m /mnt/vda/sparse | cut -f 1")[1].split()
        assert int(used) <= gib * 11
        wait_and_look(client, memory, client.pull("lab", "/mnt/vda/sparse", back), 900)
    flat(lab, memory)
    assert tree.holes(source, size) == tree.holes(back, size)
    assert subprocess.run(["cmp", source, back]).returncode == 0
    client.run("lab", "rm", "/mnt/vda/sparse")
    os.unlink(source)
    os.unlink(back)


def test_all_through(lab, client, vm, gib):
    """As many bytes for real, from nowhere to nowhere: a file that the guest makes up as it is read, into a pipe."""
    read, write = os.pipe()
    client.run("lab", "sh", "-c", "mkfifo /run/stream")
    client.run("lab", "sh", "-c", f"exec > /dev/null 2>&1 < /dev/null; setsid dd if=/dev/zero of=/run/stream bs=64k count={gib << 14} &")
    n = 0
    with Memory(lab) as memory:
        job = client.guest("lab", "PullFd", "(sha{sv})", "/run/stream", 0, {}, fds=[write])
        os.close(write)
        looked = time.monotonic()
        while block := os.read(read, 1 << 20):
            n += len(block)
            if time.monotonic() > looked + 2:
                memory.look_into_guest()
                looked = time.monotonic()
    os.close(read)
    client.done(job)
    client.run("lab", "rm", "/run/stream")
    assert n == gib << 30
    flat(lab, memory)
