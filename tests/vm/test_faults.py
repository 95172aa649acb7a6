# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever breaks amid work of every kind: nothing acknowledged is lost, no job hangs or lies, the guest is ready again by
itself, and the other machine has noticed nothing. Plain restarts, many times over, are in test_recovery.py."""

import os
import resource
import signal
import socket
import struct
import subprocess
import time
from xml.etree import ElementTree

import pytest

from lab import bare
from lab.bus import BusError
from lab.load import Load, is_known, ready_again
from lab.need import eventually, need
from lab.virt import CONTROL, DATA

LIMIT = 2.0
COUNTERS = "Sessions", "Reconnects", "Resyncs", "FramesDropped"


@pytest.fixture(scope="module")
def vm(bare_vm):
    return bare_vm


def amid(rng, most=0.6):
    time.sleep(rng.uniform(0, most))


def counters(client):
    properties = client.guest_properties("lab")
    return sum(properties[name] for name in COUNTERS)


def boot_id(client):
    return client.guest_properties("lab")["BootId"]


# The domain


def test_suspend(vm, client, load, undisturbed, rng):
    amid(rng)
    vm.suspend()
    time.sleep(rng.uniform(0, 3))
    vm.resume()
    ready_again(client, time.monotonic())
    load.judge()


def test_reset(vm, lab, client, load, undisturbed, rng):
    before, starts, n = boot_id(client), vm.guestd_starts(), counters(client)
    amid(rng)
    vm.reset()
    ready_again(client, vm.wait_guestd(starts))
    assert boot_id(client) != before
    assert counters(client) > n
    text = lab.vmferry("metrics", check=True).stdout
    for name in "reconnects", "resyncs", "frames_dropped", "sessions":
        assert f'vmferry_guest_{name}_total{{guest="lab"' in text
    load.judge(is_same_guest=False, errors=("Interrupted", "NotFound", "SourceChanged"))


@pytest.mark.slow
def test_acpi_reboot(vm, client, load, undisturbed, rng):
    """As a guest does it by itself: the kernel writes ACPI's reset register."""
    before, starts = boot_id(client), vm.guestd_starts()
    amid(rng)
    try:
        client.run("lab", "reboot", "-f", wait=20)
    except BusError as e:
        assert is_known(e), str(e)
    ready_again(client, vm.wait_guestd(starts))
    assert boot_id(client) != before
    load.judge(is_same_guest=False, errors=("Interrupted", "NotFound", "SourceChanged"))


@pytest.mark.slow
def test_kexec(vm, lab, client, load, undisturbed, rng):
    """No reset of the machine: the next kernel's probe resets the device. Emulated, the digest of what is loaded takes its time."""
    for source, name in (vm.image.kernel, "vmlinuz"), (vm.image.initramfs, "initrd"):
        client.done(client.push("lab", source, f"/srv/{name}"))
    before, starts = boot_id(client), vm.guestd_starts()
    amid(rng)
    try:
        status, _, err = client.run("lab", "bare", "kexec", "/srv/vmlinuz", "/srv/initrd", wait=200)
        assert status == 0, err
    except BusError as e:
        assert is_known(e), str(e)
    ready_again(client, vm.wait_guestd(starts, 200))
    assert boot_id(client) != before
    load.judge(is_same_guest=False, errors=("Interrupted", "NotFound", "SourceChanged"))


@pytest.mark.slow
def test_destroy(vm, lab, client, load, undisturbed, rng):
    starts = vm.guestd_starts()
    amid(rng)
    vm.destroy()
    lab.wait_state("lab", "off", 5)
    vm.start()
    ready_again(client, vm.wait_guestd(starts))
    load.judge(is_same_guest=False, errors=("Interrupted", "NotFound", "SourceChanged"))


def test_qemu_killed(vm, lab, client, load, undisturbed, rng):
    starts = vm.guestd_starts()
    amid(rng)
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    lab.wait_state("lab", "off", 10)
    vm.start()
    ready_again(client, vm.wait_guestd(starts))
    load.judge(is_same_guest=False, errors=("Interrupted", "NotFound", "SourceChanged"))


