# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole host in a throw-away container: real systemd as PID 1, system bus, polkit, libvirtd, and vmferry installed as a
package would. Its root is an overlay over this machine's, in memory; nothing reaches the machine itself. Needs root."""

import os
import shlex
import shutil
import subprocess
import tempfile
import uuid

from . import harvest
from .need import SOURCE, build_dir, eventually, need, tool
from .virt import domain_xml

# What a host has running; the rest of what this machine has enabled stays out.
KEPT = ("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "virtlogd.socket",
        "virtlogd-admin.socket")
QEMU_CONF = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
dynamic_ownership = 0
"""


class Container:
    def __init__(self):
        need(os.geteuid() == 0, "root (for a container)")
        for name in "systemd-nspawn", "nsenter", "setpriv", "meson":
            tool(name)
        self.path = tempfile.mkdtemp(prefix="vfh-", dir="/tmp")
        self.root = os.path.join(self.path, "root")
        self.process = None
        self.leader = None
        try:
            self._mount()
            self._prepare()
            self._install()
            harvest.prepare_container(self)
            self._boot()
        except BaseException:
            self.end()
            raise

    def _mount(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "vmferry-test", self.path], check=True)
        for name in "up", "work", "root":
            os.mkdir(os.path.join(self.path, name))
        r = subprocess.run(["mount", "-t", "overlay", "vmferry-test", "-o",
                            f"lowerdir=/,upperdir={self.path}/up,workdir={self.path}/work", self.root],
                           capture_output=True, text=True)
        need(r.returncode == 0, f"an overlay ({r.stderr.strip()})")

    def write(self, path, text, mode=0o644):
        file = self.root + path
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "w") as f:
            f.write(text)
        os.chmod(file, mode)

    def _prepare(self):
        # An empty one would be a first boot, which enables what the presets say.
        self.write("/etc/machine-id", uuid.uuid4().hex + "\n")
        self.write("/etc/hostname", "vmferry-host\n")
        self.write("/etc/resolv.conf", "")
        units = subprocess.run(["systemctl", "--root=" + self.root, "list-unit-files", "--state=enabled", "--no-legend",
                                "--no-pager", "--plain"], capture_output=True, text=True, check=True).stdout
        for line in units.splitlines():
            unit = line.split()[0]
            if unit not in KEPT and not unit.endswith("@.service"):
                self._mask(unit)
        for unit in "getty.target", "systemd-logind.service", "systemd-resolved.service", "console-getty.service":
            if unit != "systemd-logind.service":
                self._mask(unit)
        for directory in "etc/libvirt/qemu/networks/autostart", "etc/libvirt/storage/autostart":
            shutil.rmtree(os.path.join(self.root, directory), ignore_errors=True)
        with open(self.root + "/etc/libvirt/qemu.conf", "a") as file:
            file.write(QEMU_CONF)
        # Left-overs of this machine's own domains are none of our business.
        shutil.rmtree(os.path.join(self.root, "var/lib/libvirt/qemu"), ignore_errors=True)

    def _mask(self, unit):
        path = os.path.join(self.root, "etc/systemd/system", unit)
        if os.path.lexists(path):
            if os.path.isdir(path) and not os.path.islink(path):
                return
            os.unlink(path)
        os.symlink("/dev/null", path)

    def _install(self):
        build = os.environ.get("VMFERRY_INSTALL") or build_dir()
        need(os.path.isdir(build), f"the build directory {build}")
        # The prefix is that of the build directory, unless it isn't /usr: units and policies are looked for there only.
        options = subprocess.run(["meson", "introspect", "--buildoptions", build], capture_output=True, text=True,
                                 check=True).stdout
        if '"value": "/usr"' not in options:
            build = os.path.join(self.path, "build")
            subprocess.run(["meson", "setup", build, SOURCE, "--prefix=/usr", "--sysconfdir=/etc", "--libexecdir=libexec"],
                           stdout=subprocess.DEVNULL, check=True)
            subprocess.run(["ninja", "-C", build], stdout=subprocess.DEVNULL, check=True)
        subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", self.root], stdout=subprocess.DEVNULL,
                       check=True)

    def _boot(self):
        log = open(os.path.join(self.path, "console"), "ab")
        self.process = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", self.root, "--boot", "--register=no", "--keep-unit", "--private-network",
             "--console=pipe", "--machine=vmferry-test", "--tmpfs=/run/lock"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "SYSTEMD_NSPAWN_LOCK": "0"})
        self.leader = eventually(self._find_leader, 20, "the container's init")
        eventually(self._is_up, 60, "the container's boot", every=0.2)

    def _find_leader(self):
        assert self.process.poll() is None, self.console()
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
                children = file.read().split()
        except OSError:
            return None
        for pid in children:
            try:
                with open(f"/proc/{pid}/comm") as file:
                    if file.read().strip() == "systemd":
                        return int(pid)
            except OSError:
                pass
        return None

    def _is_up(self):
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def console(self):
        with open(os.path.join(self.path, "console"), errors="replace") as file:
            return file.read()

    def run(self, *argv, user=None, check=True, input=None, timeout=60, env=()):
        """Runs a command inside, as root or as a user; text in, text out."""
        inner = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", f"HOME=/{user or 'root'}", *env, *argv]
        if user:
            inner = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *inner]
        # The names of users are those inside.
        outer = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", *inner]
        r = subprocess.run(outer, capture_output=True, text=True, input=input, timeout=timeout)
        assert not check or r.returncode == 0, f"{shlex.join(argv)}: {r.returncode}: {r.stdout}{r.stderr}"
        return r

    def shell(self, script, **kw):
        return self.run("sh", "-c", script, **kw)

    def boot_guest(self, name, image):
        """Defines and starts a domain on the libvirtd inside."""
        for file in image.kernel, image.initramfs:
            shutil.copy(file, os.path.join(self.root, "srv"))
        self.write("/srv/console", "", 0o666)
        self.write("/srv/domain.xml", domain_xml(name, str(uuid.uuid4()), "/srv/" + os.path.basename(image.kernel),
                                                 "/srv/" + os.path.basename(image.initramfs), "/srv/console"))
        self.run("virsh", "-q", "-c", "qemu:///system", "define", "/srv/domain.xml")
        self.run("virsh", "-q", "-c", "qemu:///system", "start", name)

    def guest_console(self):
        with open(os.path.join(self.root, "srv/console"), errors="replace") as file:
            return file.read()

    def busctl(self, *args, **kw):
        return self.run("busctl", "--no-pager", *args, **kw)

    def manager(self, method, *args, **kw):
        return self.busctl("call", "org.vmferry1", "/org/vmferry1", "org.vmferry1.Manager", method, *args, **kw)

    def journal(self, *args):
        return self.run("journalctl", "--no-pager", "-q", *args, check=False).stdout

    def end(self):
        if self.process and self.process.poll() is None:
            if self.leader:
                harvest.from_container(self)
                # SIGRTMIN+4: systemd's poweroff.
                subprocess.run(["kill", "-s", "RTMIN+4", str(self.leader)], check=False)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.terminate()
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
        for path in self.root, self.path:
            subprocess.run(["umount", "-R", path], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.path, ignore_errors=True) if not os.path.ismount(self.path) else None
