# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real vmferry-guestd on this machine, two terminals in place of its ports, and a host in Python behind them."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
import tty

from hostpeer import HostPeer

from lab.need import eventually, guestd_program, need
from lab.place import Place

CONFIG = "[Guest]\nControlChannel={control}\nDataChannel={data}\nHandlersDirectory={handlers}\nHandlerTimeout=3s\n"
# /run and /var/lib are the daemon's own: nothing of this machine's is seen or left.
START = "mount -t tmpfs x /run && mount -t tmpfs x /var/lib && exec \"$@\""


class Terminal:
    """The other end of a guest's device, in the form of a socket."""

    def __init__(self):
        self.fd, self.slave = pty.openpty()  # the slave stays open: no hangup between two users
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)

    def fileno(self):
        return self.fd

    def setblocking(self, blocking):
        os.set_blocking(self.fd, blocking)

    def recv(self, n):
        return os.read(self.fd, n)

    def send(self, data, flags=0):
        return os.write(self.fd, data)

    def shutdown(self, how):
        pass

    def close(self):
        pass


class Guest:
    """config: further lines of guestd.conf; program: another guestd than the build's."""

    def __init__(self, config="", program=None, arguments=("--foreground",), env=None):
        self.place = Place()
        self.control, self.data = Terminal(), Terminal()
        self.handlers = self.place.directory("handlers")
        self.program = program or guestd_program()
        self.config = self.place.file("guestd.conf")
        self.configure(config)
        self.unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
        r = subprocess.run([*self.unshare, "sh", "-c", START, "-", "true"], capture_output=True, text=True)
        need(r.returncode == 0, f"a mount namespace ({r.stderr.strip()})")
        self.process = self.place.start("guestd", [*self.unshare, "sh", "-c", START, "-", self.program, *arguments, "--config",
                                                   self.config], env={**os.environ, **(env or {})})
        self.host = HostPeer(sock=self.control, timeout=10)
        self.host.handshake(10)

    def configure(self, more):
        with open(self.config, "w") as file:
            file.write(CONFIG.format(control=self.control.path, data=self.data.path, handlers=self.handlers) + more)

    def reload(self, more):
        self.configure(more)
        n_before = self.log().count("Configuration read anew")
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.log().count("Configuration read anew") > n_before, 10, "the reload")
        return self.host.handshake(10)

    def log(self):
        return self.place.log("guestd")

    def inside(self, *argv):
        """A command line beside the daemon, with its /run."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.process.pid}", "--mount", *user, "--", *argv]

    def run(self, *arguments, input=None):
        return subprocess.run(self.inside(self.program, *arguments), capture_output=True, input=input, timeout=30)

    def start(self, *arguments):
        return subprocess.Popen(self.inside(self.program, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def connect(self):
        """A connection to its local socket."""
        return Program(f"/proc/{self.process.pid}/root/run/vmferry/guestd.sock")

    def handler(self, name, text):
        path = os.path.join(self.handlers, name)
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + text)
        os.chmod(path, 0o755)

    def well(self, within=2.0):
        """Talks sense: a handshake and a ping."""
        start = time.monotonic()
        self.host.handshake(within)
        self.host.ping(2)
        assert time.monotonic() - start < within
        assert self.process.poll() is None

    def open_data(self):
        self.host.handshake(5)
        self.host.request("data.open")
        peer = HostPeer(sock=self.data, port="data", timeout=10)
        peer.handshake(5)
        return peer

    def end(self):
        status = self.place.stop(self.process)
        log, reports = self.log(), self.place.sanitizer_reports()
        self.place.remove()
        assert status == 0, log[-3000:]
        assert not reports, reports


class Program:
    """One on the guest's local socket: lines of JSON."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.file = self.socket.makefile("r", encoding="utf-8")

    def say(self, **line):
        self.socket.sendall(json.dumps(line).encode() + b"\n")

    def hear(self, timeout=10):
        self.socket.settimeout(timeout)
        return json.loads(self.file.readline())

    def ask(self, **line):
        self.say(**line)
        return self.hear()

    def close(self):
        self.file.close()
        self.socket.close()


def ended(path):
    """Ends what still runs with this configuration: a daemon that is nobody's child."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if path.encode() in words and b"vmferry-guestd" in words[0]:
                os.kill(int(pid), signal.SIGTERM)
                eventually(lambda p=pid: not os.path.exists(f"/proc/{p}") or open(f"/proc/{p}/stat").read().split()[2] == "Z", 10,
                           "the daemon's end")
                return int(pid)
        except (OSError, ProcessLookupError):
            pass
    return None


def copy_of(program, place, name="vmferry-guestd", tail=b""):
    """The same program as another file; with a tail it has another digest."""
    path = place.file(name)
    shutil.copy(program, path)
    with open(path, "ab") as file:
        file.write(tail)
    os.chmod(path, 0o755)
    return path
