# SPDX-License-Identifier: LGPL-2.1-or-later
"""vmferry installed on a whole host: activation, the unit and its sandbox, bus policy, polkit, and files as their owners."""

import hashlib
import json
import os
import re

import pytest

from lab.container import Container
from lab.need import eventually
from lab.place import Place
from lab.virt import Image

RULE = """
polkit.addRule(function(action, subject) {
        if (action.id.indexOf("org.vmferry1.") == 0 && subject.user == "alice" && action.lookup("domain_name") != "forbidden")
                return polkit.Result.YES;
});
"""
DENIED = ("Access denied", "AccessDenied", "Interactive", "interactive", "Permission denied")


@pytest.fixture(scope="module")
def host():
    place = Place()
    try:
        image = Image(place)
        container = Container()
        try:
            container.run("useradd", "-m", "-d", "/alice", "alice")
            container.boot_guest("lab", image)
            yield container
        finally:
            container.end()
    finally:
        place.remove()


@pytest.fixture
def no_rule(host):
    host.shell("rm -f /etc/polkit-1/rules.d/50-test.rules; systemctl stop polkit.service")
    return host


@pytest.fixture
def rule(host):
    host.write("/etc/polkit-1/rules.d/50-test.rules", RULE)
    host.shell("systemctl stop polkit.service")
    yield host
    host.shell("rm -f /etc/polkit-1/rules.d/50-test.rules; systemctl stop polkit.service")


def reply(r):
    """The values of a busctl --json=short reply."""
    return json.loads(r.stdout)["data"]


def call(host, method, *args, user=None, check=True, timeout=60):
    return host.busctl("--json=short", f"--timeout={timeout}", "call", "org.vmferry1", "/org/vmferry1", "org.vmferry1.Manager",
                       method, *args, user=user, check=check, timeout=timeout + 20)


def transfer(host, verb, source, destination, user=None, timeout=120):
    """Through busctl, as from a shell: the job's final properties, or the refusal's text."""
    r = call(host, verb, "sssa{sv}", "lab", source, destination, "0", user=user, check=False)
    return r.stderr if r.returncode else ended(host, reply(r)[1], timeout)


def ended(host, path, timeout=120):
    host.busctl(f"--timeout={timeout}", "call", "org.vmferry1", path, "org.vmferry1.Job", "Wait", "t", str(timeout * 1000000),
                timeout=timeout + 20)
    return {name: reply(host.busctl("--json=short", "get-property", "org.vmferry1", path, "org.vmferry1.Job", name))
            for name in ("State", "ErrorName", "ErrorMessage", "Digest", "BytesDone")}


def wait_ready(host):
    call(host, "WaitReady", "st", "lab", "90000000", timeout=100)


def refused(r):
    return r.returncode != 0 and any(word in r.stderr for word in DENIED)


def test_bus_configuration(host):
    """dbus-daemon passes over a file that it doesn't understand, and then nobody may."""
    text = host.journal("-b")
    assert not [line for line in text.splitlines() if "org.vmferry1" in line and "error" in line.lower()], text


def test_activation(host):
    """Nobody has started it: the first question does."""
    assert host.run("systemctl", "is-active", "vmferry-hostd.service", check=False).stdout.strip() == "inactive"
    assert "lab" in call(host, "ListGuests").stdout
    assert host.run("systemctl", "is-active", "vmferry-hostd.service").stdout.strip() == "active"


def test_sandbox(host):
    text = host.run("systemd-analyze", "security", "--no-pager", "vmferry-hostd.service").stdout
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", text)[1])
    assert exposure <= 3.0, text
    # guestd's commands live in its sandbox; shut, it is to be as good.
    host.shell("mkdir -p /run/systemd/system/vmferry-guestd.service.d && "
               "ln -s /usr/share/vmferry/vmferry-guestd-strict.conf /run/systemd/system/vmferry-guestd.service.d/")
    host.shell("systemctl daemon-reload")
    text = host.run("systemd-analyze", "security", "--no-pager", "vmferry-guestd.service").stdout
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", text)[1])
    assert exposure <= 3.0, text
    host.run("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/vmferry-hostd.service",
             "/usr/lib/systemd/system/vmferry-guestd.service", "/usr/lib/systemd/user/vmferry-hostd.service")


def test_ready(host):
    wait_ready(host)
    assert reply(call(host, "Run", "sasa{sv}", "lab", "2", "echo", "hello", "0")) == [0, "hello\n", ""]


