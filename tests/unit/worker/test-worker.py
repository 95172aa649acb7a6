#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""vmferry-worker as hostd uses it: two of them, one pushing and one pulling, with this program in between."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

WORKER = None
ID = "deadbeef"


class Worker:
    """One worker: its socket, and the pipe ends that hostd would give to the data thread."""

    def __init__(self, order, extra=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        to_read, self.to = os.pipe()
        self.of, from_write = os.pipe()
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in
               [theirs.fileno(), to_read, from_write] + ([extra] if extra is not None else [])]

        def place():
            for i, fd in enumerate(fds):
                os.dup2(fd, 3 + i)

        self.process = subprocess.Popen([WORKER], preexec_fn=place, pass_fds=range(3, 3 + len(fds)))
        for fd in fds + [to_read, from_write]:
            os.close(fd)
        theirs.close()
        self.socket = ours
        self.socket.settimeout(30)
        if order is not None:
            self.send(order)

    def send(self, order):
        self.socket.send(order if isinstance(order, bytes) else json.dumps(order).encode())

    def packet(self, what=None):
        """The next packet, or the next of a kind; None behind the last."""
        while True:
            text = self.socket.recv(65536)
            if not text:
                return None
            packet = json.loads(text)
            if what is None or packet["do"] in (what, "done"):
                return packet

    def end(self):
        """Nothing more is written to it."""
        fd, self.to = self.to, -1
        if fd >= 0:
            os.close(fd)

    def close(self):
        self.end()
        fd, self.of = self.of, -1
        if fd >= 0:
            os.close(fd)
        self.socket.close()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def carry(source, to, limit=None):
    """Bytes from one worker to the other until the end, or until so many have gone."""
    n = 0
    while limit is None or n < limit:
        data = os.read(source.of, 32768)
        if not data:
            break
        n += len(data)
        try:
            while data:
                data = data[os.write(to.to, data):]
        except BrokenPipeError:
            break
    if limit is None:
        to.end()
    return n


class WorkerTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="vmferry-worker-")
        self.workers = []

    def tearDown(self):
        for w in self.workers:
            if w.process.poll() is None:
                w.process.kill()
            w.close()
        shutil.rmtree(self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, n):
        with open(self.path(name), "wb") as f:
            f.write(os.urandom(n))
        return self.path(name)

    def worker(self, order, extra=None):
        w = Worker(order, extra)
        self.workers.append(w)
        return w

    def pair(self, source, destination, source_fd=None, destination_fd=None, **options):
        push = self.worker({"do": "push", "path": source, "fd": source_fd is not None, "transfer": ID, **options},
                           source_fd)
        pull = self.worker({"do": "pull", "path": destination, "fd": destination_fd is not None, "transfer": ID,
                            **options}, destination_fd)
        found = push.packet()
        self.assertEqual(found["do"], "found", found)
        pull.send({**found, "do": "source"})
        return push, pull, found

    def run_pair(self, *args, **options):
        push, pull, found = self.pair(*args, **options)
        threads = [threading.Thread(target=carry, args=pair, daemon=True) for pair in ((push, pull), (pull, push))]
        for t in threads:
            t.start()
        done = push.packet("done"), pull.packet("done")
        for t in threads:
            t.join(10)
        self.assertEqual([w.close() for w in (push, pull)], [0, 0])
        return found, done

    def same(self, a, b):
        with open(a, "rb") as f, open(b, "rb") as g:
            self.assertEqual(f.read(), g.read())

    def temporaries(self):
        return [f for _, _, files in os.walk(self.dir) for f in files if f.startswith(".vmferry-")]

    def test_file(self):
        found, done = self.run_pair(self.write("a", 3000000), self.path("b"))
        self.assertEqual((found["tree"], found["stream"], found["bytes"], found["name"]), (False, False, 3000000, "a"))
        for d in done:
            self.assertEqual((d.get("error"), d["bytes"], d["files"], d["failed"]), (None, 3000000, 1, 0))
        self.assertEqual(done[0]["digest"], done[1]["digest"])
        self.assertRegex(done[0]["digest"], "^xxh64:[0-9a-f]{16}$")
        self.same(self.path("a"), self.path("b"))
        self.assertEqual(self.temporaries(), [])

    def test_tree(self):
        os.makedirs(self.path("t/sub"))
        for i in range(300):
            self.write("t/sub/%d" % i, i * 10)
        found, done = self.run_pair(self.path("t"), self.path("u"), resume=True)
        self.assertEqual((found["tree"], found["files"]), (True, 300))
        self.assertEqual((done[1].get("error"), done[1]["files"]), (None, 300))
        self.assertEqual(subprocess.call(["diff", "-r", self.path("t"), self.path("u")]), 0)
        self.assertEqual(self.temporaries(), [])

    def test_descriptors(self):
        self.write("a", 1000000)
        with open(self.path("a"), "rb") as f, open(self.path("b"), "wb") as g:
            found, done = self.run_pair(None, None, f.fileno(), g.fileno())
        self.assertEqual((done[0].get("error"), done[1].get("error")), (None, None))
        self.same(self.path("a"), self.path("b"))

    def test_pipe_to_pipe(self):
        data = os.urandom(500000)
        r1, w1 = os.pipe()
        r2, w2 = os.pipe()
        got = []
        threads = [threading.Thread(target=lambda: (os.write(w1, data[:100]), time.sleep(0.2),
                                                    [os.write(w1, data[i:i + 4096]) for i in range(100, 500000, 4096)],
                                                    os.close(w1)), daemon=True),
                   threading.Thread(target=lambda: [got.append(b) for b in iter(lambda: os.read(r2, 65536), b"")],
                                    daemon=True)]
        threads[0].start()
        push, pull, found = self.pair(None, None, r1, w2)
        os.close(r1)
        os.close(w2)
        threads[1].start()
        for pair in ((push, pull), (pull, push)):
            threading.Thread(target=carry, args=pair, daemon=True).start()
        self.assertTrue(found["stream"])
        self.assertNotIn("bytes", found)
        self.assertIsNone(push.packet("done").get("error"))
        self.assertIsNone(pull.packet("done").get("error"))
        self.assertEqual([w.close() for w in (push, pull)], [0, 0])
        threads[1].join(10)
        self.assertEqual(b"".join(got), data)
        os.close(r2)

    def test_refusals(self):
        w = self.worker({"do": "push", "path": self.path("none"), "transfer": ID})
        self.assertEqual(w.packet()["error"], "NotFound")
        w = self.worker({"do": "push", "path": "relative", "transfer": ID})
        self.assertEqual(w.packet()["error"], "InvalidPath")
        w = self.worker({"do": "dance", "transfer": ID})
        self.assertEqual(w.packet()["error"], "Unsupported")
        w = self.worker({"do": "pull", "path": self.path("none/x"), "transfer": ID})
        w.send({"do": "source", "tree": False, "bytes": 5, "name": "x"})
        self.assertEqual(w.packet()["error"], "NotFound")
        w = self.worker({"do": "push", "fd": True, "transfer": ID})
        self.assertEqual(w.packet()["error"], "Failed")
        for nonsense in (b"", b"{", b"[]", b"\xff\x00"):
            w = self.worker(nonsense)
            self.assertIsNone(w.packet() if nonsense else None)
            self.assertNotEqual(w.close(), 0)

    def test_gone_hostd(self):
        w = self.worker(None)
        w.socket.close()
        self.assertEqual(w.process.wait(10), 1)

    def test_cancel(self):
        push, pull, _ = self.pair(self.write("a", 8000000), self.path("b"), resume=True)
        carry(push, pull, 2000000)
        pull.packet("progress")
        self.assertEqual(len(self.temporaries()), 1)
        for w in (push, pull):
            w.send({"do": "cancel"})
            self.assertEqual(w.packet("done")["error"], "Cancelled")
            self.assertEqual(w.close(), 0)
        self.assertEqual(self.temporaries(), [])
        self.assertFalse(os.path.exists(self.path("b")))

    def test_lost_channel_and_resume(self):
        self.write("a", 8000000)
        push, pull, found = self.pair(self.path("a"), self.path("b"), resume=True)
        carry(push, pull, 4000000)
        for w in (push, pull):
            w.end()
            self.assertEqual(w.packet("done")["error"], "Interrupted")
            w.close()
        self.assertEqual(len(self.temporaries()), 1)
        expect = {"size": found["bytes"], **{k: found[k] for k in ("inode", "mtime_sec", "mtime_nsec")}}
        push, pull, _ = self.pair(self.path("a"), self.path("b"), resume=True, negotiate=True, expect=expect)
        threading.Thread(target=carry, args=(pull, push), daemon=True).start()
        sent = carry(push, pull)
        self.assertIsNone(push.packet("done").get("error"))
        self.assertIsNone(pull.packet("done").get("error"))
        self.assertLess(sent, 5000000)
        self.same(self.path("a"), self.path("b"))
        self.assertEqual(self.temporaries(), [])
        expect["size"] += 1
        w = self.worker({"do": "push", "path": self.path("a"), "transfer": ID, "expect": expect})
        self.assertEqual(w.packet()["error"], "SourceChanged")

    def test_killed_hostd_keeps(self):
        push, pull, _ = self.pair(self.write("a", 8000000), self.path("b"), resume=True)
        carry(push, pull, 4000000)
        pull.packet("progress")
        for w in (push, pull):
            w.close()
        self.assertEqual(len(self.temporaries()), 1)

    def test_peer_that_lies(self):
        pull = self.worker({"do": "pull", "path": self.path("b"), "transfer": ID})
        pull.send({"do": "source", "tree": False, "bytes": 5, "name": "x"})
        self.assertEqual(pull.packet()["do"], "opened")
        os.write(pull.to, b"\xff" * 100)
        self.assertEqual(pull.packet("done")["error"], "Protocol")
        self.assertEqual(os.listdir(self.dir), [])

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_identity(self):
        os.chmod(self.dir, 0o755)
        self.write("secret", 10)
        os.chmod(self.path("secret"), 0o600)
        self.write("mine", 10)
        who = {"uid": 65534, "gid": 65534, "groups": [65534]}
        w = self.worker({"do": "push", "path": self.path("secret"), "transfer": ID, **who})
        self.assertEqual(w.packet()["error"], "PermissionDenied")
        w = self.worker({"do": "pull", "path": self.path("new"), "transfer": ID, **who})
        w.send({"do": "source", "tree": False, "bytes": 5, "name": "x"})
        self.assertEqual(w.packet()["error"], "PermissionDenied")
        w = self.worker({"do": "push", "path": self.path("mine"), "transfer": ID, **who})
        self.assertEqual(w.packet()["do"], "found")
        with open("/proc/%d/status" % w.process.pid, encoding="ascii") as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        self.assertEqual(status["Uid"], "\t".join(["65534"] * 4))
        self.assertEqual(status["Gid"], "\t".join(["65534"] * 4))
        self.assertEqual(status["Groups"].strip(), "65534")
        self.assertEqual(int(status["CapEff"], 16) | int(status["CapPrm"], 16), 0)
        self.assertEqual(status["NoNewPrivs"], "1")
        for bad in ({"uid": -1}, {"uid": "root"}, {"gid": 1 << 40}, {"groups": [True]}, {"groups": {}}):
            w = self.worker({"do": "push", "path": self.path("mine"), "transfer": ID, **bad})
            self.assertEqual(w.packet()["error"], "Failed", bad)


if __name__ == "__main__":
    WORKER = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=1)
