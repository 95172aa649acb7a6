# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work of every kind while something breaks; afterwards, whether any of it was lost, hung or lied about."""

import hashlib
import os
import threading
import time

from .bus import BusError, Client
from .need import eventually

# What may be said of work that a fault has hit, and "local": there is no hostd to say anything.
KNOWN = ("NotReady", "Interrupted", "Timeout", "NoSuchGuest", "NoChannel", "ChannelBusy", "Cancelled", "LimitsExceeded",
         "local")
FILE_BYTES = 24 << 20


def is_known(error):
    return error.name in KNOWN or error.name.startswith("org.freedesktop.DBus.Error.")


def ready_again(client, since, limit=2.0, name="lab"):
    """A Ping succeeds not later than that."""
    while True:
        try:
            client.ping(name, timeout=20)
            return
        except BusError as e:
            assert is_known(e), str(e)
            assert time.monotonic() - since < limit, f"after {time.monotonic() - since:.1f} s: {e}"
            time.sleep(0.02)


class Pinger:
    """Pings all the time, from a connection of its own. strict: any error is wrong, else those that say why are not."""

    def __init__(self, address, name, strict=False, pause=0.01):
        self.address, self.name, self.strict, self.pause = address, name, strict, pause
        self.n_good, self.strange = 0, []
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self):
        client = Client(self.address)
        while not self.ends.is_set():
            try:
                client.ping(self.name, timeout=20)
                self.n_good += 1
                time.sleep(self.pause)
            except BusError as e:
                # Without hostd the bus answers in its place.
                if self.strict or not is_known(e):
                    self.strange.append(str(e))
                time.sleep(0.05)
        client.close()

    def stop(self):
        self.ends.set()
        self.thread.join(30)
        assert not self.thread.is_alive(), "a Ping hangs"
        assert not self.strange, self.strange


class Load:
    """Sends, calls, commands, a push and a pull on one guest, and what the guest publishes."""

    def __init__(self, lab, name="lab"):
        self.lab, self.name = lab, name
        self.ends = threading.Event()
        self.sent, self.failures, self.threads = [], [], []
        self.n_called = self.n_run = 0
        self.run_id = os.urandom(4).hex()
        self.source, self.target = lab.scratch(f"load-{self.run_id}"), lab.scratch(f"loaded-{self.run_id}")
        self.guest_source, self.guest_target = f"/srv/load-{self.run_id}", f"/srv/loaded-{self.run_id}"
        with open(self.source, "wb") as file:
            content = os.urandom(1 << 20) * (FILE_BYTES >> 20)
            file.write(content)
        self.digest = hashlib.md5(content).hexdigest()
        self.client = Client(lab.bus.address)
        self.client.done(self.client.push(name, self.source, self.guest_source))
        # Each line stands for a message that guestd has said it keeps.
        lab.vmferry("exec", "--detach", name, "--", "sh", "-c",
                    f"i=0; while [ ! -e /run/stop-{self.run_id} ]; do"
                    f" vmferry-guestd send p{self.run_id} $i && echo $i >> /run/kept-{self.run_id}; i=$((i+1)); sleep 0.2; done",
                    check=True)
        for work in self._send, self._call, self._run:
            thread = threading.Thread(target=self._repeat, args=(work,))
            thread.start()
            self.threads.append(thread)
        self.push_path = self.client.push(name, self.source, self.guest_target)[1]
        self.pull_path = self.client.pull(name, self.guest_source, self.target)[1]

    def _repeat(self, work):
        client = Client(self.lab.bus.address)
        i = 0
        while not self.ends.is_set():
            try:
                work(client, i)
            except BusError as e:
                if not is_known(e):
                    self.failures.append(f"{work.__name__}: {e}")
                time.sleep(0.05)
            i += 1
        client.close()

    def _send(self, client, i):
        client.message(self.name, "append", f"{self.run_id}-{i}", method="Send", timeout=10_000_000)
        self.sent.append(i)
        time.sleep(0.1)

    def _call(self, client, i):
        text = f"{self.run_id} {i}"
        reply = client.message(self.name, "echo", text, timeout=10_000_000)
        if reply != text:
            self.failures.append(f"echo of {text!r}: {reply!r}")
        self.n_called += 1
        time.sleep(0.05)

    def _run(self, client, i):
        status, out, _ = client.run(self.name, "echo", str(i), timeout=10_000_000)
        if (status, out) != (0, f"{i}\n"):
            self.failures.append(f"echo {i}: {status} {out!r}")
        self.n_run += 1
        time.sleep(0.2)

    def judge(self, is_same_guest=True, keeps_published=True, errors=("Interrupted",)):
        """Everything goes on or has said why not. is_same_guest: what the guest had done is still done in it."""
        n = self.n_called, self.n_run
        eventually(lambda: (self.n_called, self.n_run) > n and self.n_called > n[0] and self.n_run > n[1], 15, "work as before")
        self.ends.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a call hangs"
        assert not self.failures, self.failures
        if is_same_guest:
            self._judge_sent()
        if is_same_guest and keeps_published:
            self._judge_published()
        self._judge_job(self.push_path, errors, lambda: self._guest_digest(is_same_guest))
        self._judge_job(self.pull_path, errors, lambda: hashlib.md5(open(self.target, "rb").read()).hexdigest())
        self.client.run(self.name, "rm", "-f", self.guest_source, self.guest_target)
        for path in self.source, self.target:
            if os.path.exists(path):
                os.unlink(path)
        self.client.close()

    def _judge_sent(self):
        """What was acknowledged has reached its handler."""
        def missing():
            lines = set(self.client.run(self.name, "cat", "/run/appended")[1].split())
            return [i for i in self.sent if f"{self.run_id}-{i}" not in lines]
        eventually(lambda: not missing(), 10, f"acknowledged, and not there: {missing()[:10]}")

    def _judge_published(self):
        """What guestd kept has reached the host."""
        client = self.lab.client
        client.run(self.name, "touch", f"/run/stop-{self.run_id}")
        kept = set(client.run(self.name, "cat", f"/run/kept-{self.run_id}")[1].split())

        def missing():
            heard = {bytes(args[3]).decode() for _, _, signal, args in client.heard()
                     if signal == "MessageReceived" and args[2] == f"p{self.run_id}"}
            return kept - heard
        eventually(lambda: not missing(), 10, f"kept, and not heard of: {sorted(missing())[:10]}")

    def _guest_digest(self, is_same_guest):
        status, out, _ = self.client.run(self.name, "md5sum", self.guest_target)
        # Done before the reset: it went with the guest's memory.
        return out.split()[0] if status == 0 or is_same_guest else self.digest

    def _judge_job(self, path, errors, digest):
        try:
            job = self.client.wait_job(path, 60)
        except BusError as e:
            # hostd was killed: what it did not write down it does not know.
            assert "UnknownObject" in e.name or "UnknownMethod" in e.name or e.name == "NotFound", str(e)
            return
        if job["State"] == "done":
            assert digest() == self.digest, f"{job['Kind']} says done, and the file is another"
        else:
            assert job["State"] == "failed", job
            name = job["ErrorName"].rpartition(".")[2]
            assert name in errors, (name, job["ErrorMessage"])
