# SPDX-License-Identifier: LGPL-2.1-or-later
"""How guestd gets into guests, and stays current: adopt, upgrade, deploy."""

import json
import os
import shutil
import re
import subprocess

import pytest

from lab import debian
from lab.bus import BusError
from lab.need import built, eventually, guestd_program, need, tool

# Passes the trial, and then: crashes at start, ends as if all were well, or hangs.
IMPOSTOR = """
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
        if (argc > 1 && strcmp(argv[1], "--version") == 0)
                return puts("vmferry-guestd 99.0") < 0;
        HOW;
        return 0;
}
"""


@pytest.fixture(scope="module")
def impostors(lab):
    """name → a program of that behaviour."""
    compiler = tool("gcc")
    programs = {}
    for name, how in (("crashes", "abort()"), ("ends", "(void)0"), ("hangs", "for (;;) pause()")):
        source, program = lab.scratch(name + ".c"), lab.scratch(name)
        with open(source, "w") as file:
            file.write(IMPOSTOR.replace("HOW", how))
        subprocess.run([compiler, "-static", "-o", program, source], check=True)
        programs[name] = program
    return programs


def strange_guestd(lab):
    """For a machine of another architecture."""
    path = lab.scratch("strange")
    with open(guestd_program(), "rb") as file:
        data = bytearray(file.read())
    data[18:20] = b"\xb7\x00"  # EM_AARCH64
    with open(path, "wb") as file:
        file.write(data)
    return path


def better_guestd(lab):
    """The same program with other bytes behind it: another build."""
    path = lab.scratch("guestd-better")
    shutil.copy(guestd_program(), path)
    with open(path, "ab") as file:
        file.write(b"another build")
    return path


def agent_build(lab, name="lab"):
    return json.loads(lab.vmferry("--json", "status", name, check=True).stdout)["AgentBuild"]


def test_upgrade_keeps_detached_processes(lab, vm):
    before = agent_build(lab)
    lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c", "sleep 10; echo survived > /tmp/survived", check=True)
    started = vm.guestd_starts()
    r = lab.vmferry("upgrade", "--agent", better_guestd(lab), "lab", check=True)
    assert "upgraded" in r.stdout
    assert agent_build(lab) != before
    assert vm.guestd_starts() == started, "the service manager had to restart it"
    assert "already" in lab.vmferry("upgrade", "--agent", better_guestd(lab), "lab", check=True).stdout
    eventually(lambda: lab.vmferry("exec", "lab", "--", "cat", "/tmp/survived").stdout == "survived\n", 30, "its end",
               every=1)


def test_upgrade_keeps_the_queue(lab, client, vm):
    """What waits for the guest arrives once and in order, before, during and behind the change."""
    client.run("lab", "sh", "-c", "echo began >> /run/appended; sleep 4", queue=True)
    for i in range(10):
        client.message("lab", "append", f"{i}", method="Send", queue=True)
    lab.vmferry("upgrade", "--force", "--agent", guestd_program(), "lab", check=True)
    eventually(lambda: client.get(client.guest_path("lab"), "org.vmferry1.Guest", "QueueLength") == 0, 60, "the queue's end")
    assert lab.vmferry("exec", "lab", "cat", "/run/appended").stdout.split() == ["began"] + [str(i) for i in range(10)]


def test_upgrade_all(lab, vm):
    """One after the other, those that are ready."""
    second = lab.domain("second")
    third = lab.domain("third", start=False)
    try:
        lab.client.wait_ready("second", 90)
        r = lab.vmferry("upgrade", "--all", "--at-once", "1", "--agent", better_guestd(lab), check=True, timeout=200)
        assert sorted(line.split(":")[0] for line in r.stdout.splitlines()) == ["lab", "second"], r.stdout
        assert agent_build(lab) == agent_build(lab, "second")
        r = lab.vmferry("--json", "upgrade", "--all", "--agent", guestd_program(), check=True, timeout=200)
        results = [json.loads(line) for line in r.stdout.splitlines()]
        assert len(results) == 2 and all(result["result"] == "upgraded" for result in results), results
        assert {result["guest"]: result["uuid"] for result in results} == {"lab": vm.uuid, "second": second.uuid}
        # The agents are as old as hostd.
        assert "(outdated)" not in lab.vmferry("list", check=True).stdout
    finally:
        second.undefine()
        third.undefine()


def test_upgrade_wrong_digest(lab, client, vm):
    before, started = agent_build(lab), vm.guestd_starts()
    client.done(client.push("lab", guestd_program(), "/run/vmferry/guestd.new"))
    with pytest.raises(BusError) as e:
        client.manager("Upgrade", "(sssa{sv})", "lab", "/run/vmferry/guestd.new", "xxh64:" + "0" * 16, {})
    assert e.value.name == "Integrity"
    assert agent_build(lab) == before and vm.guestd_starts() == started


