# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that lies during a pull: nothing outside the destination is touched, the job ends with the name of what was wrong,
nothing is left behind, and memory stays flat."""

import os
import signal
import subprocess
import threading
import time

import pytest
import records as r
from hostpeer import DATA, EOF, OPENED
from records import DIRECTORY, FILE, HARDLINK, SYMLINK

from lab.need import eventually

WRONG = {"Protocol", "Integrity", "InvalidPath"}


@pytest.fixture
def place(host):
    """dst, and beside it a file that nobody is to touch; for anybody's worker."""
    path = host.directory(f"t{time.monotonic_ns()}")
    for name in "dst", "outside":
        os.mkdir(os.path.join(path, name))
    with open(os.path.join(path, "outside/canary"), "w") as file:
        file.write("alive")
    yield path
    assert os.listdir(path + "/outside") == ["canary"]
    assert open(path + "/outside/canary").read() == "alive"
    assert sorted(os.listdir(path)) == ["dst", "outside"]
    assert not [n for _, _, names in os.walk(path) for n in names if n.endswith(".part")]


def serve(liar, opened, content):
    """The liar's pull: what OPENED says, and the bytes that follow."""
    def pull(port, s):
        port.opened(s, opened)
        if callable(content):
            content(port, s)
        else:
            port.send_data(s, content)
        port.end_stream(s)
    liar.opens["pull"] = pull


def tree(*entries):
    return r.totals() + r.entry(DIRECTORY, b"", mode=0o755) + b"".join(entries)


HELLO_FILE = r.file(b"hello")
TREES = {  # of a tree, which goes to dst/out
    "up": tree(r.entry(FILE, "../x", size=0)),
    "up, later": tree(r.entry(DIRECTORY, "d", mode=0o755), r.entry(FILE, "d/../../x")),
    "absolute": tree(r.entry(FILE, "/tmp/vmferry-lie")),
    "dot": tree(r.entry(FILE, ".")),
    "NUL": tree(r.entry(FILE, b"a\0b")),
    "empty component": tree(r.entry(FILE, "a//b")),
    "no name again": tree(r.entry(DIRECTORY, b"")),
    "name of 256": tree(r.entry(FILE, "n" * 256)),
    "path of 5000": tree(r.entry(FILE, "/".join(["d" * 100] * 50))),
    "link, then beneath": tree(r.entry(SYMLINK, "l", target="../../outside"), r.file(b"evil", 2, b"l/canary")),
    "link, then directory": tree(r.entry(SYMLINK, "l", target="../../outside"), r.entry(DIRECTORY, "l"),
                                 r.file(b"evil", 3, b"l/canary")),
    "hard link up": tree(r.entry(HARDLINK, "h", target="../../outside/canary")),
    "hard link to the root": tree(r.entry(HARDLINK, "h", target="/etc/passwd")),
    "twice": tree(r.file(b"a", 1, b"f"), r.file(b"b", 2, b"f")),
    "not in order": tree(r.file(b"a", 1, b"g"), r.file(b"b", 2, b"f")),
    "content of nothing": tree(r.data(7, 0, b"x")),
    "leaves too often": tree(r.leave(), r.leave()),
    "unknown kind": tree(r.entry(9, "f")),
    "unknown record": tree(r.record(99, b"x")),
    "receiver's record": tree(r.done()),
    "record of 4 GiB": tree(r.record(r.ENTRY, b"x", length=0xFFFFFFFF)),
    "string beyond its record": tree(r.entry(FILE, "f", n_path=60000)),
    "temporary's name": tree(r.file(b"x", 1, b".vmferry-ab-1.part")),
    "deep": tree(*(r.entry(DIRECTORY, "/".join(["d"] * n), mode=0o755) for n in range(1, 700))),
    "offers without end": tree(*(r.entry(FILE, f"f{i:06}", size=5, offer=True) for i in range(2000))),
    "noise": os.urandom(100000),
    "nothing": b"",
}
FILES = {  # of a single file
    "more than announced": r.totals(5, 1) + r.entry(FILE, size=5) + r.data(0, 0, b"hello, world") + r.file_end(0, b"hello, world"),
    "fewer": r.totals(50, 1) + r.entry(FILE, size=50) + r.data(0, 0, b"hello") + r.file_end(0, b"hello") + r.end(),
    "other size at the end": r.entry(FILE, size=5) + r.data(0, 0, b"hello") + r.file_end(0, b"hello", size=6) + r.end(),
    "wrong digest": r.entry(FILE, size=5) + r.data(0, 0, b"hello") + r.file_end(0, b"hello", digest=1) + r.end(),
    "goes back": r.entry(FILE, size=10) + r.data(0, 5, b"world") + r.data(0, 0, b"hello") + r.file_end(0, b"helloworld"),
    "offset of exabytes": r.entry(FILE, size=10) + r.data(0, 1 << 62, b"x"),
    "named": r.file(b"hello", 0, b"../x") + r.end(),
    "two files": HELLO_FILE + r.file(b"hello", 1) + r.end(),
    "a directory": r.entry(DIRECTORY, mode=0o755) + r.leave() + r.end(),
    "bytes behind the end": HELLO_FILE + r.end() + HELLO_FILE,
}


