# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another process has the channel: QEMU serves one at a time, and hostd waits in its queue, says who it is that it waits for, and
comes in when that one leaves."""

import os
import socket
import struct
import subprocess
import sys

import pytest
from conftest import Host
from guestpeer import GuestPeer

from lab.need import eventually

INTRUDER = """
import socket, sys
while True:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1])
        break
    except OSError:
        s.close()
sys.stdin.read()
"""


@pytest.fixture
def host():
    host = Host(peers=("good",))
    yield host
    host.end()


def serve_first(path, pid):
    """A listener with QEMU's backlog that serves this process: (listener, connection). hostd may be quicker: then once more."""
    for _ in range(20):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        served, _ = listener.accept()
        if struct.unpack("iII", served.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == pid:
            return listener, served
        listener.close()
        served.close()
        os.unlink(path)
    pytest.fail("hostd is always quicker")
    return None


def knows_sockets():
    """Whether this kernel lists sockets for us (unix_diag)."""
    by_family, dump = 20, 0x301
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:
        netlink.send(struct.pack("IHHII", 40, by_family, dump, 1, 0) + struct.pack("BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 0, 0, 0))
        return struct.unpack("IH", netlink.recv(65536)[:6])[1] == by_family


def test_busy(host):
    path = host.socket("good", "ctl")
    host.peers["good"].close()
    with subprocess.Popen([sys.executable, "-c", INTRUDER, path], stdin=subprocess.PIPE) as intruder:
        listener, served = serve_first(path, intruder.pid)
        eventually(lambda: host.client.state("good") == "busy", 20, "busy")
        who = f"process {intruder.pid} (python" if knows_sockets() else "process"
        eventually(lambda: who in host.client.guest_properties("good")["StateReason"], 10, who)
        assert path in host.client.guest_properties("good")["StateReason"]
        served.close()
        listener.close()
        intruder.stdin.close()
    host.peers["good"] = GuestPeer(path, host.socket("good", "data"), "good")
    host.client.wait_ready("good", 20)
