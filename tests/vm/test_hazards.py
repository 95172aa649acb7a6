# SPDX-License-Identifier: LGPL-2.1-or-later
"""What virtio-serial does to those who believe in it: each hazard is shown on a bare port first, with the same fault, and then
vmferry's pair in the same machine is ready again, and has lost nothing that it had acknowledged."""

import os
import signal
import socket
import subprocess
import time

import pytest

from hostpeer import HELLO, frame
from lab import bare
from lab.bare import Bare
from lab.load import Load, ready_again
from lab.need import eventually, need
from lab.virt import CONTROL

LIMIT = 2.0
HALF = frame(HELLO, b"x" * 30000)[:5000]  # of a frame that nobody ends


@pytest.fixture(scope="module")
def vm(bare_vm):
    return bare_vm


@pytest.fixture
def port(lab, vm):
    """A bare port with both ends empty, and nobody connected."""
    lab.client.wait_ready("lab", 60)
    b = Bare(lab, vm)
    b.settle()
    return b


@pytest.fixture
def without_hostd(lab):
    """Calls a function while there is no hostd; then the guest is ready in time."""
    def go(what):
        lab.hostd.kill()
        what()
        lab.hostd.start()
        lab.client.wait_ready("lab", LIMIT)
        lab.client.ping("lab")
    return go


def says(path, data, pause=0.2):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        s.sendall(data)
        time.sleep(pause)


# 1.1


def test_poll_does_not_wait_without_a_client(lab, vm, client, port):
    """poll(2) returns at once, for ever; guestd without its host sleeps."""
    assert port.poll() == ["IN", "HUP"]
    assert int(port.ask("spin", 300)) > 1000
    pid = client.guestd_pid("lab")
    lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c",
                f"sleep 1; grep ^voluntary /proc/{pid}/status > /run/sleeps; sleep 2; grep ^voluntary /proc/{pid}/status >> /run/sleeps",
                check=True)
    lab.hostd.kill()
    time.sleep(4)
    lab.hostd.start()
    client.wait_ready("lab", LIMIT)
    before, after = (int(n) for n in client.run("lab", "awk", "{print $2}", "/run/sleeps")[1].split())
    assert after - before < 20


# 1.3, 1.8, 2.4, 2.6


def test_streams_are_spliced(lab, vm, port, without_hostd):
    """Half a word of one client, and the next one's: the guest sees one stream. So does guestd, and hunts."""
    says(vm.channel_path(port.port), b"half-a-")
    says(vm.channel_path(port.port), b"word")
    assert port.read() == b"half-a-word"
    without_hostd(lambda: says(vm.channel_path(CONTROL), HALF))


def test_guest_output_is_spliced(lab, vm, client, port):
    """The guest's daemon goes, another one speaks: the client sees no end. Nor does hostd, half a frame in its hands."""
    with port.connect() as s:
        eventually(lambda: "OUT" in port.poll(), 5, "the client")
        port.write(12)
        port.guest_close()
        port.guest_open()
        port.write(8)
        assert port.receive(s) == b"0000000\n0000" + b"0000000\n"
    for _ in range(2):
        starts = vm.guestd_starts()
        client.kill_guestd("lab")
        ready_again(client, vm.wait_guestd(starts))


# 1.10, 2.2


def test_written_is_not_read(lab, vm, client, port):
    """Megabytes that write(2) has accepted are gone with the client. What guestd keeps, it keeps until hostd has answered."""
    s = port.connect()
    eventually(lambda: "OUT" in port.poll(), 5, "the client")
    n = port.write(2_000_000)
    assert n > 200_000
    s.close()
    eventually(lambda: "HUP" in port.poll(), 5, "its end")
    with port.connect() as s:
        assert port.receive(s) == b""
    load = Load(lab)
    try:
        lab.hostd.process.send_signal(signal.SIGSTOP)  # connected, and deaf
        time.sleep(1)
        lab.hostd.restart()
        client.wait_ready("lab", LIMIT)
        load.judge()
    finally:
        load.ends.set()


# 2.1