def test_target(host):
    # A user's hostd asks the user's service manager for the same.
    for manager in "system", "user":
        host.run("env", "XDG_RUNTIME_DIR=/run", "systemd-analyze", "verify", "--man=no", f"--{manager}", "vmferry-guest@lab.target")
    wait_ready(host)
    eventually(lambda: host.run("systemctl", "is-active", "vmferry-guest@lab.target", check=False).stdout.strip() == "active",
               10, "the guest's target")


FOLLOWER = """[Unit]
PartOf=vmferry-guest@lab.target
After=vmferry-guest@lab.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo up >> /srv/follower'
ExecStop=/bin/sh -c 'echo down >> /srv/follower'

[Install]
WantedBy=vmferry-guest@lab.target
"""


def test_off_and_on(rule):
    """What hangs on the guest's target comes and goes with it. What alice queues is opened as alice, whoever was hostd then, and
    she may queue so much and no more."""
    host = rule
    wait_ready(host)
    host.write("/etc/systemd/system/follower.service", FOLLOWER)
    host.write("/etc/vmferry/hostd.conf.d/few.conf", "[Host]\nMaxQueuedPerCaller=3\n")
    host.shell("systemctl daemon-reload; systemctl enable --now follower.service; systemctl reload vmferry-hostd.service; "
               "echo secret > /srv/secret && chmod 600 /srv/secret; for f in own later; do echo $f > /alice/$f; "
               "chown alice: /alice/$f; chmod 600 /alice/$f; done")
    host.run("virsh", "-q", "destroy", "lab")

    def target():
        return host.run("systemctl", "is-active", "vmferry-guest@lab.target", check=False).stdout.strip()
    eventually(lambda: target() == "inactive", 10, "the target's end")

    def push(source, user="alice"):
        return call(host, "Push", "sssa{sv}", "lab", source, "/srv/from-queue" + source.replace("/", "-"), "1", "queue", "b", "true",
                    user=user, check=False)
    own, secret, later = (reply(push(source))[1] for source in ("/alice/own", "/srv/secret", "/alice/later"))
    r = push("/alice/own")
    assert r.returncode and "MaxQueuedPerCaller" in r.stderr, r.stderr
    ours = reply(push("/srv/secret", user=None))[1]
    # What is pushed is what is there when the guest is.
    host.shell("ln -sf /srv/secret /alice/later; chown -h alice: /alice/later; "
               "kill -9 $(systemctl show -P MainPID vmferry-hostd.service)")
    host.run("virsh", "-q", "start", "lab")
    eventually(lambda: call(host, "ListGuests", check=False).returncode == 0, 20, "another hostd")
    wait_ready(host)
    assert ended(host, own)["State"] == "done"
    for path in secret, later:
        assert ended(host, path)["ErrorName"] == "org.vmferry1.Error.PermissionDenied"
    assert ended(host, ours)["State"] == "done"
    eventually(lambda: target() == "active", 10, "the guest's target")
    eventually(lambda: host.shell("cat /srv/follower").stdout == "up\ndown\nup\n", 10, "what follows it")
    host.shell("systemctl disable --now follower.service; rm /etc/vmferry/hostd.conf.d/few.conf; systemctl reload vmferry-hostd")


def test_actions_of_three_directories(host):
    """By name, /run over /etc over /usr/lib; an empty file and a link to /dev/null mask."""
    action = "[Action]\nDescription={where}\nGuests=nobody\n[Step x]\nRun=/bin/true\n"
    for name in "10-own", "20-replaced", "30-masked", "40-empty", "50-twice":
        host.write(f"/usr/lib/vmferry/actions.d/{name}.action", action.format(where="usr"))
    for name in "20-replaced", "50-twice":
        host.write(f"/etc/vmferry/actions.d/{name}.action", action.format(where="etc"))
    host.shell("mkdir -p /run/vmferry/actions.d; ln -sf /dev/null /run/vmferry/actions.d/30-masked.action; "
               "touch /etc/vmferry/actions.d/40-empty.action; sed s/=etc/=run/ /etc/vmferry/actions.d/50-twice.action "
               "> /run/vmferry/actions.d/50-twice.action")

    def loaded():
        return {a["name"]: a["description"] for a in map(json.loads, host.run("vmferry", "--json", "actions").stdout.splitlines())}
    eventually(lambda: loaded() == {"10-own": "usr", "20-replaced": "etc", "50-twice": "run"}, 10, "the files")
    assert host.run("vmferry", "actions", "check").stderr.count("nobody") == 3
    host.shell("rm /run/vmferry/actions.d/30-masked.action /run/vmferry/actions.d/50-twice.action")
    eventually(lambda: loaded() == {"10-own": "usr", "20-replaced": "etc", "30-masked": "usr", "50-twice": "etc"}, 10, "the rest")
    host.write("/etc/vmferry/actions.d/60-wrong.action", action.format(where="etc") + "Rnu=/bin/true\n")
    r = host.run("vmferry", "actions", "check", check=False)
    assert r.returncode == 1 and "/etc/vmferry/actions.d/60-wrong.action:6: " in r.stderr, r.stderr
    host.shell("rm -r /usr/lib/vmferry/actions.d /etc/vmferry/actions.d /run/vmferry/actions.d")


