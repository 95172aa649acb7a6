# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports with other names and paths of their own, and a guest whose kernel has yet to load the driver."""

import os

from lab.virt import Image

CONFIG = "ControlChannel=vm.ctl\nDataChannel=vm.data\n"


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return str(path)


def test_other_names(bare_lab, tmp_path):
    conf = write(tmp_path / "guestd.conf", "[Guest]\n" + CONFIG)
    bare_lab.start_hostd(CONFIG)
    image = Image(bare_lab.place, "names", files=[(conf, "/etc/vmferry/guestd.conf")])
    sockets = bare_lab.place.directory("sockets", mode=0o777, owned=True)
    channels = [("org.other.0", None), ("vm.ctl", os.path.join(sockets, "c")), ("vm.data", os.path.join(sockets, "d"))]
    bare_lab.domain("named", image, channels=channels)
    client = bare_lab.client
    client.wait_ready("named", 90)
    assert client.guest_properties("named")["ControlSocket"] == os.path.join(sockets, "c")
    client.done(client.push("named", "/etc/passwd", "/srv/p"))
    assert client.run("named", "cat", "/srv/p")[1] == open("/etc/passwd").read()


def test_device_nodes(bare_lab, tmp_path):
    """Guests that give their ports no names see them as /dev/vport…; the first here is taken by another."""
    conf = write(tmp_path / "guestd.conf", "[Guest]\nControlChannel=/dev/vport0p2\nDataChannel=/dev/vport0p3\n")
    image = Image(bare_lab.place, "nodes", files=[(conf, "/etc/vmferry/guestd.conf")])
    bare_lab.domain("nodes", image, channels=[("org.other.0", None), ("vm.ctl", None), ("vm.data", None)])
    bare_lab.client.wait_ready("nodes", 90)
    assert bare_lab.client.run("nodes", "true")[0] == 0


def test_no_driver_yet(bare_lab):
    """guestd loads virtio_console itself; the rest of the bus is there, as it is where a disk is virtio."""
    image = Image(bare_lab.place, "nodriver")
    bare_lab.domain("nodriver", image, channels=[("vm.ctl", None), ("vm.data", None)],
                    cmdline="lab.nomodules lab.args=--control=vm.ctl,--data=vm.data")
    bare_lab.client.wait_ready("nodriver", 90)