def test_qemu_stopped(vm, lab, client, load, undisturbed, rng):
    """No event says so: only silence does. Calls end, and afterwards all goes on."""
    pid = vm.qemu_pid()
    amid(rng)
    os.kill(pid, signal.SIGSTOP)
    try:
        lab.wait_state("lab", "unresponsive", 15)
        with pytest.raises(BusError) as e:
            client.ping("lab", timeout=20)
        assert e.value.name == "NotReady"
    finally:
        os.kill(pid, signal.SIGCONT)
    ready_again(client, time.monotonic())
    load.judge()


# The guest's daemon


def test_guestd_killed(vm, client, load, undisturbed, rng):
    n = counters(client)
    amid(rng)
    starts = vm.guestd_starts()
    client.kill_guestd("lab")
    ready_again(client, vm.wait_guestd(starts))
    assert counters(client) > n
    load.judge(keeps_published=False, errors=("Interrupted", "Failed"))


def test_guestd_stopped(vm, lab, client, load, undisturbed, rng):
    """Stopped for longer than anybody waits, then continued: half a conversation old."""
    amid(rng)
    lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c",
                f"p={client.guestd_pid('lab')}; sleep 1; kill -STOP $p; sleep 8; kill -CONT $p; echo 'lab: continued' >/dev/console", check=True)
    eventually(lambda: client.state("lab") != "ready", 8, "its silence noticed")
    n = vm.said("lab: continued")
    eventually(lambda: vm.said("lab: continued") > n, 30, "guestd continued", every=0.02)
    ready_again(client, time.monotonic())
    load.judge()


def test_guestd_replaced(vm, client, load, undisturbed, rng):
    """The file is another one, and the daemon ends as an upgrade of its package would end it: nothing of its box is lost."""
    assert client.run("lab", "sh", "-c", "cp -p /usr/sbin/vmferry-guestd /usr/sbin/new && mv /usr/sbin/new /usr/sbin/vmferry-guestd")[0] == 0
    pid, starts = client.guestd_pid("lab"), vm.guestd_starts()
    amid(rng)
    try:
        client.run("lab", "kill", "-TERM", pid)
    except BusError as e:
        assert is_known(e), str(e)
    ready_again(client, vm.wait_guestd(starts))
    load.judge(errors=("Interrupted", "Failed"))


def test_guestd_out_of_descriptors(vm, lab, client, undisturbed):
    """What needs one more is refused with a word; as soon as there are some, it works as before."""
    limit = lab.vmferry("exec", "--detach", "lab", "--", "bare", "limit", client.guestd_pid("lab"), "6", check=True).stdout.strip()
    time.sleep(0.5)
    refused = []
    for _ in range(4):
        for what in (lambda: client.run("lab", "true", wait=20), lambda: client.message("lab", "echo", "x"),
                     lambda: client.done(client.push("lab", "/etc/passwd", "/srv/passwd"), 20)):
            try:
                what()
            except BusError as e:
                refused.append(e.name)
            except AssertionError as e:
                refused.append(e.args[0])
        client.ping("lab")
    assert refused, "the limit was none"
    # A command now and then finds a descriptor that another one has just left.
    assert client.wait_job(f"/org/vmferry1/job/{limit}", 20)["State"] == "done"
    assert client.run("lab", "echo", "fine")[1] == "fine\n"
    assert client.message("lab", "echo", "x") == "x"
    client.done(client.push("lab", "/etc/passwd", "/srv/passwd"), 20)


def test_guest_disk_full(vm, lab, client, undisturbed):
    """/run and /srv without a byte left: what needs one says so, nothing hangs, and it is over when there is room."""
    with open(lab.scratch("mib"), "wb") as file:
        file.write(os.urandom(1 << 20))
    client.run("lab", "sh", "-c", "rm -rf /srv/*; for d in /run /srv; do mount -o remount,size=$(($(du -sk $d | cut -f 1) + 200))k $d;"
               " cat /dev/zero > $d/full; done")
    try:
        assert client.failed(client.push("lab", lab.scratch("mib"), "/srv/mib")) == "NoSpace"
        for _ in range(3):
            try:
                assert client.run("lab", "echo", "fine", wait=20)[1] == "fine\n"
                assert client.message("lab", "echo", "x") == "x"
            except BusError as e:
                assert e.name in ("NoSpace", "Failed"), str(e)
        detached = lab.vmferry("exec", "--detach", "lab", "--", "echo", "x")
        assert detached.returncode == 0 or "space" in detached.stderr, detached.stderr
        client.ping("lab")
    finally:
        client.run("lab", "sh", "-c", "rm /run/full /srv/full; for d in /run /srv; do mount -o remount,size=90% $d; done")
    assert "mib" not in client.run("lab", "ls", "-A", "/srv")[1]
    client.done(client.push("lab", lab.scratch("mib"), "/srv/mib"))
    assert client.run("lab", "echo", "fine")[1] == "fine\n"


