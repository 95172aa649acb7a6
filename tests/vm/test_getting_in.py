# SPDX-License-Identifier: LGPL-2.1-or-later
"""How guestd gets into guests, and stays current: adopt, upgrade, deploy."""

import json
import os
import shutil
import subprocess

import pytest

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


@pytest.mark.parametrize("how", ["crashes", "ends", "hangs"])
def test_upgrade_goes_back(lab, vm, impostors, how):
    before = agent_build(lab)
    r = lab.vmferry("upgrade", "--timeout", "15", "--agent", impostors[how], "lab", timeout=120)
    assert r.returncode == 1 and "went back to the old one" in r.stderr, (r.stdout, r.stderr)
    assert agent_build(lab) == before
    assert lab.vmferry("exec", "lab", "--", "true").returncode == 0


def test_upgrade_refuses_what_does_not_run(lab, vm):
    before, started = agent_build(lab), vm.guestd_starts()
    strange = lab.scratch("strange")
    with open(guestd_program(), "rb") as file:
        data = bytearray(file.read())
    data[18:20] = b"\xb7\x00"  # EM_AARCH64
    with open(strange, "wb") as file:
        file.write(data)
    r = lab.vmferry("upgrade", "--agent", strange, "lab")
    assert r.returncode == 1 and "architecture" in r.stderr, r.stderr
    r = lab.vmferry("upgrade", "--agent", "/bin/true", "lab")
    assert r.returncode == 1, r.stderr
    assert agent_build(lab) == before and vm.guestd_starts() == started
    assert lab.vmferry("exec", "lab", "--", "sh", "-c", "ls -A /usr/sbin/ | grep new").returncode == 1


AGENT_CHANNEL = "org.qemu.guest_agent.0"
START_AGENT = """#!/bin/busybox sh
for d in /sys/class/virtio-ports/*; do
        [ "$(cat $d/name)" = %s ] && setsid qemu-ga -m virtio-serial -p /dev/${d##*/} -t /run </dev/null >/dev/null 2>&1 &
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


def test_adopt_brings_guestd_into_a_running_machine(lab, agent_files):
    root = lab.place.directory("adopt-root", "etc", "lab.d")
    with open(os.path.join(root, "agent"), "w") as file:
        file.write(START_AGENT % AGENT_CHANNEL)
    os.chmod(os.path.join(root, "agent"), 0o755)
    image = lab.image("adopt", guestd=False, files=agent_files, root=lab.place.file("adopt-root"))
    domain = lab.domain("adoptee", image=image, channels=((AGENT_CHANNEL, None),))
    try:
        eventually(lambda: "user space" in domain.console(), 60, "user space")
        eventually(lambda: domain.libvirtd.virsh("qemu-agent-command", "adoptee", '{"execute":"guest-ping"}',
                                                 check=False).returncode == 0, 60, "the guest agent", every=1)
        plan = command_with_deploy(lab, "adopt", "--dry-run", "--agent", guestd_program(), "adoptee", check=True).stdout
        assert "would write /usr/sbin/vmferry-guestd" in plan
        r = command_with_deploy(lab, "adopt", "--agent", guestd_program(), "adoptee")
        assert r.returncode == 0, (r.stdout, r.stderr)
        assert lab.vmferry("exec", "adoptee", "--", "echo", "in").stdout == "in\n"
        again = command_with_deploy(lab, "adopt", "--dry-run", "--agent", guestd_program(), "adoptee", check=True).stdout
        assert "would" not in again
    finally:
        domain.undefine()


def test_adopt_without_an_agent_is_told_in_time(lab):
    domain = lab.domain("mute", image=lab.image("bare", guestd=False), channels=((AGENT_CHANNEL, None),))
    try:
        r = command_with_deploy(lab, "adopt", "--no-enable", "--timeout", "5", "--agent", guestd_program(), "mute", timeout=40)
        assert r.returncode == 1 and "agent" in r.stderr, r.stderr
    finally:
        domain.undefine()
