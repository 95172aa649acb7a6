# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's packages: built from this tree, and both in the life of a fresh Debian 12: installed, used, upgraded, removed, purged."""

import glob
import os
import shutil
import subprocess

import pytest

from lab import debian
from lab.container import Container
from lab.host import Lab
from lab.need import SOURCE, eventually, guestd_program, need, tool

pytestmark = pytest.mark.slow
# What dpkg, apt and systemd write of their own.
NOISE = ("/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/var/cache", "/var/log", "/var/lib/dpkg", "/var/lib/apt", "/run",
         "/var/lib/systemd/random-seed", "/var/lib/systemd/timers", "/var/lib/systemd/catalog", "/etc/ld.so.cache")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """name → file."""
    for name in "dpkg-buildpackage", "dh", "git", "tar":
        tool(name)
    place = tmp_path_factory.mktemp("packages")
    tree = place / "vmferry"
    tree.mkdir()
    files = subprocess.run(["git", "-C", SOURCE, "ls-files", "-z"], capture_output=True)
    need(files.returncode == 0, "a git tree")
    subprocess.run(["sh", "-c", f"tar -C '{SOURCE}' --null -T - -cf - | tar -C '{tree}' -xf -"], input=files.stdout, check=True)
    r = subprocess.run(["dpkg-buildpackage", "-b", "-us", "-uc"], cwd=tree, capture_output=True, text=True,
                       env={**os.environ, "DEB_BUILD_OPTIONS": "nocheck"})
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
    found = {os.path.basename(path).split("_")[0]: path for path in glob.glob(str(place / "*.deb"))}
    return {name: path for name, path in found.items() if not name.endswith("-dbgsym")}


def test_lintian(packages):
    r = subprocess.run([tool("lintian"), "--fail-on", "error", "--allow-root", *packages.values()], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr


def test_every_manual_is_in_one(packages):
    listed = "".join(subprocess.run(["dpkg-deb", "-c", path], capture_output=True, text=True, check=True).stdout
                     for path in packages.values())
    for page in glob.glob(os.path.join(SOURCE, "man/*.[1-8]")):
        assert f"/{os.path.basename(page)}.gz" in listed, page


class Debian(Container):
    """A Debian as debootstrap makes it, with what the packages depend on."""

    def __init__(self, packages):
        self.packages = packages
        super().__init__()

    def _mount(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "vmferry-test", self.path], check=True)
        debian.unpack(self.root)

    def _prepare(self):
        # The archive that this machine uses.
        subprocess.run(f"rm -f {self.root}/etc/apt/sources.list; cd /etc/apt && for f in sources.list sources.list.d/debian.* "
                       f"apt.conf.d/*proxy*; do [ ! -f $f ] || cp $f {self.root}/etc/apt/$f; done", shell=True, check=True)
        shutil.copy("/etc/resolv.conf", self.root + "/etc/resolv.conf")
        depends = ", ".join(subprocess.run(["dpkg-deb", "-f", path, "Depends"], capture_output=True, text=True,
                                           check=True).stdout.strip() for path in self.packages.values()).strip(", ")
        self.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
        r = subprocess.run(["chroot", self.root, "sh", "-c",
                            "export DEBIAN_FRONTEND=noninteractive && apt-get -qq update && "
                            f"apt-get -qq -y --no-install-recommends satisfy '{depends}' && apt-get clean"],
                           capture_output=True, text=True)
        need(r.returncode == 0, f"the packages' dependencies ({r.stderr[-500:]})")
        os.unlink(self.root + "/usr/sbin/policy-rc.d")
        self.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        for unit in "getty.target", "console-getty.service", "qemu-guest-agent.service":
            self._mask(unit)
        for path in self.packages.values():
            shutil.copy(path, self.root + "/root")

    def _install(self):
        pass

    def dpkg(self, *args):
        return self.run("dpkg", *args, env=["DEBIAN_FRONTEND=noninteractive"], timeout=300)

    def deb(self, name):
        return "/root/" + os.path.basename(self.packages[name])

    def files(self):
        prune = " -o ".join(f"-path {path}" for path in NOISE)
        return set(self.shell(f"find / \\( {prune} \\) -prune -o -print; ls -d /run/*; getent passwd; getent group").stdout
                   .splitlines())


@pytest.fixture(scope="module")
def host(packages):
    container = Debian(packages)
    yield container
    container.end()


