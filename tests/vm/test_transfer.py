# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files and trees: identical on the other side, whatever their size and names, and whoever dies on the way."""

import hashlib
import os
import subprocess
import threading
import time

import pytest

from lab import tree
from lab.need import eventually


@pytest.fixture(scope="module")
def vm(lab):
    return lab.domain_with_disk("lab")


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
def test_sparse_10_gib(lab, client, vm):
    """In constant memory on both sides; holes are not carried."""
    source = lab.scratch("sparse")
    with open(source, "wb") as file:
        file.truncate(10 << 30)
        for i in range(100):
            file.seek(i * (100 << 20))
            file.write(os.urandom(1 << 20))
    before = lab.hostd.rss_kib()
    p = client.done(client.push("lab", source, "/srv/sparse"), 900)
    assert lab.hostd.rss_kib() - before < 32 * 1024
    assert p["BytesTotal"] == 10 << 30
    used, = client.run("lab", "sh", "-c", "du -m /srv/sparse | cut -f 1")[1].split()
    assert int(used) <= 110
    client.done(client.pull("lab", "/srv/sparse", lab.scratch("sparse.back")), 900)
    assert tree.holes(source, 10 << 30) == tree.holes(lab.scratch("sparse.back"), 10 << 30)
    assert subprocess.run(["cmp", source, lab.scratch("sparse.back")]).returncode == 0
    client.run("lab", "rm", "/srv/sparse")