def test_stale_bytes_wait_for_the_guest(lab, vm, client, port):
    """What a client says while nobody has the port open is delivered later, however old."""
    port.guest_close()
    with port.connect() as s:
        s.sendall(b"old news")
        time.sleep(0.5)
        port.guest_open()
        eventually(lambda: port.read() == b"old news", 5, "the stale bytes")
    # The same for guestd: held back while hostd knocks again and again.
    pid, starts = client.guestd_pid("lab"), vm.guestd_starts()
    says_so(vm, f"touch /run/lab-hold; kill -9 {pid}")
    lab.hostd.restart()
    lab.wait_state("lab", "waiting", 10)
    time.sleep(2)
    says_so(vm, "rm /run/lab-hold")
    ready_again(client, vm.wait_guestd(starts))


def says_so(vm, line):
    """A line for the shell that listens on the second bare port: without guestd there is no other way in."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(vm.channel_path(bare.SHELL))
        s.sendall(line.encode() + b"\n")
        time.sleep(0.3)


# 2.3


def test_second_client_is_queued(lab, vm, client, port, without_hostd):
    """It connects, sends, hears nothing, dies; what it said comes after the first one's. hostd never speaks in a queue."""
    path = vm.channel_path(port.port)
    with port.connect() as first:
        time.sleep(0.1)
        says(path, b"ghost")
        first.sendall(b"live ")
        time.sleep(0.2)
        assert port.read() == b"live "
    eventually(lambda: port.read() == b"ghost", 5, "the ghost's words")
    # A ghost behind hostd, which then goes.
    says(vm.channel_path(CONTROL), HALF)
    client.ping("lab")
    without_hostd(lambda: time.sleep(0.2))


# 2.5


def test_close_loses_the_tail(lab, vm, client, port, rng):
    """QEMU drops what it has not read when a client hangs up; a half-close and a wait for the end save it."""
    data = bare.records(500_000)
    for _ in range(10):
        with port.connect() as s:
            n = port.send_all_it_takes(s, data)
        time.sleep(0.3)
        if len(port.read()) < n:
            break
    else:
        pytest.fail("all of it has arrived")
    with port.connect() as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
    assert port.read() == data
    # hostd is ended behind the last acknowledgement: by its unit, and by a crash.
    for end in lab.hostd.stop, lab.hostd.kill:
        text = f"{end.__name__} {rng.random()}"
        client.message("lab", "append", text, method="Send")
        client.done(client.push("lab", "/bin/busybox", "/srv/whole"))
        end()
        lab.hostd.start()
        client.wait_ready("lab", LIMIT)
        assert client.run("lab", "cmp", "/srv/whole", "/bin/busybox")[0] == 0
        eventually(lambda: text in client.run("lab", "cat", "/run/appended")[1], 10, "the acknowledged message")


def test_no_half_duplex(lab, vm, client, port, without_hostd):
    """A client that shuts its reading end makes the port deaf and leaves it so; the next one heals it."""
    with port.connect() as s:
        eventually(lambda: "OUT" in port.poll(), 5, "the client")
        s.shutdown(socket.SHUT_RD)
        port.write(64)
        s.sendall(b"still heard")
        eventually(lambda: port.read() == b"still heard", 5, "the other direction")
        assert port.write(8_000_000) < 8_000_000
    port.settle()

    def shut():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(vm.channel_path(CONTROL))
            s.shutdown(socket.SHUT_RD)
            time.sleep(1)
    without_hostd(shut)


# 2.7


class Busy:
    """The guest's kernel does nothing about what it is told: it stays in the control queue, of which 32 words fit."""

    def __init__(self, vm, seconds=4):
        self.vm, self.seconds = vm, seconds

    def __enter__(self):
        self.n = self.vm.said("lab: idle"), self.vm.said("lab: busy")
        # By then the guest knows that this connection is over: another word would change what the last one is.
        says(self.vm.channel_path(bare.SHELL),
             f"sleep 1; echo 'lab: busy' >/dev/console; bare busy {self.seconds * 1000}; echo 'lab: idle' >/dev/console\n".encode())
        eventually(lambda: self.vm.said("lab: busy") > self.n[1], 10, "a busy guest", every=0.02)
        time.sleep(0.3)

    def __exit__(self, *_):
        eventually(lambda: self.vm.said("lab: idle") > self.n[0], 30, "an idle guest", every=0.02)


