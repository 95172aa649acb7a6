# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job on one real machine: found, connected, described, asked; and what each wrong request is answered."""

import hashlib
import os
import re
import threading
import time

import pytest

from lab.bus import BusError, options
from lab.need import eventually
from lab.virt import CONTROL, DATA

INVALID_ARGS = "org.freedesktop.DBus.Error.InvalidArgs"


def refused(error, call, *args, **kw):
    """The call must be refused with that error and a sentence."""
    with pytest.raises(BusError) as e:
        call(*args, **kw)
    assert e.value.name == error, str(e.value)
    assert len(e.value.message) > 10
    return e.value.message


# Discovery


def test_listed(lab, vm, client):
    (name, uuid, state, path), = [g for g in client.manager("ListGuests") if g[0] == "lab"]
    assert (uuid, state) == (vm.uuid, "ready")
    assert client.guest_path("lab") == client.guest_path(vm.uuid) == path


def test_properties(lab, vm, client):
    p = client.guest_properties("lab")
    assert p["Name"] == "lab" and p["Uuid"] == vm.uuid and p["State"] == "ready"
    assert p["StateReason"] and p["AgentVersion"]
    assert p["Hostname"] == "lab"
    assert p["OsRelease"]["ID"] == "lab"
    assert p["ControlSocket"] == vm.channel_path(CONTROL)
    assert p["DataSocket"] == vm.channel_path(DATA)
    assert re.fullmatch(r"[0-9a-f-]{32,36}", p["BootId"])
    assert p["Capabilities"] and len(set(p["Capabilities"])) == len(p["Capabilities"])
    assert abs(p["ReadySince"] / 1e6 - time.time()) < 600


def test_manager_properties(lab, vm, client):
    p = client.get_all("/org/vmferry1", "org.vmferry1.Manager")
    assert p["Version"] and p["ConnectUri"] == lab.libvirtd.uri and p["LibvirtState"] == "connected"
    assert p["GuestCount"] >= 1 and p["ReadyCount"] >= 1