def pull(client, place, name="out"):
    job = client.pull("liar", "/lies", os.path.join(place, "dst", name))
    return client.wait_job(job[1], 30)


def error_of(job):
    assert job["State"] == "failed", job
    assert job["ErrorMessage"]
    return job["ErrorName"].rpartition(".")[2]


@pytest.mark.parametrize("name", TREES)
def test_tree(host, client, liar, place, name):
    serve(liar, {"tree": True, "name": "src"}, TREES[name] + r.end())
    assert error_of(pull(client, place)) in WRONG
    assert client.ping("good", timeout=2) < 1_000_000
    for directory, names, files in os.walk(place + "/dst"):
        assert not [n for n in files if n in ("x", "canary", "h")], (directory, files)
    assert not os.path.exists("/tmp/vmferry-lie")
    eventually(lambda: not host.workers(), 5, "the worker's end")


@pytest.mark.parametrize("name", FILES)
def test_file(host, client, liar, place, name):
    """A destination is the old file or the whole new one: here the old one, or none."""
    with open(place + "/dst/out", "w") as file:
        file.write("old")
    os.chmod(place + "/dst/out", 0o666)
    serve(liar, {"name": "src", "bytes": 5}, r.totals() + FILES[name])
    job = pull(client, place)
    if name in ("bytes behind the end",) and job["State"] == "done":
        assert open(place + "/dst/out").read() == "hello"
        return
    assert error_of(job) in WRONG
    assert open(place + "/dst/out").read() == "old"
    assert os.listdir(place + "/dst") == ["out"]


@pytest.mark.parametrize("is_tree", [False, True])
def test_cut(host, client, liar, place, is_tree):
    """A stream that ends in order before its transfer did is a lie, and not tried again."""
    half = tree(r.entry(FILE, "f", size=10), r.data(1, 0, b"half")) if is_tree else r.entry(FILE, size=5) + r.data(0, 0, b"he")
    serve(liar, {"name": "src", "bytes": 5, "tree": is_tree}, half)
    assert error_of(pull(client, place)) == "Protocol"
    assert not os.path.isfile(place + "/dst/out") and not os.path.exists(place + "/dst/out/f")
    eventually(lambda: not [n for n in os.listdir(place + "/dst") if n.endswith(".part")], 5, "the end of temporaries")


def test_half_open(host, client, liar, place):
    """What has arrived whole is done, however the guest ends its stream."""
    def never_end(port, s):
        port.opened(s, {"name": "src", "bytes": 5})
        port.send_data(s, r.totals(5, 1) + HELLO_FILE + r.end())
    liar.opens["pull"] = never_end
    job = client.pull("liar", "/lies", place + "/dst/out")
    assert client.wait_job(job[1], 5)["State"] == "done"
    assert open(place + "/dst/out").read() == "hello"


def test_reports(host, client, liar, place):
    """Each entry that failed, and what was left out, is told with its path; the rest arrives."""
    serve(liar, {"tree": True, "name": "src"},
          tree(r.failed(r.UNKNOWN, "PermissionDenied", "Cannot open it", "a"), r.failed(r.UNKNOWN, "NotFound", "It vanished", "b\nb\x1b"),
               r.failed(r.UNKNOWN, "Unsupported", "It is a fifo", "c", skipped=True), r.file(b"x", 1, b"d"), r.leave()) + r.end())
    job = client.pull("liar", "/lies", place + "/dst/out")
    p = client.wait_job(job[1], 20)
    assert error_of(p) == "PermissionDenied" and "2 of its entries" in p["ErrorMessage"], p
    reports = client.get(job[1], "org.vmferry1.Job", "Reports")
    assert reports == [("a", "org.vmferry1.Error.PermissionDenied", "Cannot open it"),
                       ("b\\x0ab\\x1b", "org.vmferry1.Error.NotFound", "It vanished"), ("c", "", "It is a fifo")]
    assert open(place + "/dst/out/d").read() == "x"
    _, _, (told,) = client.wait_signal(lambda path, signal, args: path == job[1] and signal == "Reported")
    assert told == reports


