# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever restarts, many times over: the guest is ready again by itself, within two seconds of its daemon being up, while
somebody pings. Single faults of every kind are in test_faults.py."""

import socket
import time

import pytest

from lab.bus import BusError
from lab.load import Pinger, ready_again
from lab.need import eventually
from lab.virt import CONTROL

LIMIT = 2.0


@pytest.fixture
def pinger(lab, vm):
    lab.client.wait_ready("lab", 60)
    p = Pinger(lab.bus.address, "lab")
    yield p
    p.stop()


def boot_id(client):
    return client.guest_properties("lab")["BootId"]


def test_suspend(lab, vm, client, pinger, rounds):
    for _ in range(rounds):
        vm.suspend()
        time.sleep(0.2)
        vm.resume()
        ready_again(client, time.monotonic())


def test_guestd_killed(lab, vm, client, pinger, rounds):
    for _ in range(rounds):
        starts = vm.guestd_starts()
        client.kill_guestd("lab")
        ready_again(client, vm.wait_guestd(starts))


def test_hostd_killed(lab, vm, client, pinger, rounds):
    for _ in range(rounds):
        lab.hostd.restart()
        client.wait_ready("lab", LIMIT)
        client.ping("lab")


def test_libvirtd_restarted(lab, vm, client, pinger, rounds):
    for i in range(rounds):
        if i % 2:
            lab.libvirtd.kill()
            lab.libvirtd.start()
        else:
            lab.libvirtd.restart()
        ready_again(client, time.monotonic())
        eventually(lambda: client.get("/org/vmferry1", "org.vmferry1.Manager", "LibvirtState") == "connected", 10,
                   "hostd's connection to libvirt")
    # Its events are heard again.
    vm.suspend()
    lab.wait_state("lab", "paused", 5)
    vm.resume()
    lab.wait_state("lab", "ready", 5)


def test_libvirtd_frozen(lab, vm, client, pinger):
    """libvirtd that says nothing at all: everything with a connected guest goes on."""
    lab.libvirtd.freeze()
    try:
        for _ in range(20):
            assert client.ping("lab", timeout=5) > 0
        with open(lab.scratch("frozen"), "wb") as file:
            file.write(b"f" * 5_000_000)
        client.done(client.push("lab", lab.scratch("frozen"), "/srv/frozen"), 20)
        assert client.run("lab", "stat", "-c", "%s", "/srv/frozen")[1] == "5000000\n"
        assert client.message("lab", "upper", "cold") == "COLD"
        assert "lab" in lab.guests()
    finally:
        lab.libvirtd.thaw()
    lab.wait_state("lab", "ready", 10)


def test_reset(lab, vm, client, pinger, rounds):
    for _ in range(rounds):
        before, starts = boot_id(client), vm.guestd_starts()
        vm.reset()
        ready_again(client, vm.wait_guestd(starts))
        assert boot_id(client) != before


def test_destroy_and_start(lab, vm, client, pinger, rounds):
    for _ in range(rounds):
        starts, path = vm.guestd_starts(), vm.channel_path(CONTROL)
        vm.destroy()
        lab.wait_state("lab", "off", 5)
        vm.start()
        assert vm.channel_path(CONTROL) != path
        ready_again(client, vm.wait_guestd(starts))


def test_another_holds_the_socket(lab, vm, client):
    lab.hostd.stop()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(vm.channel_path(CONTROL))
        lab.hostd.start()
        lab.wait_state("lab", "busy", 15)
        with pytest.raises(BusError) as e:
            client.ping("lab")
        assert e.value.name in ("ChannelBusy", "NotReady")
    client.wait_ready("lab", 20)