def test_guest_clock_steps(vm, client, load, undisturbed):
    """Years ahead, and to before this machine was built: no wait is longer or shorter for it."""
    client.heard()
    since = time.monotonic()
    for seconds in 400_000_000, -800_000_000, 400_000_000:
        client.run("lab", "sh", "-c", f"date -s @$(($(date +%s) + {seconds}))")
        time.sleep(0.3)
        client.ping("lab")
    assert not [args for at, _, signal, args in client.heard() if at > since and signal == "GuestStateChanged"]
    load.judge()


# The host's daemon


def test_hostd_killed(vm, lab, client, rng, rounds):
    """At random moments; the work that the guest was at goes on."""
    for _ in range(max(2, rounds // 3)):
        client.wait_ready("lab", 20)
        load = Load(lab)
        try:
            for _ in range(2):
                amid(rng, 1)
                lab.hostd.restart()
                client.wait_ready("lab", LIMIT)
            load.judge(errors=("Interrupted", "Cancelled"))
        finally:
            load.ends.set()


@pytest.mark.slow
def test_hostd_stopped(vm, lab, client, load, rng):
    """SIGSTOP for longer than the guest waits for anybody."""
    amid(rng)
    lab.hostd.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    lab.hostd.process.send_signal(signal.SIGCONT)
    ready_again(client, time.monotonic())
    load.judge()


def test_hostd_out_of_descriptors(vm, lab, client):
    """What needs one more is refused with a word. A machine that starts meanwhile is ready when there are some again."""
    pid = lab.hostd.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    refused = []
    starts = vm.guestd_starts()
    vm.destroy()
    lab.wait_state("lab", "off", 5)
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    free = next(n for n in range(len(used) + 1) if n not in used)  # descriptors above stay: a limit is of numbers
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free + 1, before[1]))
    try:
        vm.start()
        for _ in range(3):
            try:
                client.run("other", "true", wait=20)
            except BusError as e:
                refused.append(e.name)
            job = client.push("other", "/etc/passwd", "/srv/passwd")[1]
            if client.wait_job(job, 30)["State"] == "failed":
                refused.append(client.job_properties(job)["ErrorName"])
        client.ping("other")
        assert refused, "the limit was none"
        assert not [name for name in refused if name.endswith("NoReply")], refused
        vm.wait_guestd(starts)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    client.wait_ready("lab", 20)
    assert client.run("lab", "echo", "fine")[1] == "fine\n"
    client.done(client.push("other", "/etc/passwd", "/srv/passwd"))


def test_host_disk_full(vm, lab, client, undisturbed):
    """A pull that finds no room says so and leaves nothing behind."""
    need(os.geteuid() == 0, "root, for a small file system")
    small = lab.place.directory("small")
    client.run("lab", "sh", "-c", "head -c 3000000 /dev/urandom > /srv/three")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "vmferry-test", small], check=True)
    try:
        assert client.failed(client.pull("lab", "/srv/three", f"{small}/three")) == "NoSpace"
        assert os.listdir(small) == []
        client.ping("lab")
    finally:
        subprocess.run(["umount", small], check=True)
    client.done(client.pull("lab", "/srv/three", f"{small}/three"))