def test_object_manager(lab, vm, client):
    objects = client.call("/org/vmferry1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    guest = objects[client.guest_path("lab")]["org.vmferry1.Guest"]
    assert guest["Name"] == "lab" and guest["State"] == "ready"


def test_domain_that_is_off(lab, vm, client):
    """One that is defined, started nowhere, renamed, and undefined again."""
    other = lab.domain("other", start=False)
    lab.wait_state("other", "off")
    assert "off" in refused("NotReady", client.ping, "other")
    lab.libvirtd.virsh("domrename", "other", "renamed")
    eventually(lambda: "renamed" in lab.guests() and "other" not in lab.guests(), 10, "the new name")
    other.undefine()
    eventually(lambda: "renamed" not in lab.guests(), 10, "gone")


def test_removed_as_added(lab, vm, client):
    """GLib's clients forget an object when all interfaces are gone that it was added with."""
    since = time.monotonic()
    other = lab.domain("passing", start=False)
    _, _, (path, added) = client.wait_signal(
        lambda path, signal, args: signal == "InterfacesAdded" and
        args[1].get("org.vmferry1.Guest", {}).get("Name") == "passing", since=since)
    other.undefine()
    _, _, (_, removed) = client.wait_signal(
        lambda p, signal, args: signal == "InterfacesRemoved" and args[0] == path, since=since)
    assert set(removed) == set(added)


def test_name_like_a_uuid(lab, vm, client):
    """A domain that is named as another's UUID hides it from nobody, and is found by a UUID of its own."""
    namesake = lab.domain(vm.uuid, start=False)
    unlike = lab.domain("01234567-89ab-cdef-0123-456789abcdef", start=False)
    lab.wait_state("01234567-89ab-cdef-0123-456789abcdef", "off")
    try:
        assert client.guest_path(vm.uuid) == client.guest_path("lab")
        assert client.guest_path(namesake.uuid) != client.guest_path("lab")
        assert client.guest_path("01234567-89ab-cdef-0123-456789abcdef") == client.guest_path(unlike.uuid)
    finally:
        namesake.undefine()
        unlike.undefine()


def _error(call, *args):
    with pytest.raises(BusError) as e:
        call(*args)
    return e.value.name


def test_no_guestd(lab, vm, client):
    """A machine in which nobody answers is waited for, and harms nobody."""
    other = lab.domain("silent", cmdline="lab.noguestd")
    lab.wait_state("silent", "waiting")
    assert "silent" in refused("NotReady", client.ping, "silent")
    started = time.monotonic()
    refused("Timeout", client.manager, "WaitReady", "(st)", "silent", 500000)
    assert 0.4 < time.monotonic() - started < 5
    client.ping("lab")
    other.undefine()
    eventually(lambda: "silent" not in lab.guests(), 10, "gone")


def test_no_channel_then_enabled_and_disabled(lab, vm, client):
    """A running machine without the ports gets them, is ready without a reboot, and loses them again."""
    plain = lab.domain("plain", channels=())
    lab.wait_state("plain", "no-channel")
    assert "vmferry enable" in client.guest_properties("plain")["StateReason"]
    assert "plain" in refused("NotReady", client.ping, "plain")
    eventually(lambda: plain.guestd_starts() > 0, 60, "guestd")
    assert client.manager("EnableChannels", "(sa{sv})", "plain", {}) is True
    client.wait_ready("plain", 60)
    assert client.run("plain", "hostname")[0] == 0
    inactive = lab.libvirtd.virsh("dumpxml", "--inactive", "plain").stdout
    assert CONTROL in inactive and DATA in inactive
    assert client.manager("EnableChannels", "(sa{sv})", "plain", {}) is True  # again is no error
    client.manager("DisableChannels", "(sa{sv})", "plain", {})
    lab.wait_state("plain", "no-channel")
    eventually(lambda: CONTROL not in plain.live_xml(), 10, "the channels gone")
    plain.undefine()


def test_paused(lab, vm, client):
    since = time.monotonic()
    vm.suspend()
    lab.wait_state("lab", "paused", 5)
    assert "paused" in refused("NotReady", client.ping, "lab")
    vm.resume()
    lab.wait_state("lab", "ready", 5)
    client.ping("lab")
    client.wait_signal(lambda path, signal, args: signal == "GuestStateChanged" and args[1:] == ("lab", "ready", "paused"),
                       since=since)


# Verbs


def test_ping(client, vm):
    assert 0 < client.ping("lab") < 5e6
    assert 0 < client.guest("lab", "Ping") < 5e6


def test_run(client, vm):
    assert client.run("lab", "echo", "a b", "ü") == (0, "a b ü\n", "")
    assert client.run("lab", "sh", "-c", "echo out; echo err >&2; exit 42") == (42, "out\n", "err\n")
    assert client.run("lab", "sh", "-c", "kill -9 $$")[0] == 128 + 9


def test_run_options(client, vm):
    assert client.run("lab", "pwd", cwd="/proc/sys")[1] == "/proc/sys\n"
    assert client.run("lab", "sh", "-c", "echo $A-$B", env={"A": "1", "B": "x y"})[1] == "1-x y\n"
    assert client.run("lab", "tr", "a-z", "A-Z", stdin=b"shout")[1] == "SHOUT"
    assert client.run("lab", "id", user="user")[1] == "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n"


def test_run_bytes(client, vm):
    status, out, err = client.guest("lab", "Run", "(asa{sv})", ["printf", "\\000\\377\\n"], {})
    assert (status, bytes(out), bytes(err)) == (0, b"\0\xff\n", b"")


def test_run_what_is_no_text(client, vm):
    """As text: what sd-bus would refuse is replaced, and the rest arrives."""
    for printed in r"a\303", r"a\0", r"a\357\277\277", r"a\357\267\220", r"a\360\237\277\276", r"a\355\240\200":
        status, out, _ = client.run("lab", "printf", printed + "b")
        assert status == 0 and out[0] == "a" and out[-1] == "b" and set(out[1:-1]) == {"\ufffd"}, printed


def test_run_large_output(client, vm):
    status, out, _ = client.guest("lab", "Run", "(asa{sv})", ["head", "-c", str(16 << 20), "/dev/zero"], {}, timeout=120)
    assert status == 0 and len(out) == 16 << 20
    refused("TooLarge", client.guest, "lab", "Run", "(asa{sv})", ["head", "-c", str((16 << 20) + 1), "/dev/zero"], {},
            timeout=120)
    client.ping("lab")


def test_send_and_call(client, vm):
    assert client.message("lab", "upper", "hello") == "HELLO"
    assert client.message("lab", "about", "") == "about call\n"
    assert client.message("lab", "note", "remember", method="Send") > 0
    eventually(lambda: client.run("lab", "cat", "/run/note")[1] == "remember", 10, "the handler's work")
    payload = os.urandom(65536)
    assert bytes(client.guest("lab", "Call", "(saya{sv})", "echo", payload, {})) == payload


def test_push_and_pull(lab, client, vm):
    data = os.urandom(3 << 20)
    with open(lab.scratch("up"), "wb") as file:
        file.write(data)
    os.chmod(lab.scratch("up"), 0o751)
    os.utime(lab.scratch("up"), ns=(0, 1_500_000_000_123_456_789))
    p = client.done(client.push("lab", lab.scratch("up"), "/srv/up"))
    assert p["Kind"] == "push" and p["BytesDone"] == p["BytesTotal"] == len(data)
    assert p["Source"] == lab.scratch("up") and p["Destination"] == "/srv/up" and p["GuestName"] == "lab"
    assert re.fullmatch("xxh64:[0-9a-f]{16}", p["Digest"])
    assert client.run("lab", "sha256sum", "/srv/up")[1].split()[0] == hashlib.sha256(data).hexdigest()
    assert client.run("lab", "stat", "-c", "%a %Y", "/srv/up")[1] == "751 1500000000\n"

    q = client.done(client.pull("lab", "/srv/up", lab.scratch("down")))
    assert q["Digest"] == p["Digest"]
    with open(lab.scratch("down"), "rb") as file:
        assert file.read() == data
    status = os.stat(lab.scratch("down"))
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o751, 1_500_000_000_123_456_789)


