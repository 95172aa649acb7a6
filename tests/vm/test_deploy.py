# SPDX-License-Identifier: LGPL-2.1-or-later
"""guestd into images: by libguestfs into a Debian, which then starts; and in that Debian by nbd into all kinds of others."""

import glob
import hashlib
import os
import re
import signal
import subprocess

import pytest

from lab import debian as debian_lab
from lab import disks
from lab.need import build_dir, built, eventually, guestd_program, need, tool

# In the guest: the disks that systems are on. $1: tree, $2: image.
MAKERS = """
whole() { truncate -s ${3:-16M} $2 && mke2fs -q -F -t ext4 -d $1 $2; }
qcow2() { whole $1 $2.raw && qemu-img convert -O qcow2 $2.raw $2 && rm $2.raw; }
gpt() {
        truncate -s 24M $2 && printf 'label: gpt\\nstart=2048, size=4096, type=swap\\nstart=6144, size=32768\\n' | sfdisk -q $2 &&
        mke2fs -q -F -t ext4 -E offset=3145728 -d $1 $2 16M && qemu-img convert -O qcow2 $2 $2.new && mv $2.new $2
}
lvm() {
        rm -rf /srv/split && mkdir /srv/split && cp -a $1 /srv/split/root && mv /srv/split/root/usr /srv/split/usr &&
        mkdir /srv/split/root/usr && echo '/dev/lab-vg/usr /usr ext4 defaults 0 2' > /srv/split/root/etc/fstab &&
        truncate -s 60M $2 && loop=$(losetup --show -f $2) && command lvm pvcreate -qq $loop &&
        command lvm vgcreate -qq lab-vg $loop && command lvm lvcreate -qq -y -L 20M -n root lab-vg &&
        command lvm lvcreate -qq -y -L 20M -n usr lab-vg && mke2fs -q -F -t ext4 -d /srv/split/root /dev/lab-vg/root &&
        mke2fs -q -F -t ext4 -d /srv/split/usr /dev/lab-vg/usr && sync && command lvm vgchange -qq -an lab-vg && losetup -d $loop &&
        udevadm settle
}
"""
# Nothing of a deployment that has ended is left.
LEFT = """
for size in /sys/block/nbd*/size; do [ ! -e $size ] || [ $(cat $size) = 0 ] || echo $size; done
grep -s qemu-nbd /proc/[0-9]*/comm; ls -d /dev/mapper/lab* 2>/dev/null; grep nbd /proc/mounts; command lvm vgs --noheadings; true
"""


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def for_guests(path):
    """A program that is to run in a guest: without sanitizers' libraries."""
    file = os.path.join(os.environ.get("VMFERRY_INSTALL") or build_dir(), path)
    return need(os.path.exists(file) and file, file)


@pytest.fixture(scope="module", autouse=True)
def environment(lab):
    lab.hostd.env.update(VMFERRY_DEPLOY=built("src/deploy/vmferry-deploy"), LIBGUESTFS_BACKEND="direct",
                         LIBGUESTFS_BACKEND_SETTINGS="force_tcg")


@pytest.fixture(scope="module")
def guestfs():
    need(glob.glob("/boot/vmlinuz-*") and os.path.isdir("/lib/modules"), "an installed kernel (linux-image-amd64)")
    need(glob.glob("/usr/lib/*/libguestfs.so.0"), "libguestfs0")


def deploy(lab, *args, timeout=300):
    return lab.vmferry("deploy", "--agent", guestd_program(), *args, timeout=timeout)


def refused(r, *words):
    """In one line that says why."""
    assert r.returncode == 1, (r.stdout, r.stderr)
    assert r.stderr.count("\n") == 1 and r.stderr.startswith("vmferry: "), r.stderr
    assert all(word in r.stderr for word in words), r.stderr


@pytest.fixture(scope="module")
def debian(lab, guestfs):
    """A domain with a Debian, without channels, deployed into by its name."""
    raw = debian_lab.disk(lab.place, "debian", mib=1500)
    disk = disks.partitioned(lab.place.file("debian.qcow2"), raw)
    os.unlink(raw)
    domain = lab.domain("debian", debian_lab.starter(lab, "vda1"), channels=(), controller=False, disks=[disk], memory=1024,
                        start=False)
    domain.disk = disk
    domain.report = deploy(lab, "debian")
    return domain