def flap(path, n):
    """n connections, each of which QEMU has accepted before the next one is made."""
    deadline = time.monotonic() + 30
    while n > 0 and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            try:
                s.connect(path)
                n -= 1
            except BlockingIOError:  # the queue in front of QEMU is full
                pass
            time.sleep(0.003)


def overflow(vm, path):
    """What the guest keeps is an even number of words that begin with "closed"."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        time.sleep(0.5)
        with Busy(vm):
            s.close()
            flap(path, 60)


@pytest.mark.slow
def test_flapping_overflows_the_control_queue(lab, vm, client, port, without_hostd):
    """32 words fit; "closed" gets lost, and the guest writes to nobody. One connection more repairs it, and so does hostd's."""
    for _ in range(4):
        overflow(vm, vm.channel_path(port.port))
        ready_again(client, time.monotonic())
        if "HUP" not in port.poll():
            break
    else:
        pytest.fail("the guest has understood all of it")
    assert "OUT" in port.poll() and port.write(4096) == 4096
    port.settle()
    without_hostd(lambda: overflow(vm, vm.channel_path(CONTROL)))


# 2.8


@pytest.mark.parametrize("when", ["reconnected while paused", "reconnected afterwards",
                                  pytest.param("nothing was written", marks=pytest.mark.slow)])
def test_client_lost_while_paused(lab, vm, client, port, when):
    """QEMU tells the guest of no loss; what the guest then writes makes the port deaf, for the next client too."""
    s = port.connect()
    eventually(lambda: "OUT" in port.poll(), 5, "the client")
    if when == "reconnected while paused":
        port.write(1_000_000)  # throttled when it stops
    load = Load(lab)
    try:
        vm.suspend()
        s.close()
        lab.hostd.kill()
        if when != "reconnected afterwards":
            lab.hostd.start()
            lab.wait_state("lab", "paused", 10)
        if when == "reconnected while paused":
            s = port.connect()
        vm.resume()
        since = time.monotonic()
        if when == "reconnected afterwards":
            time.sleep(1)  # guestd has something to say to nobody
            lab.hostd.start()
            since = time.monotonic()
        ready_again(client, since)
        if when == "reconnected while paused":
            assert port.receive(s) == b""
            s.close()
        elif when == "reconnected afterwards":
            assert "OUT" in port.poll()
            assert 0 < port.write(8_000_000) < 8_000_000
            with port.connect() as s:
                s.sendall(b"heard")
                eventually(lambda: port.read() == b"heard", 5, "the other direction")
                assert port.receive(s) == b""
        time.sleep(0.3)
        with port.connect() as s:
            time.sleep(0.3)
            port.receive(s, 0.3)
            assert port.speaks(s)
        load.judge(errors=("Interrupted", "Cancelled"))
    finally:
        load.ends.set()


# 2.10


def test_reset_keeps_half_of_everything(lab, vm, client, port, undisturbed):
    """The client stays; of what was under way, the rings are dropped and the sockets' bytes arrive in the next boot."""
    s = port.connect()
    eventually(lambda: "OUT" in port.poll(), 5, "the client")
    offered = bare.records(800_000)
    taken = port.send_all_it_takes(s, offered)
    written = port.write(1_000_000)
    load, starts = Load(lab), vm.guestd_starts()
    try:
        vm.reset()
        ready_again(client, vm.wait_guestd(starts))
        stale = port.read()
        assert 0 < len(stale) < taken and stale in offered and not offered.startswith(stale)
        assert 0 < len(port.receive(s)) < written
        load.judge(is_same_guest=False, errors=("Interrupted", "NotFound", "SourceChanged"))
    finally:
        load.ends.set()
        s.close()


