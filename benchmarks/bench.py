# SPDX-License-Identifier: LGPL-2.1-or-later
"""One VM with everything in it that is compared: guestd, the bare port, the QEMU guest agent, sshd.

The lab of tests/vm starts libvirtd, hostd and the VM. The peers come from Debian's packages, unpacked into a cache, not
installed. Figures of one machine drift by a factor of two while it works; so what is compared runs in turns, and what
counts is the median of the ratios of neighbours.
"""

import base64
import ctypes
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "vm"))

from lab.host import Lab  # noqa: E402
from lab.need import build_dir, built, eventually  # noqa: E402
from lab.virt import CONTROL, DATA, Domain, Image  # noqa: E402

BENCH = ("org.vmferry.bench.0", "org.vmferry.bench.1")
AGENT = "org.qemu.guest_agent.0"
PACKAGES = ("openssh-server", "qemu-guest-agent", "libwrap0", "libnsl2", "libtirpc3", "liburing2")
AGENT_CHUNK = 65536

INIT = """#!/bin/busybox sh
port() {
        for d in /sys/class/virtio-ports/*; do
                [ "$(cat $d/name)" = "$1" ] && echo /dev/${d##*/}
        done
}
hostname bench
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
mkdir -p /run/sshd /var/run
for name in %(bench)s; do
        setsid bare-port serve $(port $name) </dev/null >/dev/null 2>&1 &
done
setsid qemu-ga -m virtio-serial -p $(port %(agent)s) -t /run </dev/null >/dev/null 2>&1 &
setsid /usr/sbin/sshd -D -f /etc/ssh/bench </dev/null >/dev/null 2>&1 &
"""

SSHD = """HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/authorized
PermitRootLogin yes
StrictModes no
UseDNS no
PidFile none
"""


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def median(values):
    return statistics.median(values)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def rounded(value, digits=4):
    """Numbers for the results: as many digits as mean something."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def machine():
    """What the figures depend on."""
    def first_line(*argv):
        return subprocess.run(argv, capture_output=True, text=True).stdout.split("\n")[0]

    with open("/proc/cpuinfo") as file:
        cpu = re.search(r"model name\s*: (.*)", file.read())
    with open(os.path.join(build_dir(), "meson-info/intro-buildoptions.json")) as file:
        options = {o["name"]: o["value"] for o in json.load(file)}
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "qemu": first_line("qemu-system-x86_64", "--version"),
        "libvirt": first_line("libvirtd", "--version"),
        "guest": "TCG, 1 vCPU, Debian's kernel, tmpfs",
        "buildtype": options["buildtype"],
        "load_at_start": os.getloadavg()[0],
    }


def save(name, results):
    os.makedirs(os.path.join(HERE, "results"), exist_ok=True)
    path = os.path.join(HERE, "results", name)
    with open(path, "w") as file:
        if isinstance(results, str):
            file.write(results)
        else:
            json.dump(rounded(results), file, indent=1)
            file.write("\n")
    say("wrote", os.path.relpath(path))


class Peers:
    """The programs of others, unpacked."""

    def __init__(self):
        base = os.environ.get("VMFERRY_TEST_CACHE") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vmferry-tests")
        self.root = os.path.join(base, "peers")
        if not os.path.exists(os.path.join(self.root, "complete")):
            shutil.rmtree(self.root, ignore_errors=True)
            os.makedirs(os.path.join(self.root, "deb"))
            subprocess.run(["apt-get", "-qq", "download", *PACKAGES], cwd=os.path.join(self.root, "deb"), check=True,
                           stderr=subprocess.DEVNULL)
            for name in os.listdir(os.path.join(self.root, "deb")):
                subprocess.run(["dpkg", "-x", os.path.join(self.root, "deb", name), self.root], check=True)
            open(os.path.join(self.root, "complete"), "w").close()
        self.env = dict(os.environ, LD_LIBRARY_PATH=":".join(
            os.path.join(self.root, d) for d in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")))

    def files(self, program, destination):
        """(source, destination) of a program and its libraries."""
        path = os.path.join(self.root, program)
        listed = subprocess.run(["ldd", path], env=self.env, capture_output=True, text=True, check=True).stdout
        found = [(path, destination)]
        for library in re.findall(r"(?:=> )?(/\S+) \(0x", listed):
            target = "/lib64/" if "ld-linux" in library else "/usr/lib/x86_64-linux-gnu/"
            found.append((os.path.realpath(library), target + os.path.basename(library)))
        return found


class Agent:
    """The QEMU guest agent as libvirt's callers reach it."""

    def __init__(self, uri, uuid):
        self.virt = ctypes.CDLL("libvirt.so.0")
        self.qemu = ctypes.CDLL("libvirt-qemu.so.0")
        self.virt.virConnectOpen.restype = ctypes.c_void_p
        self.virt.virDomainLookupByUUIDString.restype = ctypes.c_void_p
        self.virt.virDomainLookupByUUIDString.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self.virt.virConnectClose.argtypes = [ctypes.c_void_p]
        self.virt.virDomainFree.argtypes = [ctypes.c_void_p]
        self.command = self.qemu.virDomainQemuAgentCommand
        self.command.restype = ctypes.c_void_p
        self.command.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint]
        self.free = ctypes.CDLL(None).free
        self.free.argtypes = [ctypes.c_void_p]
        self.connection = self.virt.virConnectOpen(uri.encode())
        assert self.connection, f"no connection to {uri}"
        self.domain = self.virt.virDomainLookupByUUIDString(self.connection, uuid.encode())
        eventually(self.answers, 60, "the guest agent's answer", every=0.5)

    def answers(self):
        try:
            self.ping()
            return True
        except RuntimeError:
            return False

    def raw(self, text):
        reply = self.command(self.domain, text, 20, 0)
        if not reply:
            raise RuntimeError("the guest agent did not answer")
        result = ctypes.string_at(reply)
        self.free(reply)
        return result

    def call(self, execute, **arguments):
        return json.loads(self.raw(json.dumps({"execute": execute, "arguments": arguments}).encode()))["return"]

    def ping(self):
        return self.raw(b'{"execute":"guest-ping"}')

    def push(self, data, path):
        handle = self.call("guest-file-open", path=path, mode="w")
        for at in range(0, len(data), AGENT_CHUNK):
            text = base64.b64encode(data[at:at + AGENT_CHUNK]).decode()
            self.call("guest-file-write", handle=handle, **{"buf-b64": text})
        self.call("guest-file-close", handle=handle)

    def pull(self, path):
        handle = self.call("guest-file-open", path=path, mode="r")
        parts = []
        while True:
            reply = self.call("guest-file-read", handle=handle, count=AGENT_CHUNK)
            parts.append(base64.b64decode(reply["buf-b64"]))
            if reply["eof"]:
                break
        self.call("guest-file-close", handle=handle)
        return b"".join(parts)

    def close(self):
        self.virt.virDomainFree(self.domain)
        self.virt.virConnectClose(self.connection)