def test_a_debian_is_ready_after_deploy(lab, client, debian):
    r = debian.report
    assert r.returncode == 0, (r.stdout, r.stderr)
    assert "found Debian" in r.stdout and "the guest runs systemd" in r.stdout and "in place" in r.stdout
    assert "org.vmferry.ctl.0" in debian.virsh("dumpxml", "--inactive").stdout
    debian.start()
    client.wait_ready("debian", 240)
    assert client.run("debian", "cat", "/proc/1/comm")[1] == "systemd\n"
    # As a package would have it: enabled, and started by the port.
    assert client.run("debian", "systemctl", "is-enabled", "vmferry-guestd.service")[1] == "enabled\n"


def test_a_running_domain_and_its_disk_are_refused(lab, client, debian):
    client.wait_ready("debian", 240)
    refused(deploy(lab, "debian"), "running", "vmferry adopt")
    refused(deploy(lab, "--dry-run", "debian"), "running")
    refused(deploy(lab, debian.disk), "in use")


# What is refused before anything is started.

def qemu_img(*args):
    subprocess.run([tool("qemu-img"), *args], check=True, stdout=subprocess.DEVNULL)


def qemu_img_luks(*args):
    """It measures how fast it is first, and gives up where the clock of CPU time is too coarse for that."""
    for _ in range(50):
        r = subprocess.run([tool("qemu-img"), "create", "-q", "--object", "secret,id=s,data=x", *args], stderr=subprocess.PIPE, text=True)
        if r.returncode == 0:
            return
        assert "accurate CPU usage" in r.stderr, r.stderr
    raise AssertionError(r.stderr)


def make_encrypted(path):
    qemu_img_luks("-f", "luks", "-o", "key-secret=s,iter-time=10", path, "1M")