@pytest.mark.slow
def test_end_with_unread_bytes_is_an_error(lab, vm, client, port, undisturbed):
    """ECONNRESET, not an end; and the next start has other sockets: facts 11 and 2.10."""
    s = port.connect()
    port.send_all_it_takes(s, bare.records(800_000))
    paths, starts = [vm.channel_path(name) for name in (port.port, CONTROL)], vm.guestd_starts()
    vm.destroy()
    with pytest.raises(ConnectionResetError):
        s.recv(1)
    lab.wait_state("lab", "off", 5)
    assert not any(os.path.exists(path) for path in paths)
    vm.start()
    assert not set(paths) & {vm.channel_path(name) for name in (port.port, CONTROL)}
    ready_again(client, vm.wait_guestd(starts))
    assert client.guest_properties("lab")["ControlSocket"] == vm.channel_path(CONTROL)


# 2.11


@pytest.mark.slow
def test_events_are_merged(lab, vm, client, port):
    """Four times closed and opened: QEMU tells less. guestd may come and go as often."""
    events = subprocess.Popen([lab.libvirtd.virsh_program, "-q", "-c", lab.libvirtd.uri, "qemu-monitor-event", "lab", "--loop",
                               "--event", "VSERPORT_CHANGE", "--timeout", "4"], stdout=subprocess.PIPE, text=True,
                              env=lab.libvirtd.env)
    time.sleep(0.5)
    client.run("lab", "sh", "-c", f"for i in 1 2 3 4; do bare {port.port} close; bare {port.port} open; done")
    assert 1 <= len(events.communicate(timeout=20)[0].splitlines()) < 8
    for _ in range(4):
        starts = vm.guestd_starts()
        client.kill_guestd("lab")
        ready_again(client, vm.wait_guestd(starts))


# 4.7


@pytest.mark.slow
def test_controller_cannot_be_plugged_in(lab, vm, client, undisturbed):
    """A machine without one gets no channel while it runs; vmferry says so, and it is ready after its next start."""
    plain = lab.domain("plain", vm.image, channels=(), controller=False, memory=256)
    try:
        lab.wait_state("plain", "no-channel")
        xml = lab.place.file("plain.xml")
        with open(xml, "w") as file:
            file.write("<channel type='unix'><target type='virtio' name='lab.bare.0'/></channel>")
        assert "controller" in plain.virsh("attach-device", xml, "--live", check=False).stderr
        assert client.manager("EnableChannels", "(sa{sv})", "plain", {}) is False
        assert client.state("plain") == "no-channel"
        plain.destroy()
        plain.start()
        client.wait_ready("plain", 60)
    finally:
        plain.undefine()


# 1.11


def test_driver_is_unbound(lab, vm, client, port):
    """Every port is unplugged under those who have it open; the next ones are other devices."""
    with port.connect() as s:
        eventually(lambda: "OUT" in port.poll(), 5, "the client")
        lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c",
                    "cd /sys/bus/virtio/drivers/virtio_console; d=$(basename $(echo virtio*));"
                    " echo $d > unbind; sleep 1; echo $d > bind; echo 'lab: bound' > /dev/console", check=True)
        n = vm.said("lab: bound")
        eventually(lambda: vm.said("lab: bound") > n, 10, "the driver", every=0.02)
        ready_again(client, time.monotonic())
        assert port.poll() == ["HUP"]
        port.guest_close()
        port.guest_open()
        assert port.speaks(s)


# 1.13: the last, for the bare port is beyond help behind it


@pytest.mark.slow
def test_suspend_with_a_full_queue(lab, vm, client, port):
    """Bytes of both directions vanish, and a queue that was full stays unwritable for ever. guestd never fills it."""
    s = port.connect()
    eventually(lambda: "OUT" in port.poll(), 5, "the client")
    s.sendall(bare.records(30_000))
    accepted = port.write(8_000_000)
    assert accepted < 8_000_000
    load = Load(lab)
    try:
        lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c",
                    "echo devices > /sys/power/pm_test; sleep 1; echo mem > /sys/power/state; echo 'lab: awake' > /dev/console",
                    check=True)
        eventually(lambda: vm.said("lab: awake"), 60, "the end of its sleep", every=0.02)
        ready_again(client, time.monotonic())
        assert port.read() == b""
        assert len(port.receive(s)) < accepted
        s.close()
        time.sleep(0.5)
        with port.connect() as s:
            assert "OUT" not in port.poll() and port.write(8) == 0
        load.judge()
    finally:
        load.ends.set()