@pytest.fixture(scope="module")
def foreign():
    """A guestd of another protocol's version."""
    path = os.path.join(os.path.dirname(guestd_program()), "../../tests/vm/guestd-foreign")
    return need(os.path.exists(path) and path, path)


@pytest.mark.parametrize("how", ["crashes", "ends", "hangs", "foreign"])
def test_upgrade_goes_back(lab, vm, impostors, foreign, how):
    before = agent_build(lab)
    r = lab.vmferry("upgrade", "--timeout", "10", "--agent", foreign if how == "foreign" else impostors[how], "lab", timeout=120)
    assert r.returncode == 1 and "went back to the old one" in r.stderr, (r.stdout, r.stderr)
    assert agent_build(lab) == before
    assert lab.vmferry("exec", "lab", "--", "true").returncode == 0


def test_upgrade_refuses_what_does_not_run(lab, vm):
    before, started = agent_build(lab), vm.guestd_starts()
    r = lab.vmferry("upgrade", "--agent", strange_guestd(lab), "lab")
    assert r.returncode == 1 and "architecture" in r.stderr, r.stderr
    r = lab.vmferry("upgrade", "--agent", "/bin/true", "lab")
    assert r.returncode == 1, r.stderr
    assert agent_build(lab) == before and vm.guestd_starts() == started
    assert lab.vmferry("exec", "lab", "--", "sh", "-c", "ls -A /usr/sbin/ | grep new").returncode == 1


AGENT_CHANNEL = "org.qemu.guest_agent.0"
START_AGENT = """#!/bin/busybox sh
for d in /sys/class/virtio-ports/*; do
        [ "$(cat $d/name)" = %s ] && setsid qemu-ga -m virtio-serial -p /dev/${d##*/} -t /run \\
                $(sed -n 's/.*lab\\.agent=\\([^ ]*\\).*/\\1/p' /proc/cmdline | tr , ' ') </dev/null >/dev/null 2>&1 &
done
"""


def command_with_deploy(lab, *args, **kw):
    lab.hostd.env["VMFERRY_DEPLOY"] = built("src/deploy/vmferry-deploy")
    return lab.vmferry(*args, **kw)


@pytest.fixture(scope="module")
def agent_files(lab):
    """qemu-ga and its libraries, from Debian's package, unpacked."""
    for name in "apt-get", "dpkg", "ldd":
        tool(name)
    place = lab.place.directory("qga")
    subprocess.run(["apt-get", "-qq", "download", "qemu-guest-agent"], cwd=place, capture_output=True)
    packages = [name for name in os.listdir(place) if name.endswith(".deb")]
    need(packages, "qemu-guest-agent")
    subprocess.run(["dpkg", "-x", packages[0], "."], cwd=place, check=True)
    program = os.path.join(place, "usr/sbin/qemu-ga")
    libraries = [word for line in subprocess.run(["ldd", program], capture_output=True, text=True).stdout.splitlines()
                 for word in line.split() if word.startswith("/")]
    need("not found" not in subprocess.run(["ldd", program], capture_output=True, text=True).stdout, "qemu-ga's libraries")
    return [(program, "/usr/bin/qemu-ga")] + [(os.path.realpath(library), library) for library in libraries]


@pytest.fixture(scope="module")
def agent_image(lab, agent_files):
    """A guest of busybox with the guest agent and without vmferry; lab.agent=… are the agent's arguments."""
    root = lab.place.directory("adopt-root", "etc", "lab.d")
    with open(os.path.join(root, "agent"), "w") as file:
        file.write(START_AGENT % AGENT_CHANNEL)
    os.chmod(os.path.join(root, "agent"), 0o755)
    return lab.image("adopt", guestd=False, files=agent_files, root=lab.place.file("adopt-root"))


def wait_agent(domain, timeout=60):
    eventually(lambda: domain.virsh("qemu-agent-command", '{"execute":"guest-ping"}', check=False).returncode == 0, timeout,
               "the guest agent", every=1)


def channels(domain):
    """The names of the channels, for the next start and as they are now."""
    return [re.findall(r"<target type='virtio' name='([^']*)'", domain.virsh("dumpxml", *how).stdout)
            for how in (("--inactive",), ())]