def test_empty_file(lab, client, vm):
    open(lab.scratch("empty"), "w").close()
    client.done(client.push("lab", lab.scratch("empty"), "/srv/empty"))
    client.done(client.pull("lab", "/srv/empty", lab.scratch("empty.back")))
    assert os.path.getsize(lab.scratch("empty.back")) == 0


def test_file_descriptors(lab, client, vm):
    """Of a file, and of a pipe whose length nobody knows."""
    data = os.urandom(500_000)
    with open(lab.scratch("fd"), "wb+") as file:
        file.write(data)
        file.flush()
        file.seek(0)
        job = client.guest("lab", "PushFd", "(hsa{sv})", 0, "/srv/fd", {}, fds=[file.fileno()])
        client.done(job)
    with open(lab.scratch("fd.back"), "wb+") as file:
        client.done(client.guest("lab", "PullFd", "(sha{sv})", "/srv/fd", 0, {}, fds=[file.fileno()]))
        file.seek(0)
        assert file.read() == data

    read, write = os.pipe()
    job = client.guest("lab", "PushFd", "(hsa{sv})", 0, "/srv/pipe", {}, fds=[read])
    os.close(read)
    writer = threading.Thread(target=lambda: (os.write(write, data[:65536]), time.sleep(0.3), os.write(write, b"end"),
                                              os.close(write)))
    writer.start()
    client.done(job)
    writer.join()
    size, = client.run("lab", "stat", "-c", "%s", "/srv/pipe")[1].split()
    assert int(size) == 65536 + 3

    read, write = os.pipe()
    got = []
    reader = threading.Thread(target=lambda: got.append(_read_all(read)))
    reader.start()
    job = client.guest("lab", "PullFd", "(sha{sv})", "/srv/fd", 0, {}, fds=[write])
    os.close(write)
    client.done(job)
    reader.join(20)
    assert got == [data]