def state(host, unit):
    return tuple(host.run("systemctl", verb, unit, check=False).stdout.strip() for verb in ("is-enabled", "is-active"))


def test_life(host):
    before = host.files()
    for name in "vmferry", "vmferry-guest":
        host.dpkg("-i", host.deb(name))
    assert state(host, "vmferry-hostd.service") == ("enabled", "active")
    reply = host.manager("ListGuests").stdout.strip()
    assert reply == "a(ssso) 0", reply
    assert host.run("vmferry", "list").stdout.startswith("NAME")
    assert host.run("vmferry", "actions", "check").returncode == 0
    # It waits for its port; where there is no virtual machine there will be none.
    assert state(host, "vmferry-guestd.service") == ("disabled", "inactive")
    host.run("systemctl", "start", "vmferry-guestd.service")
    assert state(host, "vmferry-guestd.service")[1] == "inactive"
    assert host.run("udevadm", "--version", check=False).returncode == 0
    assert "vmferry-guestd" in host.run("vmferry-guestd", "--version").stdout

    host.write("/etc/vmferry/hostd.conf", "[Host]\nKeepAlive=20s\n")
    host.write("/etc/vmferry/actions.d/a.action", "[Action]\nGuests=*\n[Step x]\nRun=/bin/true\n")
    host.run("systemctl", "restart", "vmferry-hostd.service")
    eventually(lambda: "a.action" in host.run("vmferry", "--json", "actions", check=False).stdout, 20, "the action")

    pid = host.run("systemctl", "show", "-P", "MainPID", "vmferry-hostd.service").stdout
    for name in "vmferry", "vmferry-guest":
        host.dpkg("-i", host.deb(name))
    assert state(host, "vmferry-hostd.service") == ("enabled", "active")
    assert host.run("systemctl", "show", "-P", "MainPID", "vmferry-hostd.service").stdout != pid, "the old one still runs"
    host.manager("ListGuests")

    host.dpkg("--remove", "vmferry", "vmferry-guest")
    assert host.run("systemctl", "is-active", "vmferry-hostd.service", check=False).stdout.strip() == "inactive"
    assert os.path.exists(host.root + "/etc/vmferry/hostd.conf"), "what the administrator wrote stays until purge"
    host.dpkg("--purge", "vmferry-guest")
    host.dpkg("--purge", "vmferry")
    left = sorted(host.files() - before)
    assert not left, left
    assert not host.run("systemctl", "--failed", "--no-legend", "--plain").stdout.strip()


# What it leaves is said on the console: the way in goes with the package.
PURGE = """exec > /dev/ttyS0 2>&1
dpkg --purge vmferry-guest
find / -xdev -name '*vmferry*' -not -path '/var/lib/dpkg/*' -not -path '/root/*' -not -path '/var/log/*'
ls -d /run/vmferry* /run/systemd/transient/*vmferry* 2>/dev/null
pidof vmferry-guestd
echo purge: that was all
"""


def test_guest(packages):
    """In a machine of its own: the rule of udev starts the daemon, for there is a port."""
    def change(tree):
        shutil.copy(packages["vmferry-guest"], tree + "/root/guest.deb")
        subprocess.run(["chroot", tree, "dpkg", "-i", "/root/guest.deb"], stdout=subprocess.DEVNULL, check=True)
        with open(tree + "/root/purge", "w") as file:
            file.write(PURGE)

    lab = Lab()
    try:
        lab.start_hostd()
        domain = debian.machine(lab, "packaged", change)
        lab.client.wait_ready("packaged", 600)
        assert lab.vmferry("exec", "packaged", "--", "systemctl", "is-enabled", "vmferry-guestd").stdout == "disabled\n"
        lab.client.message("packaged", "nobody", "x", method="Send", queue=True)
        lab.vmferry("upgrade", "--force", "--agent", guestd_program(), "packaged", check=True)
        lab.vmferry("exec", "packaged", "--", "systemctl", "restart", "vmferry-guestd")
        lab.client.wait_ready("packaged", 60)
        lab.vmferry("exec", "packaged", "--", "systemd-run", "sh", "/root/purge", check=True)
        eventually(lambda: "purge: that was all" in domain.console(), 120, "the purge")
        said = domain.console()[domain.console().index("Removing vmferry-guest"):]
        left = [line for line in said.splitlines() if line.startswith("/")]
        assert not left, said
    finally:
        lab.end()