def test_both_ways(host):
    """256 MiB of random bytes, in and back through Push and Pull."""
    wait_ready(host)
    data = os.urandom(256 << 20)
    with open(host.root + "/srv/big", "wb") as file:
        file.write(data)
    p = transfer(host, "Push", "/srv/big", "/srv/big")
    assert p["State"] == "done" and p["BytesDone"] == len(data), p
    p = transfer(host, "Pull", "/srv/big", "/srv/back")
    assert p["State"] == "done", p
    with open(host.root + "/srv/back", "rb") as file:
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(data).digest()
    call(host, "Run", "sasa{sv}", "lab", "2", "rm", "/srv/big", "0")


def test_anybody_may_not(no_rule):
    host = no_rule
    wait_ready(host)
    requests = {
        "ListGuests": (),
        "Ping": ("s", "lab"),
        "Send": ("sssa{sv}", "lab", "echo", "x", "0"),
        "Call": ("sssa{sv}", "lab", "echo", "x", "0"),
        "Run": ("sasa{sv}", "lab", "1", "true", "0"),
        "Push": ("sssa{sv}", "lab", "/etc/hostname", "/srv/x", "0"),
        "Pull": ("sssa{sv}", "lab", "/etc/hostname", "/tmp/x", "0"),
        "EnableChannels": ("sa{sv}", "lab", "0"),
        "Reload": (),
    }
    for method, args in requests.items():
        r = call(host, method, *args, user="alice", check=False)
        assert refused(r), (method, r.stdout, r.stderr)
        assert call(host, method, *args, check=False).returncode == 0, f"root may not {method}"


def test_no_polkit_at_all(no_rule):
    host = no_rule
    wait_ready(host)
    host.shell("systemctl mask --now --runtime polkit.service")
    try:
        assert call(host, "Ping", "s", "lab", user="alice", check=False).returncode != 0
        call(host, "Ping", "s", "lab")
    finally:
        host.shell("systemctl unmask --runtime polkit.service")


def test_bus_policy(host):
    """Nobody else can be org.vmferry1."""
    host.shell("systemctl stop vmferry-hostd.service")
    r = host.run("busctl", "--no-pager", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                 "RequestName", "su", "org.vmferry1", "0", user="alice", check=False)
    assert r.returncode != 0 and "not allowed" in r.stderr.lower() or "denied" in r.stderr.lower(), r.stderr
    assert call(host, "ListGuests").returncode == 0


def test_a_rule_serves(rule):
    host = rule
    wait_ready(host)
    assert call(host, "Ping", "s", "lab", user="alice").returncode == 0
    assert reply(call(host, "Run", "sasa{sv}", "lab", "2", "echo", "alice", "0", user="alice"))[1] == "alice\n"
    assert reply(call(host, "Call", "sssa{sv}", "lab", "upper", "x", "0", user="alice")) == ["X"]