def _read_all(fd):
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_jobs(lab, client, vm):
    since = time.monotonic()
    with open(lab.scratch("job"), "wb") as file:
        file.write(b"x" * 100000)
    number, path = client.push("lab", lab.scratch("job"), "/srv/job")
    client.done((number, path))
    assert (number, path, "lab", "push", "done") in [tuple(j) for j in client.manager("ListJobs")]
    p = client.job_properties(path)
    assert p["Id"] == number and p["OwnerUid"] == os.geteuid() and p["StartedAt"] <= p["FinishedAt"]
    client.wait_signal(lambda at, signal, args: at == path and signal == "Finished" and args == ("done", "", ""), since=since)
    client.wait_signal(lambda at, signal, args: signal == "JobNew" and args == (number, path), since=since)


def test_cancel(lab, client, vm):
    read, write = os.pipe()
    _, path = client.guest("lab", "PushFd", "(hsa{sv})", 0, "/srv/never", {}, fds=[read])
    os.close(read)
    os.write(write, b"some")
    time.sleep(0.3)
    client.job(path, "Cancel")
    assert client.wait_job(path, 10)["State"] == "cancelled"
    os.close(write)
    eventually(lambda: client.run("lab", "sh", "-c", "ls -A /srv | grep -c never || true")[1] == "0\n", 5, "nothing left")


# What is refused


def test_no_such_guest(client, vm):
    for name in "nobody", "", "00000000-0000-0000-0000-000000000000", "x" * 300, "../lab":
        refused("NoSuchGuest", client.manager, "GetGuest", "(s)", name)
        refused("NoSuchGuest", client.ping, name)


def test_unknown_option(lab, client, vm):
    refused(INVALID_ARGS, client.run, "lab", "true", colour="red")
    refused(INVALID_ARGS, client.push, "lab", "/etc/passwd", "/srv/x", preserves=True)
    refused(INVALID_ARGS, client.message, "lab", "echo", "", colour="red")


def test_wrong_option_type(client, vm):
    refused(INVALID_ARGS, client.run, "lab", "true", cwd=True)
    refused(INVALID_ARGS, client.run, "lab", "true", timeout="soon")


def test_paths(lab, client, vm):
    for host_path, guest_path in ("relative", "/srv/x"), ("/etc/passwd", "relative"), ("", "/srv/x"), ("/etc/passwd", ""):
        assert _error(client.push, "lab", host_path, guest_path) in ("InvalidPath", INVALID_ARGS)
        assert _error(client.pull, "lab", guest_path, host_path) in ("InvalidPath", INVALID_ARGS)
    assert client.failed(client.push("lab", lab.scratch("missing"), "/srv/x")) == "NotFound"
    assert client.failed(client.pull("lab", "/srv/missing", lab.scratch("x"))) == "NotFound"
    open(lab.scratch("a"), "w").close()
    assert client.failed(client.push("lab", lab.scratch("a"), "/no/such/directory/x")) == "NotFound"
    assert client.failed(client.push("lab", lab.scratch("a"), "/proc/version")) != ""


def test_overwrite_fail(lab, client, vm):
    open(lab.scratch("a"), "w").close()
    client.done(client.push("lab", lab.scratch("a"), "/srv/a"))
    assert client.failed(client.push("lab", lab.scratch("a"), "/srv/a", overwrite="fail")) == "Exists"
    refused(INVALID_ARGS, client.push, "lab", lab.scratch("a"), "/srv/a", overwrite="sometimes")