class Bench:
    """The lab with its VM, ready; host files are in `shm`, a directory on a tmpfs."""

    def __init__(self, memory=2048, peers=True):
        self.shm = tempfile.mkdtemp(prefix="vmferry-bench-", dir="/dev/shm")
        os.chmod(self.shm, 0o755)
        self.bare = built("benchmarks/bare-port")
        self.agent = None
        self.lab = Lab()
        try:
            self.lab.start_hostd()
            self._boot(memory, peers)
        except BaseException:
            self.end()
            raise

    def _boot(self, memory, peers):
        place = self.lab.place
        root = place.directory("bench-root")
        shutil.copytree(os.path.join(HERE, "../tests/vm/guest-root"), root, dirs_exist_ok=True)
        script = os.path.join(place.directory("bench-root", "etc", "lab.d"), "peers")
        with open(script, "w") as file:
            file.write(INIT % {"bench": " ".join(BENCH), "agent": AGENT})
        os.chmod(script, 0o755)
        files = [(self.bare, "/usr/bin/bare-port"), (built("benchmarks/bare-files"), "/usr/bin/bare-files")]
        channels = [(name, None) for name in (CONTROL, DATA, *BENCH)]
        if peers:
            unpacked = Peers()
            files += unpacked.files("usr/sbin/qemu-ga", "/usr/bin/qemu-ga")
            files += unpacked.files("usr/sbin/sshd", "/usr/sbin/sshd")
            channels.append((AGENT, None))
            self._ssh_keys(place.directory("bench-root", "etc", "ssh"))
        image = Image(place, "bench", files=files, modules=("failover", "net_failover", "virtio_net"), root=root)
        self.domain = Domain(self.lab.libvirtd, place, "bench", image, memory=memory, channels=channels,
                             allocated=True, start=False)
        self._add_network(place)
        self.domain.start()
        self.lab.client.wait_ready("bench", 120)
        self.sockets = [self.domain.channel_path(name) for name in BENCH]
        if peers:
            self.agent = Agent(self.lab.libvirtd.uri, self.domain.uuid)
            eventually(lambda: self.ssh("true", check=False).returncode == 0, 60, "sshd", every=0.5)

    def _ssh_keys(self, etc_ssh):
        self.ssh_key = self.lab.place.file("key")
        for path in self.ssh_key, os.path.join(etc_ssh, "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        shutil.copy(self.ssh_key + ".pub", os.path.join(etc_ssh, "authorized"))
        with open(os.path.join(etc_ssh, "bench"), "w") as file:
            file.write(SSHD)
        with open(os.path.join(etc_ssh, "../passwd"), "w") as file:
            file.write("root:x:0:0:root:/root:/bin/sh\nsshd:x:100:100:sshd:/run/sshd:/bin/false\n")

    def _add_network(self, place):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        xml = self.domain.virsh("dumpxml", "--inactive").stdout
        xml = xml.replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1)
        more = "".join(f"<qemu:arg value='{a}'/>" for a in (
            "-netdev", f"user,id=bench,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-net-pci,netdev=bench,addr=0x10"))
        xml = xml.replace("</domain>", f"<qemu:commandline>{more}</qemu:commandline></domain>")
        path = place.file("bench.xml")
        with open(path, "w") as file:
            file.write(xml)
        self.lab.libvirtd.virsh("define", path)

    def file(self, name, n_bytes):
        """A file of random bytes on the host."""
        path = os.path.join(self.shm, name)
        block = os.urandom(1 << 20)
        with open(path, "wb") as file:
            while n_bytes > 0:
                file.write(block[:n_bytes])
                n_bytes -= len(block)
        return path

    def tree(self, name, n_files, n_bytes):
        """A directory of small files, a hundred to a directory."""
        path = os.path.join(self.shm, name)
        for i in range(n_files):
            directory = os.path.join(path, f"{i // 100:03}")
            if i % 100 == 0:
                os.makedirs(directory)
            with open(os.path.join(directory, f"{i % 100:02}"), "wb") as file:
                file.write(os.urandom(n_bytes))
        return path

    # Each returns seconds.

    def bare_push(self, source, target, port=0):
        return self._bare("push", self.sockets[port], source, target)

    def bare_pull(self, source, target, port=0):
        return self._bare("pull", self.sockets[port], source, target)

    def _bare(self, *args):
        return float(subprocess.run([self.bare, *args], capture_output=True, text=True, check=True).stdout)

    def push(self, source, target):
        start = time.monotonic()
        self.lab.client.done(self.lab.client.push("bench", source, target), 600)
        return time.monotonic() - start

    def pull(self, source, target):
        start = time.monotonic()
        self.lab.client.done(self.lab.client.pull("bench", source, target), 600)
        return time.monotonic() - start

    def in_guest(self, script):
        status, _, stderr = self.lab.client.run("bench", "sh", "-c", script, wait=120)
        assert status == 0, stderr

    def ssh(self, command, check=True, **popen):
        argv = ["ssh", "-q", "-p", str(self.port), "-i", self.ssh_key, "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes", "root@127.0.0.1",
                command]
        popen.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(argv, check=check, **popen)

    def ssh_push(self, source, target):
        start = time.monotonic()
        with open(source, "rb") as file:
            self.ssh(f"cat > {target}", stdin=file)
        return time.monotonic() - start

    def ssh_pull(self, source, target):
        start = time.monotonic()
        with open(target, "wb") as file:
            self.ssh(f"cat {source}", stdout=file)
        return time.monotonic() - start

    def ssh_push_tree(self, source, target):
        start = time.monotonic()
        with subprocess.Popen(["tar", "-C", source, "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
            self.ssh(f"mkdir -p {target} && tar -C {target} -xf -", stdin=tar.stdout)
        return time.monotonic() - start

    def ssh_pull_tree(self, source, target):
        os.makedirs(target)
        start = time.monotonic()
        with subprocess.Popen(["tar", "-C", target, "-xf", "-"], stdin=subprocess.PIPE) as tar:
            self.ssh(f"tar -C {source} -cf - .", stdout=tar.stdin)
            tar.stdin.close()
        return time.monotonic() - start

    def end(self):
        try:
            if self.agent:
                self.agent.close()
            self.lab.end()
        finally:
            shutil.rmtree(self.shm, ignore_errors=True)