def make_encrypted_qcow2(path):
    qemu_img_luks("-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "1M")


def make_corrupt(path):
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    with open(path, "r+b") as file:
        file.seek(8 + 4 + 4 + 8 + 8)  # L1 table: its offset is no multiple of a cluster
        file.write(b"\xff" * 16)


def make_marked_corrupt(path):
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    with open(path, "r+b") as file:
        file.seek(72 + 7)  # incompatible features, bit 1
        file.write(b"\x02")


def make_empty(path):
    with open(path, "wb"):
        pass


@pytest.mark.parametrize("backend", ["libguestfs", "nbd"])
@pytest.mark.parametrize("make, word", [(make_encrypted, "encrypted"), (make_encrypted_qcow2, "encrypted"), (make_corrupt, "qemu-img"),
                                        (make_marked_corrupt, "corrupt"), (make_empty, "empty")])
def test_bad_images_are_refused(lab, make, word, backend):
    path = lab.scratch(make.__name__ + "-" + backend)
    make(path)
    before = digest(path)
    refused(deploy(lab, "--backend", backend, path), path, word)
    assert digest(path) == before


def test_an_image_that_another_program_has_open(lab):
    path, socket = lab.scratch("open.qcow2"), lab.place.file("nbd-socket")
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    server = lab.place.start("qemu-nbd", [tool("qemu-nbd"), "--persistent", "--socket", socket, path])
    eventually(lambda: os.path.exists(socket), 10, "qemu-nbd")
    try:
        refused(deploy(lab, path), "in use")
    finally:
        lab.place.stop(server)


def test_an_image_that_may_not_be_written(lab):
    path = lab.scratch("read-only")
    disks.write(path, "x" * 4096)
    os.chmod(path, 0o444)
    argv = [built("src/deploy/vmferry-deploy"), "deploy", "--agent", guestd_program(), path]
    if os.geteuid() == 0:
        argv[:0] = [tool("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    for args in [], ["--backend=nbd"]:
        refused(subprocess.run([*argv, *args], capture_output=True, text=True, env=lab.hostd.env), "cannot be written")


def test_a_domain_without_a_disk(lab):
    domain = lab.domain("diskless", start=False)
    refused(deploy(lab, "diskless"), "no disk")
    domain.undefine()
    refused(deploy(lab, "diskless"), "no domain")


def test_agents_that_are_none(lab):
    image = lab.scratch("any")
    disks.write(image, "x" * 4096)
    script = lab.scratch("script")
    disks.write(script, "#!/bin/sh\n" * 100)
    refused(lab.vmferry("deploy", "--agent", script, image), "is no program")
    refused(lab.vmferry("deploy", "--agent", "/nowhere", image), "/nowhere", "--agent=FILE")
    refused(deploy(lab, "--backend", "other", image), "no backend 'other'")


SLOW_TO_UNDO = """#!/bin/sh
trap 'sleep 0.5; echo undone; exit 1' TERM
echo started
while :; do sleep 0.1; done
"""


def test_the_command_stays_until_all_is_put_back(lab):
    program = lab.scratch("slow-to-undo")
    disks.write(program, SLOW_TO_UNDO)
    with subprocess.Popen([built("src/cli/vmferry"), "deploy", program], stdout=subprocess.PIPE, text=True,
                          env={**lab.hostd.env, "VMFERRY_DEPLOY": program}) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)  # a terminal would send it to both
        process.terminate()
        assert process.stdout.read() == "undone\n"
    assert process.returncode == 1


# By nbd, in the Debian.

class Guest:
    """The Debian as a host, with nbd and udev."""

    def __init__(self, lab, domain):
        self.lab = lab
        self.domain = domain
        self.trees = lab.place.directory("trees")
        lab.client.wait_ready("debian", 240)
        self.ok("depmod -a; mkdir -p /srv/bin /srv/trees")
        for program in "src/cli/vmferry", "src/deploy/vmferry-deploy":
            self.push(for_guests(program), "/srv/bin/")
        self.push(guestd_program(), "/srv/bin/guestd")
        self.ok("modprobe loop && modprobe dm-mod")

    def push(self, source, destination):
        self.lab.vmferry("cp", source, "debian:" + destination, check=True)

    def run(self, script, timeout=180):
        """Status, stdout, stderr."""
        return self.lab.client.run("debian", "sh", "-c", MAKERS + script, wait=timeout)

    def ok(self, script, timeout=180):
        status, out, err = self.run(script, timeout)
        assert status == 0, (script, out, err)
        return out

    def tree(self, name, make=disks.system_tree, **kw):
        """Makes a tree and brings it in; its path there."""
        path = os.path.join(self.trees, name)
        if not os.path.isdir(path):
            make(path, **kw)
            self.push(path, "/srv/trees/")
        return "/srv/trees/" + name

    def deploy(self, *args, agent="/srv/bin/guestd"):
        words = " ".join(args)
        status, out, err = self.run(f"VMFERRY_DEPLOY=/srv/bin/vmferry-deploy /srv/bin/vmferry deploy --backend=nbd --agent={agent} {words}")
        assert self.left() == "", (out, err)
        return subprocess.CompletedProcess(args, status, out, err)

    def deployed(self, *args, **kw):
        r = self.deploy(*args, **kw)
        assert r.returncode == 0, (r.stdout, r.stderr)
        return r.stdout

    def left(self):
        return self.run(LEFT)[1]

    def inside(self, image, command):
        """Of debugfs."""
        return self.ok(f"debugfs -R '{command}' {image} 2>/dev/null")


@pytest.fixture(scope="module")
def guest(lab, debian):
    if debian.virsh("domstate").stdout.strip() != "running":
        debian.start()
    return Guest(lab, debian)


def test_nbd_without_the_module(guest):
    """First: nothing has loaded it yet."""
    image = "/srv/no-module"
    guest.ok(f"whole {guest.tree('systemd', init='systemd')} {image}; mv $(find /lib/modules -name nbd.ko) /srv/nbd.ko; depmod -a")
    refused(guest.deploy(image), "no nbd device")
    guest.ok("mv /srv/nbd.ko $(dirname $(find /lib/modules -name loop.ko)); depmod -a")
    guest.deployed(image)


@pytest.mark.parametrize("kind", ["whole", "qcow2", "gpt", pytest.param("lvm", marks=pytest.mark.slow)])
def test_nbd_layouts(guest, kind):
    image = "/srv/image-" + kind
    guest.ok(f"{kind} {guest.tree('systemd', init='systemd')} {image}")
    before = guest.ok(f"sha256sum < {image}")
    plan = guest.deployed("--dry-run", image)
    assert "would write /usr/sbin/vmferry-guestd" in plan and "nothing was changed" in plan
    assert guest.ok(f"sha256sum < {image}") == before
    report = guest.deployed(image)
    assert "found Lab with systemd" in report and "writing /usr/sbin/vmferry-guestd" in report, report
    again = guest.deployed(image)
    assert "up to date" in again and "writing" not in again and "linking" not in again
    guest.ok(f"rm {image}")


WRITTEN = {
    "systemd": ["/etc/udev/rules.d/60-vmferry-guestd.rules", "/etc/systemd/system/vmferry-guestd.service",
                "/etc/systemd/system/multi-user.target.wants/vmferry-guestd.service"],
    "openrc": ["/etc/init.d/vmferry-guestd", "/etc/runlevels/default/vmferry-guestd"],
    "sysv": ["/etc/init.d/vmferry-guestd", "/etc/rc2.d/S20vmferry-guestd", "/etc/rc3.d/S20vmferry-guestd"],
    "busybox": ["/etc/inittab"],
}


@pytest.mark.slow
@pytest.mark.parametrize("init", WRITTEN)
def test_nbd_inits(guest, init):
    image = "/srv/init"
    guest.ok(f"whole {guest.tree(init, init=init)} {image}")
    report = guest.deployed(image)
    written = re.findall(r"^(?:writing|linking) (\S+)", report, re.M)
    assert sorted(written) == sorted(WRITTEN[init] + ["/etc/vmferry/guestd.conf", "/usr/sbin/vmferry-guestd"])
    for path in written:
        assert "User:     0" in guest.inside(image, "stat " + path)
    again = guest.deployed(image)
    assert "writing" not in again and "linking" not in again
    guest.inside(image, "dump /usr/sbin/vmferry-guestd /srv/out")
    guest.ok("cmp /srv/out /srv/bin/guestd")


@pytest.mark.slow
def test_nbd_updates_an_older_one(guest):
    image = "/srv/older"
    guest.ok(f"whole {guest.tree('openrc', init='openrc')} {image}; cp /srv/bin/guestd /srv/old; echo old >> /srv/old")
    guest.deployed(image, agent="/srv/old")
    assert re.findall(r"^writing (\S+)", guest.deployed(image), re.M) == ["/usr/sbin/vmferry-guestd"]


@pytest.mark.slow
def test_nbd_labels_what_it_wrote_only(guest):
    image, attribute = "/srv/labels", "security.selinux"
    guest.ok(f"whole {guest.tree('openrc', init='openrc')} {image}")
    for path, label in ("/etc", "etc_t"), ("/usr/sbin", "bin_t"):
        guest.ok(f"debugfs -w -R 'ea_set {path} {attribute} u:object_r:{label}:s0' {image} 2>/dev/null")
    assert "labelled" in guest.deployed(image)
    for path, label in ("/etc/vmferry", "etc_t"), ("/etc/vmferry/guestd.conf", "etc_t"), ("/usr/sbin/vmferry-guestd", "bin_t"):
        assert label in guest.inside(image, f"ea_get {path} {attribute}")
    assert "object_r" not in guest.run(f"debugfs -R 'ea_get /etc/os-release {attribute}' {image}")[1]


FOREIGN = (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00").ljust(64, b"\0")  # aarch64
NOTHING_IN_IT = "mkdir -p /srv/trees/nothing/etc && whole /srv/trees/nothing"
REFUSED = {
    "no-linux": (lambda g: NOTHING_IN_IT, ["no Linux"]),
    "zeros": (lambda g: "f() { truncate -s 16M $1; }; f", ["no Linux"]),
    "no-init": (lambda g: f"whole {g.tree('none', init='none')}", ["nothing would start"]),
    "foreign": (lambda g: f"whole {g.tree('foreign', init='openrc', bin__sh=FOREIGN)}", ["aarch64", "--agent=FILE"]),
    "encrypted": (lambda g: "f() { truncate -s 1M $1.new && sfdisk -q $1.new <<E\nlabel: dos\nstart=64\nE\n"
                  "qemu-img create -q --object secret,id=s,data=x -f luks -o key-secret=s,iter-time=10 $1.luks 1M && "
                  "cat $1.luks >> $1.new && dd if=$1.luks of=$1.new seek=64 status=none conv=notrunc && mv $1.new $1; }; f",
                  ["encrypted"]),
    "two": (lambda g: f"f() {{ gpt {g.tree('openrc', init='openrc')} $1 && qemu-img convert -O raw $1 $1.raw && mv $1.raw $1 && "
            f"mke2fs -q -F -t ext4 -E offset=1048576 -d {g.tree('openrc', init='openrc')} $1 2M; }}; f", ["more than one"]),
    "damaged": (lambda g: f"f() {{ whole {g.tree('openrc', init='openrc')} $1 && "
                "dd if=/dev/urandom of=$1 bs=1k seek=2 count=600 conv=notrunc status=none; }; f", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_nbd_refuses(guest, what):
    image = "/srv/refused"
    make, words = REFUSED[what]
    guest.ok(f"rm -f {image}; {make(guest)} {image}")
    before = guest.ok(f"sha256sum < {image}")
    refused(guest.deploy(image), *words)
    assert guest.ok(f"sha256sum < {image}") == before


@pytest.mark.slow
def test_nbd_a_full_file_system_stays_whole(guest):
    image = "/srv/full"
    guest.ok(f"whole {guest.tree('openrc', init='openrc')} {image} 1M")
    refused(guest.deploy(image), "No space left")
    assert "vmferry-guestd" not in guest.inside(image, "ls /usr/sbin") + guest.inside(image, "ls /etc/init.d")
    guest.ok(f"e2fsck -fn {image}")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["TERM", "INT", "KILL"])
def test_nbd_interrupted(guest, how):
    """While it writes a program that is large enough to be seen at it."""
    image = "/srv/interrupted"
    guest.ok(f"whole {guest.tree('openrc', init='openrc')} {image} 80M; cp /srv/bin/guestd /srv/huge; truncate -s 48M /srv/huge")
    guest.ok(f"""/srv/bin/vmferry-deploy deploy --backend=nbd --agent=/srv/huge {image} > /srv/out 2> /srv/err & pid=$!
             until grep -q 'writing /usr/sbin' /srv/out; do sleep 0.01; done; kill -{how} $pid; wait $pid; echo $? > /srv/status""")
    if how != "KILL":
        assert guest.ok("cat /srv/status /srv/err").startswith("1\n") and "interrupted" in guest.ok("cat /srv/err")
    eventually(lambda: guest.left() == "", 30, "nothing that is left", every=0.5)
    guest.ok(f"e2fsck -fp {image} || [ $? = 1 ]")
    assert "vmferry-guestd" not in guest.inside(image, "ls /etc/init.d")
    guest.deployed(image)


@pytest.mark.slow
def test_a_busybox_system_by_nbd_boots(lab, client, guest):
    image = "/srv/busybox"
    guest.ok(f"whole {guest.tree('boots', make=disks.busybox_tree)} {image}")
    guest.deployed(image)
    disk = lab.place.file("busybox.img")
    lab.vmferry("cp", "debian:" + image, disk, check=True)
    os.chmod(disk, 0o666)
    domain = lab.domain("busybox", debian_lab.starter(lab, "vda"), disks=[disk])
    try:
        client.wait_ready("busybox", 90)
        assert client.run("busybox", "/bin/busybox", "cat", "/proc/1/comm")[1] == "init\n"
    finally:
        domain.undefine()


# The same by libguestfs, where each look takes half a minute.

@pytest.mark.slow
@pytest.mark.parametrize("what", ["no-linux", "foreign", "encrypted", "damaged"])
def test_guestfs_refuses(lab, guest, guestfs, what):
    make, words = REFUSED[what]
    guest.ok(f"rm -f /srv/refused; {make(guest)} /srv/refused")
    image = lab.scratch("refused")
    lab.vmferry("cp", "debian:/srv/refused", image, check=True)
    before = digest(image)
    refused(deploy(lab, image), *words)
    assert digest(image) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "gpt", "lvm"])
def test_guestfs_layouts(lab, guest, guestfs, kind):
    guest.ok(f"rm -f /srv/layout; {kind} {guest.tree('systemd', init='systemd')} /srv/layout")
    image = lab.scratch("layout")
    lab.vmferry("cp", "debian:/srv/layout", image, check=True)
    before = digest(image)
    plan = deploy(lab, "--dry-run", image)
    assert plan.returncode == 0 and "would write /usr/sbin/vmferry-guestd" in plan.stdout, (plan.stdout, plan.stderr)
    assert digest(image) == before
    assert "in place" in deploy(lab, image).stdout
    again = deploy(lab, image)
    assert again.returncode == 0 and "up to date" in again.stdout and "writing" not in again.stdout
    # One way sees what the other did.
    lab.vmferry("cp", image, "debian:/srv/layout", check=True)
    assert "would" not in guest.deployed("--dry-run", "/srv/layout")