@pytest.mark.slow
def test_host_clock_steps(vm, lab, client):
    """The shipped daemon under a clock that is moved by years, both ways."""
    step = lab.scratch("step")
    with open(step, "wb") as file:
        file.write(struct.pack("l", 0))
    shim = bare.compile_c(lab.place, "step.c", "step.so", "-shared", "-fPIC")
    env = dict(lab.hostd.env)
    lab.hostd.env.update(LD_PRELOAD=shim, LAB_STEP=step, ASAN_OPTIONS=env["ASAN_OPTIONS"] + ":verify_asan_link_order=0")
    lab.hostd.restart()
    try:
        client.wait_ready("lab", 20)
        load = Load(lab)
        client.heard()
        since = time.monotonic()
        for seconds in 400_000_000, -400_000_000, 0:
            with open(step, "r+b") as file:
                file.write(struct.pack("l", seconds))
            job = client.push("lab", "/etc/passwd", "/srv/passwd")
            assert abs(client.done(job)["StartedAt"] / 1e6 - time.time() - seconds) < 1000  # it was moved
            time.sleep(0.5)
            client.ping("lab")
        assert not [args for at, _, signal, args in client.heard() if at > since and signal == "GuestStateChanged"]
        load.judge()
    finally:
        lab.hostd.env = env
        lab.hostd.restart()
        client.wait_ready("lab", 20)


# libvirt's daemon


@pytest.mark.parametrize("how", [pytest.param("restarted", marks=pytest.mark.slow), "killed",
                                 pytest.param("frozen", marks=pytest.mark.slow)])
def test_libvirtd(vm, lab, client, load, undisturbed, rng, how):
    amid(rng)
    if how == "restarted":
        lab.libvirtd.restart()
    elif how == "killed":
        lab.libvirtd.kill()
        time.sleep(1)
        lab.libvirtd.start()
    else:
        lab.libvirtd.freeze()
        time.sleep(3)
        lab.libvirtd.thaw()
    client.ping("lab")
    load.judge()
    eventually(lambda: client.get("/org/vmferry1", "org.vmferry1.Manager", "LibvirtState") == "connected", 15, "libvirt again")


@pytest.mark.slow
def test_qemu_killed_without_libvirtd(vm, lab, client, undisturbed):
    """Nobody removes the socket: a connection is refused, and the guest is not ready until it is."""
    starts, path = vm.guestd_starts(), vm.channel_path(CONTROL)
    pid = vm.qemu_pid()
    lab.libvirtd.kill()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: client.state("lab") != "ready", 10, "noticed")
    with socket.socket(socket.AF_UNIX) as s, pytest.raises(ConnectionRefusedError):
        s.connect(path)
    with pytest.raises(BusError) as e:
        client.ping("lab", timeout=20)
    assert e.value.name == "NotReady"
    lab.libvirtd.start()
    lab.wait_state("lab", "off", 20)
    vm.start()
    ready_again(client, vm.wait_guestd(starts))


# The channels


def channel_xml(vm, name, is_new=False):
    for channel in ElementTree.fromstring(vm.live_xml()).iter("channel"):
        if channel.find("target").get("name") == name:
            if is_new:
                return f"<channel type='unix'><source mode='bind'/><target type='virtio' name='{name}'/></channel>"
            return ElementTree.tostring(channel, "unicode")
    raise AssertionError(f"no channel {name}")


def device(lab, vm, verb, xml):
    path = lab.place.file("channel.xml")
    with open(path, "w") as file:
        file.write(xml)
    vm.virsh(verb, path, "--live")


@pytest.mark.parametrize("channel", [CONTROL, pytest.param(DATA, marks=pytest.mark.slow)])
def test_unplugged_and_plugged_in(vm, lab, client, load, undisturbed, rng, channel):
    amid(rng)
    old, new = channel_xml(vm, channel), channel_xml(vm, channel, is_new=True)
    device(lab, vm, "detach-device", old)
    lab.wait_state("lab", "no-channel", 10)
    amid(rng)
    device(lab, vm, "attach-device", new)
    client.wait_ready("lab", 10)
    load.judge(errors=("Interrupted", "NoChannel"))
    client.done(client.push("lab", "/etc/passwd", "/srv/passwd"))


def test_data_socket_is_taken(vm, lab, client, undisturbed):
    """Another program holds the data channel: transfers say so, all else works, and they work when it has let go."""
    def is_free():
        client.done(client.push("lab", "/etc/passwd", "/srv/passwd"), 30)
        return True
    is_free()
    time.sleep(3)  # the host has left the port
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(vm.channel_path(DATA))
        assert client.failed(client.push("lab", "/etc/passwd", "/srv/passwd"), 60) in ("ChannelBusy", "Interrupted")
        client.ping("lab")
        assert client.message("lab", "upper", "a") == "A"
    assert is_free()
