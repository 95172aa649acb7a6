# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the soak does all the time: operations at random, each with its result checked.

An operation may fail for a reason that vmferry names while a fault that touches its guest is under way, and for none at any
other time. One that succeeds must be right, always; one that takes two minutes hangs.
"""

import collections
import hashlib
import os
import random
import string
import threading
import time

from lab.bus import NAME, PATH, BusError, Client, Gio, GLib

HANG = 120
# NotFound: what was pushed is gone with the guest's memory.
NAMED = {"NotReady", "Interrupted", "Timeout", "NoSuchGuest", "NoChannel", "ChannelBusy", "Cancelled", "SourceChanged", "NotFound"}
BUS = "org.freedesktop.DBus.Error."
BUS_GONE = {BUS + n for n in ("NoReply", "ServiceUnknown", "NameHasNoOwner", "UnknownObject", "UnknownMethod", "Disconnected")}


class Weather:
    """Which guests are disturbed now, and how often each has been."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = collections.Counter()
        self.ever = collections.Counter()

    def begin(self, names):
        with self.lock:
            self.now.update(names)
            self.ever.update(names)

    def end(self, names):
        with self.lock:
            self.now.subtract(names)

    def look(self, name):
        with self.lock:
            return self.now[name] > 0, self.ever[name]


class Ledger:
    """What was done and how it ended."""

    def __init__(self):
        self.lock = threading.Lock()
        self.done, self.excused, self.failures = collections.Counter(), collections.Counter(), []

    def add(self, kind, name=None):
        with self.lock:
            (self.excused if name else self.done)[name or kind] += 1

    def fail(self, text):
        with self.lock:
            self.failures.append(text)
        print("FAILURE:", text, flush=True)


class Listener:
    """MessageReceived, from a connection and a thread of its own. `numbers` are those of the small writes."""

    def __init__(self, address, n_numbers):
        self.numbers = bytearray(n_numbers)
        self.n_different = self.n_again = 0
        self.texts = set()
        self.context = GLib.MainContext()
        self.loop = GLib.MainLoop(self.context)
        self.thread = threading.Thread(target=self._run, args=(address,), daemon=True)
        self.ready = threading.Event()
        self.thread.start()
        self.ready.wait(10)

    def _run(self, address):
        self.context.push_thread_default()
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        self.connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
        self.connection.signal_subscribe(NAME, NAME + ".Manager", "MessageReceived", PATH, None, Gio.DBusSignalFlags.NONE,
                                         self._on_message)
        self.ready.set()
        self.loop.run()

    def _on_message(self, connection, sender, path, interface, signal, parameters):
        topic = parameters.get_child_value(2).get_string()
        text = bytes(parameters.get_child_value(3).unpack())
        if topic != "small":
            self.texts.add(text.decode())
        elif self.numbers[int(text)]:
            self.n_again += 1
        else:
            self.numbers[int(text)] = 1
            self.n_different += 1

    def end(self):
        self.loop.quit()
        self.thread.join(5)


class Worker(threading.Thread):
    """One caller; `gate` holds it between operations."""

    def __init__(self, soak, number, name, seed):
        super().__init__(daemon=True)
        self.soak, self.number, self.name_of_guest = soak, number, name
        self.random = random.Random(f"{seed}-{number}")
        self.client = Client(soak.lab.bus.address, signals=False)
        self.directory = soak.lab.place.directory("scratch", f"w{number}")
        self.n = 0
        self.idle = threading.Event()

    def run(self):
        kinds = [("ping", 30), ("call", 30), ("command", 30), ("push and pull", 10), ("queue", 10), ("publish", 10)]
        while not self.soak.ending.is_set():
            if self.soak.holding.is_set():
                self.idle.set()
                time.sleep(0.05)
                continue
            self.idle.clear()
            kind = self.random.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
            self.once(kind, getattr(self, kind.replace(" ", "_")))
            time.sleep(self.random.random() * 0.2)
        self.idle.set()

    def once(self, kind, operation):
        name, ledger = self.name_of_guest, self.soak.ledger
        was_disturbed, before = self.soak.weather.look(name)
        start = time.monotonic()
        self.n += 1
        try:
            operation(name)
            ledger.add(kind)
        except BusError as e:
            took = time.monotonic() - start
            is_disturbed, after = self.soak.weather.look(name)
            if took > HANG:
                ledger.fail(f"{kind} on {name} hung for {took:.0f} s: {e}")
            elif not (was_disturbed or is_disturbed or before != after):
                ledger.fail(f"{kind} on {name}, undisturbed: {e}")
            elif e.name not in NAMED and e.name not in BUS_GONE:
                ledger.fail(f"{kind} on {name}: no reason to fail: {e}")
            else:
                ledger.add(kind, e.name)
                time.sleep(0.3)
        except AssertionError as e:
            ledger.fail(f"{kind} on {name}: {e}")

    def text(self, n):
        return "".join(self.random.choices(string.ascii_letters, k=n))

    def ping(self, name):
        assert self.client.ping(name, timeout=HANG) > 0

    def call(self, name):
        text = self.text(self.random.choice((1, 100, 5000, 65536)))
        assert self.client.message(name, "echo", text) == text, "another text came back"

    def in_guest(self, name, *argv):
        return self.client.run(name, *argv, wait=HANG + 10)

    def command(self, name):
        text, status = self.text(self.random.choice((0, 10, 1000))), self.random.randrange(256)
        got = self.in_guest(name, "sh", "-c", f"printf %s '{text}'; exit {status}")
        assert got == (status, text, ""), f"sh said {got[0]} and {len(got[1])} bytes"

    def job(self, started):
        properties = self.client.wait_job(started[1], HANG)
        if properties["State"] != "done":
            name = properties["ErrorName"]
            raise BusError(name or "running", properties["ErrorMessage"] or "still running after two minutes")
        return properties

    def push_and_pull(self, name):
        """There and back under another name; both files are whole, whatever happened on the way."""
        size = self.random.choice((0, 1, 4096, 100_000, 3_000_000))
        data = self.random.randbytes(size)
        there, back = (os.path.join(self.directory, n) for n in ("there", "back"))
        with open(there, "wb") as file:
            file.write(data)
        path = f"/srv/{self.number}-{self.n}"
        try:
            self.job(self.client.push(name, there, path))
            self.job(self.client.pull(name, path, back))
            with open(back, "rb") as file:
                got = file.read()
            assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest(), f"{len(got)} bytes of {size} came back"
            self.in_guest(name, "rm", path)
        finally:
            if os.path.exists(back):
                os.unlink(back)

    def queue(self, name):
        """Accepted is carried out: looked for at the end, on the guest's disk."""
        item = f"{name}-{self.number}-{self.n}"
        self.client.message(name, "keep", item, method="Send", queue=True)
        self.soak.queued[name].append(item)

    def publish(self, name):
        """Acknowledged in the guest is heard on the host, unless the guest's memory was lost meanwhile."""
        item = f"p-{self.number}-{self.n}"
        status, _, error = self.in_guest(name, "vmferry-guestd", "send", "soak", item)
        if status != 0:
            raise BusError("NotReady" if "LimitsExceeded" in error or "running" in error else "refused", error)
        deadline = time.monotonic() + 30
        while item not in self.soak.listener.texts:
            if time.monotonic() > deadline:
                raise BusError("Interrupted", "the host has not heard an acknowledged message for 30 s")
            time.sleep(0.01)
