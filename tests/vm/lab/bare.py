# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plain channels beside vmferry's in the same machine: what kernel and QEMU do without anybody who minds.

In the guest lab/bare.c holds them open from boot on, and is asked through vmferry; on the host a test connects as it likes.
"""

import os
import select
import socket
import subprocess
import time

from .need import eventually, tool
from .virt import CONTROL, DATA

PORT = "lab.bare.0"
SHELL = "lab.shell.0"  # runs what it is told, whatever becomes of guestd
CHANNELS = [(name, None) for name in (CONTROL, DATA, PORT, SHELL)]
RECORD = 8  # bytes: where each stood in its stream


def compile_c(place, source, output, *flags):
    """A small C program or library of the lab's."""
    path = place.file(output)
    subprocess.run([tool("gcc"), "-O2", *flags, "-o", path, os.path.join(os.path.dirname(__file__), source)], check=True)
    os.chmod(path, 0o755)
    return path


def image(lab, name="bare-ports", **kw):
    """A guest with guestd and the bare ports."""
    if name in lab.images:
        return lab.images[name]
    script = lab.place.file("bare-start")
    with open(script, "w") as file:
        file.write(f"#!/bin/sh\n(bare hold {PORT}; bare shell {SHELL} &) </dev/null >/dev/null 2>&1\n")
    os.chmod(script, 0o755)
    program = compile_c(lab.place, "bare.c", "bare", "-static")
    return lab.image(name, files=[(program, "/usr/bin/bare"), (script, "/etc/lab.d/bare")], **kw)


def records(n):
    """What "bare PORT write" writes, and what a host writes in turn: n bytes that say where they stand."""
    return b"".join(b"%07d\n" % i for i in range((n + RECORD - 1) // RECORD))[:n]


class Bare:
    def __init__(self, lab, vm, port=PORT):
        self.lab, self.vm, self.port = lab, vm, port

    # Host

    def connect(self, timeout=10):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(timeout)
        s.connect(self.vm.channel_path(self.port))
        return s

    @staticmethod
    def send_all_it_takes(s, data, quiet=0.5):
        """How many bytes the socket and QEMU take while nobody reads."""
        s.setblocking(False)
        done = 0
        while done < len(data):
            if not select.select([], [s], [], quiet)[1]:
                break
            done += s.send(data[done:done + 65536])
        s.setblocking(True)
        return done

    @staticmethod
    def receive(s, quiet=0.7, n=1 << 30):
        """All that comes until nothing has come for a while."""
        data = b""
        while len(data) < n and select.select([s], [], [], quiet)[0]:
            try:
                more = s.recv(1 << 20)
            except ConnectionError:
                break
            if not more:
                break
            data += more
        return data

    def speaks(self, s, quiet=2):
        """Whether the guest is heard at the other end of s."""
        self.write(RECORD)
        return self.receive(s, quiet, RECORD) != b""

    # Guest

    def ask(self, *args):
        status, out, err = self.lab.client.guest(self.vm.name, "Run", "(asa{sv})", ["bare", self.port, *map(str, args)], {})
        assert status == 0, bytes(err)
        return bytes(out)

    def poll(self):
        return self.ask("poll").decode().split()

    def read(self):
        return self.ask("read")

    def write(self, n, block=32768):
        """How many of n bytes were accepted."""
        return int(self.ask("write", n, block))

    def guest_close(self):
        self.ask("close")

    def guest_open(self):
        self.ask("open")

    def settle(self, pause=0.3):
        """The guest has heard of what the host did; both ends are empty and nobody is connected."""
        time.sleep(pause)
        with self.connect() as s:
            self.receive(s, pause)
            self.read()
        eventually(lambda: "HUP" in self.poll(), 5, "the guest to see that nobody is connected")
        self.read()