def test_update_carries_nothing(lab, client, vm):
    """Where the file was left alone, no digest is claimed."""
    with open(lab.scratch("same"), "w") as file:
        file.write("the same")
    assert client.done(client.push("lab", lab.scratch("same"), "/srv/same"))["Digest"]
    assert client.done(client.push("lab", lab.scratch("same"), "/srv/same", overwrite="update"))["Digest"] == ""


def test_device_is_no_destination(lab, client, vm):
    """A file would take the place of the device."""
    assert client.failed(client.push("lab", "/etc/passwd", "/dev/null")) == "Exists"
    assert client.run("lab", "test", "-c", "/dev/null")[0] == 0


def test_argv(client, vm):
    refused(INVALID_ARGS, client.manager, "Run", "(sasa{sv})", "lab", [], {})
    refused(INVALID_ARGS, client.manager, "Run", "(sasa{sv})", "lab", [""], {})
    assert client.run("lab", "/no/such/program")[0] == 127
    assert client.run("lab", "/etc/passwd")[0] == 126
    assert _error(lambda: client.run("lab", "true", "x" * 200_000)) in ("TooLarge", INVALID_ARGS)
    assert _error(lambda: client.run("lab", "true", env={"A=B": "1"})) == INVALID_ARGS
    assert _error(lambda: client.run("lab", "true", user="nobody-such")) == INVALID_ARGS
    assert _error(lambda: client.run("lab", "true", cwd="/no/such")) == "InvalidPath"


def test_topics(client, vm):
    assert "lab" in refused("NoHandler", client.message, "lab", "nothing", "x")
    refused("NoHandler", client.message, "lab", "nothing", "x", method="Send")
    for topic in "", "a/b", "../upper", "x" * 129, ".hidden", "a\nb":
        assert _error(client.message, "lab", topic, "x") in (INVALID_ARGS, "TooLarge")
    assert "this handler fails" in _message(client.message, "lab", "fail", "x")
    refused("TooLarge", client.guest, "lab", "Call", "(saya{sv})", "echo", b"x" * 65537, {})
    started = time.monotonic()
    refused("Timeout", client.message, "lab", "slow", "x", timeout=500_000)
    assert time.monotonic() - started < 5


def _message(call, *args):
    with pytest.raises(BusError) as e:
        call(*args)
    return e.value.message


def test_run_timeout(client, vm):
    started = time.monotonic()
    with pytest.raises(BusError) as e:
        client.manager("Run", "(sasa{sv})", "lab", ["sleep", "3141"], options(timeout=700_000))
    assert e.value.name == "Timeout"
    assert time.monotonic() - started < 10
    eventually(lambda: "3141" not in client.run("lab", "ps")[1], 15, "the end of sleep")


def test_nothing_grows(lab, client, vm):
    """Many requests of each kind leave no descriptors behind."""
    def some():
        for _ in range(10):
            client.ping("lab")
            client.run("lab", "true")
            client.message("lab", "echo", "x")
            client.done(client.push("lab", "/etc/passwd", "/srv/p"))

    def open_in_guest():
        return int(client.run("lab", "sh", "-c", "ls /proc/$(pidof vmferry-guestd | tr ' ' '\\n' | sort -n | head -n 1)/fd | wc -l")[1])

    some()
    eventually(lambda: client.run("lab", "sh", "-c", "pidof vmferry-guestd")[0] == 0, 5)
    before, guest_before = lab.hostd.n_fds(), open_in_guest()
    for _ in range(4):
        some()
    eventually(lambda: lab.hostd.n_fds() <= before + 4, 20, f"descriptors: {before}, now {lab.hostd.n_fds()}")
    eventually(lambda: open_in_guest() <= guest_before + 4, 20, "descriptors in the guest")