def test_adopt_brings_guestd_into_a_running_machine(lab, agent_image, impostors):
    domain = lab.domain("adoptee", image=agent_image, channels=((AGENT_CHANNEL, None),))
    try:
        eventually(lambda: "user space" in domain.console(), 60, "user space")
        wait_agent(domain)
        plan = command_with_deploy(lab, "adopt", "--dry-run", "--agent", guestd_program(), "adoptee", check=True).stdout
        assert "would write /usr/sbin/vmferry-guestd" in plan
        assert channels(domain) == [[AGENT_CHANNEL]] * 2
        r = command_with_deploy(lab, "adopt", "--agent", strange_guestd(lab), "adoptee")
        assert r.returncode == 1 and "x86_64" in r.stderr, (r.stdout, r.stderr)
        assert channels(domain) == [[AGENT_CHANNEL]] * 2
        r = command_with_deploy(lab, "adopt", "--agent", guestd_program(), "adoptee")
        assert r.returncode == 0, (r.stdout, r.stderr)
        assert lab.vmferry("exec", "adoptee", "--", "echo", "in").stdout == "in\n"
        again = command_with_deploy(lab, "adopt", "--dry-run", "--agent", guestd_program(), "adoptee", check=True).stdout
        assert "would" not in again
        # Now that init has it, an upgrade goes the same way as in any guest.
        r = lab.vmferry("upgrade", "--agent", impostors["crashes"], "adoptee")
        assert r.returncode == 1 and "went back to the old one" in r.stderr, (r.stdout, r.stderr)
        lab.vmferry("upgrade", "--agent", better_guestd(lab), "adoptee", check=True)
        assert lab.vmferry("exec", "adoptee", "--", "pidof", "vmferry-guestd").returncode == 0
    finally:
        domain.undefine()


def test_adopt_leaves_what_it_found(lab, agent_image):
    """An agent that may not execute, and none at all: said why, in time, and nothing has changed."""
    domain = lab.domain("forbids", image=agent_image, channels=((AGENT_CHANNEL, None),), cmdline="lab.agent=-b,guest-exec")
    mute = lab.domain("mute", image=lab.image("bare", guestd=False), channels=((AGENT_CHANNEL, None),))
    try:
        r = command_with_deploy(lab, "adopt", "--timeout", "5", "--agent", guestd_program(), "mute", timeout=60)
        assert r.returncode == 1 and "agent" in r.stderr, (r.stdout, r.stderr)
        assert channels(mute) == [[AGENT_CHANNEL]] * 2
        assert lab.client.state("mute") == "no-channel"
        wait_agent(domain)
        r = command_with_deploy(lab, "adopt", "--agent", guestd_program(), "forbids", timeout=100)
        assert r.returncode == 1 and "guest-exec" in r.stderr, (r.stdout, r.stderr)
        assert channels(domain) == [[AGENT_CHANNEL]] * 2
        r = command_with_deploy(lab, "adopt", "--agent", guestd_program(), "nobody", timeout=100)
        assert r.returncode == 1 and "nobody" in r.stderr, (r.stdout, r.stderr)
    finally:
        domain.undefine()
        mute.undefine()


@pytest.mark.slow
def test_systemd_guest(lab, impostors, foreign):
    """Debian with the guest agent: adopted as it runs, upgraded, and back from upgrades that fail, each under its service
    manager's eyes."""
    domain = debian.machine(lab, "debian", channels=((AGENT_CHANNEL, None),))
    try:
        wait_agent(domain, 600)
        r = command_with_deploy(lab, "adopt", "--agent", guestd_program(), "debian")
        assert r.returncode == 0, (r.stdout, r.stderr)
        unit = ["exec", "debian", "--", "systemctl", "is-active", "vmferry-guestd.service"]
        assert lab.vmferry(*unit).stdout == "active\n"
        before = agent_build(lab, "debian")
        lab.vmferry("exec", "--detach", "debian", "--", "sh", "-c", "sleep 20; echo survived > /run/survived", check=True)
        for program in impostors["crashes"], impostors["ends"], impostors["hangs"], foreign:
            r = lab.vmferry("upgrade", "--timeout", "10", "--agent", program, "debian", timeout=200)
            assert r.returncode == 1 and "went back to the old one" in r.stderr, (r.stdout, r.stderr)
            assert agent_build(lab, "debian") == before
            assert lab.vmferry(*unit).stdout == "active\n"
        lab.vmferry("upgrade", "--agent", better_guestd(lab), "debian", check=True)
        assert lab.vmferry(*unit).stdout == "active\n"
        eventually(lambda: lab.vmferry("exec", "debian", "--", "cat", "/run/survived").stdout == "survived\n", 40, "its end",
                   every=1)
        # And at the next boot.
        domain.reset()
        lab.wait_state("debian", "waiting")
        lab.client.wait_ready("debian", 600)
        assert lab.vmferry(*unit).stdout == "active\n"
    finally:
        domain.undefine()
