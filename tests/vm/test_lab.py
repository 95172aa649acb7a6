# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab itself: a machine boots, and its ports carry bytes. If this fails, look no further."""

import socket

from lab.need import eventually
from lab.virt import CONTROL, DATA

PEER = """#!/bin/sh
for port in /sys/class/virtio-ports/*; do
        [ "$(cat $port/name)" = org.vmferry.ctl.0 ] && device=/dev/${port##*/}
done
# Opened once: what has arrived is lost when a port is closed.
(exec 3<>$device; while :; do head -c 6 <&3 >/tmp/heard; [ -s /tmp/heard ] && break; sleep 0.1; done; cat /tmp/heard >&3) &
"""


def test_boot(bare_lab, tmp_path):
    script = tmp_path / "peer"
    script.write_text(PEER)
    script.chmod(0o755)
    image = bare_lab.image("bare", guestd=False, files=[(str(script), "/etc/lab.d/peer")])
    domain = bare_lab.domain("bare", image)
    eventually(lambda: "lab: user space" in domain.console(), 90, "user space")
    assert domain.channel_path(DATA)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(domain.channel_path(CONTROL))
        s.sendall(b"hello\n")
        s.settimeout(20)
        assert s.recv(6) == b"hello\n"
    domain.undefine()