def test_honest(host, client, liar, place):
    """The peer can tell the truth as well: else its lies would prove nothing."""
    serve(liar, {"name": "src", "bytes": 5}, r.totals(5, 1) + HELLO_FILE + r.end())
    job = pull(client, place)
    assert job["State"] == "done", job
    assert open(place + "/dst/out").read() == "hello"
    serve(liar, {"tree": True, "name": "src"},
          tree(r.file(b"one", 1, b"a"), r.entry(SYMLINK, "b", target="a"), r.leave()) + r.end())
    job = pull(client, place, "tree")
    assert job["State"] == "done", job
    assert open(place + "/dst/tree/a").read() == "one" and os.readlink(place + "/dst/tree/b") == "a"


FAILURES = {  # of a pull: what the destination's own receiver, or the guest, has to say of the first entry
    "whole": (r.totals(1 << 60, 1), "NoSpace", ": The destination has "),
    "root": (tree(r.failed(r.UNKNOWN, "NotFound", "It vanished", ""), r.failed(r.UNKNOWN, "NotFound", "It vanished", "b"), r.leave()),
             "NotFound", ": 2 of its entries failed, the first being the directory itself: It vanished"),
    "entry": (tree(r.failed(r.UNKNOWN, "NotFound", "It vanished", "b"), r.leave()),
              "NotFound", ": 1 of its entries failed, the first being b: It vanished"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_text(host, client, liar, place, name):
    """The sentence of a tree that failed names the entry, if it was one."""
    content, error, said = FAILURES[name]
    serve(liar, {"tree": True, "name": "src"}, content + r.end())
    p = client.wait_job(client.pull("liar", "/lies", place + "/dst/out")[1], 20)
    assert error_of(p) == error and said in p["ErrorMessage"], p


def test_cancelled_too_late(host, client, liar, place):
    """What the guest had reported before somebody lost patience is the reason; only what was under way is cancelled."""
    with open(place + "/dst/source", "w") as file:
        file.truncate(1 << 34)
    for error in None, "NoSpace":
        told = threading.Event()

        def push(port, s):
            port.opened(s)
            eventually(host.workers, 5, "the worker")
            os.kill(host.workers()[0], signal.SIGSTOP)  # so that the host's end takes its time
            if error:
                port.reset(s, error, "The disk is full")
            told.set()
        liar.opens["push"] = push
        job = client.push("liar", place + "/dst/source", "/x", resume=False)
        assert told.wait(20)
        time.sleep(0.3)  # for hostd to have heard it
        client.job(job[1], "Cancel")
        os.kill(host.workers()[0], signal.SIGCONT)
        p = client.wait_job(job[1], 20)
        if error:
            assert error_of(p) == error and "The disk is full" in p["ErrorMessage"], p
        else:
            assert p["State"] == "cancelled" and p["ErrorName"].endswith(".Cancelled"), p
        eventually(lambda: not host.workers(), 5, "the worker's end")


OPENS = {
    "other types": {"tree": "yes", "bytes": "many", "name": 7, "files": []},
    "name up": {"name": "../x", "bytes": 5},
    "name of NUL": {"name": "a/b", "bytes": -5},
    "bytes beyond all": {"name": "x", "bytes": 2**63 - 1},
}


@pytest.mark.parametrize("name", OPENS)
def test_opened(host, client, liar, place, name):
    """What OPENED says is judged: into a directory, so that the name would count."""
    serve(liar, OPENS[name], r.totals() + HELLO_FILE + r.end())
    job = client.pull("liar", "/lies", place + "/dst")
    job = client.wait_job(job[1], 20)
    assert job["State"] in ("done", "failed")
    assert set(os.listdir(place + "/dst")) <= {"x"}


DATA_PORT = {
    "opened twice": lambda p, s: (p.opened(s), p.opened(s)),
    "opened of nobody": lambda p, s: p.message(OPENED, s.id + 5, {}),
    "data before OPENED": lambda p, s: p.send(DATA, b"x", stream=s.id),
    "beyond credit": lambda p, s: (p.opened(s), [p.send(DATA, bytes(32000), stream=s.id) for _ in range(60)]),
    "end, and on": lambda p, s: (p.opened(s), p.end_stream(s), p.send(DATA, b"x", stream=s.id)),
    "two ends": lambda p, s: (p.opened(s), p.end_stream(s), p.send(EOF, stream=s.id)),
    "noise": lambda p, s: (p.opened(s), p.raw(os.urandom(100000))),
    "no JSON": lambda p, s: p.raw(p.next_frame(OPENED, b"{", stream=s.id)),
    "refused": lambda p, s: p.reset(s, "NoSuchError", "a\nb\x1b"),
}


@pytest.mark.parametrize("name", DATA_PORT)
def test_data_port(host, client, liar, place, name):
    """The session breaks or the job fails; it doesn't hang, and doesn't harm."""
    broken = []

    def open_(port, s):
        if broken:
            port.reset(s, "NotFound", "enough")
            return
        broken.append(1)
        DATA_PORT[name](port, s)
    liar.opens["pull"] = open_
    job = client.pull("liar", "/lies", place + "/dst/out")
    time.sleep(0.3)
    assert client.ping("good", timeout=2) < 1_000_000
    assert client.ping("liar", timeout=2) < 1_000_000
    if client.job(job[1], "Wait", "(t)", 3_000_000) not in ("failed", "cancelled"):
        client.job(job[1], "Cancel")
    properties = client.wait_job(job[1], 5)
    assert properties["State"] in ("failed", "cancelled"), properties
    assert not any(c in properties["ErrorMessage"] for c in "\n\x1b")
    assert os.listdir(place + "/dst") == []


def highest_rss(host, stop, found):
    while not stop.is_set():
        for pid in host.workers():
            found[pid] = max(found.get(pid, 0), host.rss_kib(pid))
        time.sleep(0.05)


def test_flat_memory(host, client, liar, place):
    """A hundred thousand entries that all fail, and a flood of contents: a worker and hostd stay as large as they are."""
    def pour(port, s):
        port.send_data(s, tree(r.entry(FILE, "d", size=0), r.file_end(1, b"")))
        for start in range(0, 1_000_000, 10_000):
            if not port.send_data(s, b"".join(r.failed(r.UNKNOWN, path=f"d/{i}") for i in range(start, start + 10_000))):
                return
        port.send_data(s, r.leave() + r.end())

    serve(liar, {"tree": True, "name": "src"}, pour)
    before, stop, found = host.rss_kib(), threading.Event(), {}
    watch = threading.Thread(target=highest_rss, args=(host, stop, found))
    watch.start()
    try:
        job = client.pull("liar", "/lies", place + "/dst/out")
        slowest = 0
        while client.job_properties(job[1])["State"] in ("queued", "running"):
            start = time.monotonic()
            client.ping("good", timeout=3)
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        job = client.wait_job(job[1], 60)
    finally:
        stop.set()
        watch.join()
    assert job["State"] == "failed" and "1000000" in job["ErrorMessage"], job
    assert slowest < 1, slowest
    assert found and max(found.values()) < 64 * 1024, found
    assert host.rss_kib() < before + 24 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_no_space(host, client, liar, place):
    """A destination that fills up: NoSpace, and the partial file is gone."""
    target = os.path.join(place, "dst")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "vmferry-test", target], check=True)
    try:
        content = bytes(range(256)) * 16384  # 4 MiB

        def pour(port, s):  # of unknown length: nobody can tell beforehand
            port.send_data(s, r.totals() + r.entry(FILE, size=r.UNKNOWN))
            for at in range(0, len(content), 1 << 16):
                if not port.send_data(s, r.data(0, at, content[at:at + (1 << 16)])):
                    return
            port.send_data(s, r.file_end(0, content) + r.end())
        serve(liar, {"name": "src", "stream": True}, pour)
        assert error_of(pull(client, place)) == "NoSpace"
        assert os.listdir(target) == []
        # Told beforehand, it is refused before the first byte.
        serve(liar, {"name": "src", "bytes": len(content)}, r.totals(len(content), 1) + r.entry(FILE, size=len(content)))
        assert error_of(pull(client, place)) == "NoSpace"
        assert os.listdir(target) == []
    finally:
        subprocess.run(["umount", "-l", target], check=False)