def test_files_as_their_owner(rule):
    """With all of vmferry's permissions, alice still reads and writes on the host what alice could, and nothing else."""
    host = rule
    wait_ready(host)
    host.shell("echo mine > /alice/mine && chown alice:alice /alice/mine && chmod 600 /alice/mine")
    host.shell("echo secret > /srv/secret && chmod 600 /srv/secret; mkdir -p -m 700 /srv/closed; echo x > /srv/closed/x")
    assert transfer(host, "Push", "/alice/mine", "/srv/mine", user="alice")["State"] == "done"
    assert transfer(host, "Pull", "/srv/mine", "/alice/back", user="alice")["State"] == "done"
    assert host.shell("stat -c %U:%G /alice/back; cat /alice/back").stdout == "alice:alice\nmine\n"

    for source in "/srv/secret", "/etc/shadow", "/srv/closed/x":
        p = transfer(host, "Push", source, "/srv/stolen", user="alice")
        assert "PermissionDenied" in str(p), (source, p)
    for destination in "/srv/planted", "/etc/planted", "/srv/closed/planted", "/srv/secret":
        p = transfer(host, "Pull", "/etc/hostname", destination, user="alice")
        assert "PermissionDenied" in str(p), (destination, p)
    assert host.shell("cat /srv/secret; ls /srv/planted /etc/planted /srv/closed/planted 2>/dev/null; true").stdout == "secret\n"
    # A link of alice's to somebody else's is no way in.
    host.shell("ln -sf /srv/secret /alice/link && chown -h alice /alice/link")
    assert "PermissionDenied" in str(transfer(host, "Push", "/alice/link", "/srv/stolen", user="alice"))
    # root is served from everywhere that the unit could be thought to hide.
    for source in "/root/r", "/tmp/r", "/alice/r", "/usr/local/r", "/dev/shm/r", "/var/tmp/r", "/opt/r":
        host.shell(f"echo r > {source}")
        p = transfer(host, "Push", source, "/srv/r")
        assert p["State"] == "done", (source, p)
        p = transfer(host, "Pull", "/srv/r", source + ".back")
        assert p["State"] == "done", (source, p)
        assert host.shell(f"cat {source}.back").stdout == "r\n"


def test_groups_of_the_caller(rule):
    """A file that only a supplementary group may read."""
    host = rule
    host.shell("groupadd -f readers; usermod -aG readers alice; echo g > /srv/grouped; chgrp readers /srv/grouped; "
               "chmod 640 /srv/grouped")
    assert transfer(host, "Push", "/srv/grouped", "/srv/grouped", user="alice")["State"] == "done"


def test_audit(rule):
    host = rule
    transfer(host, "Push", "/etc/hostname", "/srv/audited", user="alice")
    text = host.journal("-u", "vmferry-hostd.service", "-o", "json", "-n", "50")
    lines = [json.loads(line) for line in text.splitlines()]
    entry = [e for e in lines if "/srv/audited" in json.dumps(e)]
    assert entry and any("DOMAIN_UUID" in e for e in entry)
    uid = host.run("id", "-u", "alice").stdout.strip()
    assert any(uid in json.dumps(e) or "alice" in json.dumps(e) for e in entry)


def test_killed_and_restarted(host):
    wait_ready(host)
    pid = host.run("systemctl", "show", "-P", "MainPID", "vmferry-hostd.service").stdout.strip()
    host.run("kill", "-9", pid)
    eventually(lambda: host.run("systemctl", "show", "-P", "MainPID", "vmferry-hostd.service").stdout.strip() not in ("0", pid),
               10, "a new hostd")
    wait_ready(host)
    call(host, "Ping", "s", "lab")


def test_stop_and_start(host):
    """An orderly stop is an orderly stop."""
    host.shell("systemctl stop vmferry-hostd.service")
    assert host.run("systemctl", "show", "-P", "Result", "vmferry-hostd.service").stdout.strip() == "success"
    host.shell("systemctl start vmferry-hostd.service")
    wait_ready(host)
    host.shell("systemctl reload vmferry-hostd.service")
    call(host, "Ping", "s", "lab")


def test_user_service(host):
    """alice's own hostd, on alice's bus and alice's libvirt session, started by the first question."""
    host.shell("loginctl enable-linger alice")
    uid = host.run("id", "-u", "alice").stdout.strip()
    eventually(lambda: os.path.exists(f"{host.root}/run/user/{uid}/bus") or
               host.run("test", "-S", f"/run/user/{uid}/bus", check=False).returncode == 0, 20, "alice's bus")
    env = [f"XDG_RUNTIME_DIR=/run/user/{uid}", f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{uid}/bus"]
    r = host.busctl("--user", "call", "org.vmferry1", "/org/vmferry1", "org.vmferry1.Manager", "ListGuests", user="alice",
                    env=env, check=False)
    assert r.returncode == 0, r.stderr + host.journal("-n", "30")
    assert r.stdout.startswith("a(ssso) 0")
    r = host.run("systemctl", "--user", "is-active", "vmferry-hostd.service", user="alice", env=env, check=False)
    assert r.stdout.strip() == "active"
    r = host.busctl("--user", "get-property", "org.vmferry1", "/org/vmferry1", "org.vmferry1.Manager", "ConnectUri",
                    user="alice", env=env)
    assert "qemu:///session" in r.stdout


def test_nothing_was_denied(host):
    """The sandbox was in nobody's way: no crash, no system call refused that mattered."""
    text = host.journal("-u", "vmferry-hostd.service")
    assert "SIGSYS" not in text and "core-dump" not in text, text[-3000:]
