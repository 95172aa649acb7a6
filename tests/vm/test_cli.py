# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command: what it prints, how it ends, what it makes of files."""

import json
import os
import select
import subprocess

import pytest

from lab import tree
from lab.need import built, eventually


def one_line(r, status=1):
    assert r.returncode == status, (r.stdout, r.stderr)
    assert r.stderr.count("\n") == 1, r.stderr
    return r.stderr


def documents(text):
    """One JSON document, or one object a line."""
    try:
        found = json.loads(text)
        return found if isinstance(found, list) else [found]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def test_list(lab, vm):
    text = lab.vmferry("list", check=True).stdout
    line, = [line for line in text.splitlines() if line.split()[:1] == ["lab"]]
    assert "ready" in line
    guest, = [g for g in documents(lab.vmferry("--json", "list", check=True).stdout) if g["Name"] == "lab"]
    assert guest["State"] == "ready" and guest["Uuid"] == vm.uuid


def test_status(lab, vm):
    text = lab.vmferry("status", "lab", check=True).stdout
    assert "ready" in text and vm.uuid in text
    documents(lab.vmferry("--json", "status", "lab", check=True).stdout)
    one_line(lab.vmferry("status", "nobody"))


def test_wait_and_ping(lab, vm):
    lab.vmferry("wait", "--timeout", "10", "lab", check=True)
    assert lab.vmferry("ping", "-c", "2", "lab", check=True).stdout
    one_line(lab.vmferry("ping", "-c", "1", "nobody"))


def test_json_behind_the_command(lab, vm):
    """And everywhere one document, or one object a line."""
    for argv in ("list",), ("status", "lab"), ("wait", "lab"), ("ping", "lab"):
        assert documents(lab.vmferry(*argv, "--json", check=True).stdout), argv
    r = lab.vmferry("exec", "--json", "lab", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert documents(r.stdout) == [{"exit_status": 3, "stdout": "out\n", "stderr": "err\n"}] and r.returncode == 3
    assert lab.vmferry("exec", "lab", "echo", "--json", check=True).stdout == "--json\n"
    documents(lab.vmferry("--json", "disable", "--dry-run", "lab", check=True).stdout)
    copied, = documents(lab.vmferry("--json", "cp", "/etc/passwd", "lab:/srv/j", check=True).stdout)
    assert copied["state"] == "done" and copied["digest"].startswith("xxh64:")
    assert copied["id"] in [j["Id"] for j in documents(lab.vmferry("jobs", "--all", "--json", check=True).stdout)]
    for argv in ("cp", "--help"), ("exec", "--help"):
        assert lab.vmferry(*argv, check=True).stdout


def test_monitor(lab, client, vm):
    """Whose jobs they are and how they end, and only those of the guest that was asked for."""
    monitor = subprocess.Popen([built("src/cli/vmferry"), "--user", "--json", "monitor", "lab"], env=lab.hostd.env,
                               stdout=subprocess.PIPE, text=True)
    try:
        seen = []

        def told():
            # Until it listens nothing is told.
            client.failed(client.push("lab", "/no/such/file", "/srv/m"))
            while select.select([monitor.stdout], [], [], 0.2)[0]:
                seen.append(json.loads(monitor.stdout.readline()))
            return [e for e in seen if e["event"] == "JobFinished"]
        end = eventually(told, 20, "the end of a job")[0]
        assert (end["guest"], end["kind"], end["result"]) == ("lab", "push", "failed") and end["error_message"]
    finally:
        monitor.kill()
        monitor.wait()


def test_shell_without_a_terminal(lab, vm):
    """It ends with its input."""
    assert "42" in lab.vmferry("shell", "lab", input="echo $((6*7))\n", timeout=60).stdout


def test_usage(lab, vm):
    for argv in (), ("nonsense",), ("ping",), ("cp", "one"), ("list", "--colour"):
        assert lab.vmferry(*argv).returncode == 2, argv
    assert lab.vmferry("--help", check=True).stdout
    assert lab.vmferry("--version", check=True).stdout


@pytest.mark.parametrize("argv,status", [
    (["status", "nobody"], 1), (["wait", "nobody"], 1), (["wait", "--timeout", "soon", "lab"], 2), (["wait", "\udcff"], 1),
    (["ping", "-c", "1", "\udcff"], 1), (["ping", "-c", "1", "nobody"], 1), (["jobs", "extra"], 2), (["cancel", "x"], 2),
    (["cancel", "4000000"], 1), (["queue", "nobody"], 1), (["queue", "\udcff"], 1), (["queue", "lab", "drop", "4000000"], 1),
    (["send", "nobody", "note", "x"], 1), (["send", "lab", "a/b", "x"], 1), (["send", "lab", "\udcff", "x"], 1),
    (["call", "lab", "nothing", "x"], 1), (["call", "lab"], 2), (["call", "\udcff", "echo", "x"], 1),
    (["exec", "nobody", "--", "true"], 125), (["exec", "\udcff", "--", "true"], 125), (["exec", "lab", "--", "\udcff"], 125),
    (["exec", "-e", "A=\udcff", "lab", "--", "true"], 125), (["exec", "-e", "nothing", "lab", "--", "true"], 2),
    (["exec", "--timeout", "x", "lab", "--", "true"], 2), (["exec", "-w", "relative", "lab", "--", "true"], 125),
    (["exec", "lab", "--", "/no/such"], 127), (["exec", "lab", "--", "/etc"], 126), (["exec", "--attach", "x"], 2),
    (["exec", "--attach", "4000000"], 125), (["exec", "--detach", "nobody", "--", "true"], 125),
    (["exec", "-t", "nobody", "--", "true"], 125), (["shell", "nobody"], 125), (["shell", "-u", "nobody-here", "lab"], 125),
    (["cp", "/no/such/file", "lab:/tmp/x"], 1), (["cp", "lab:/no/such", "/tmp/vmferry-never"], 1), (["cp", "a", "b"], 2),
    (["cp", "lab:/a", "lab:/b"], 2), (["cp", "/etc/passwd", "nobody:/x"], 1), (["cp", "/etc/passwd", "lab:\udcff"], 1),
    (["cp", "-", "lab:/no/such/dir/x"], 1), (["cp", "", "lab:/tmp/"], 1), (["cp", "/etc/passwd", "lab:"], 1),
    (["cp", "/etc/passwd", "/etc/group", "lab:"], 1), (["cp", "lab:", "/tmp/vmferry-never"], 1), (["cp", "--detach", "-", "lab:/x"], 2),
    (["cp", "--overwrite=perhaps", "/etc/passwd", "lab:/x"], 2), (["cp", "/etc/passwd/.", "lab:/x"], 1),
    (["cp", "lab:/etc/passwd/.", "/tmp/vmferry-never"], 1), (["cp", "/etc/passwd", "/etc/../etc/passwd", "lab:/tmp/"], 1), (["monitor", "nobody"], 1), (["enable", "nobody"], 1), (["disable", "\udcff"], 1),
    (["actions", "check", "/no/such"], None), (["upgrade", "nobody"], 1), (["metrics", "extra"], 2),
])
def test_errors_are_one_line(lab, vm, argv, status):
    """And nothing is lost hold of on the way: a build with sanitizers ends with 99 then."""
    r = lab.vmferry(*argv, input="")
    assert status in (None, r.returncode) and r.returncode != 99, (r.returncode, r.stderr)
    assert status != 1 or r.stderr.count("\n") == 1, r.stderr
    assert r.returncode == 0 or r.stderr


def test_cp(lab, client, vm):
    with open(lab.scratch("f"), "wb") as file:
        file.write(os.urandom(100_000))
    r = lab.vmferry("cp", lab.scratch("f"), "lab:/srv/f", check=True)
    assert r.stderr == ""  # no bar where there is no terminal
    lab.vmferry("cp", "lab:/srv/f", lab.scratch("f.back"), check=True)
    with open(lab.scratch("f"), "rb") as a, open(lab.scratch("f.back"), "rb") as b:
        assert a.read() == b.read()
    # Into a directory that is there, under its own name.
    os.makedirs(lab.scratch("into"), exist_ok=True)
    lab.vmferry("cp", "lab:/srv/f", lab.scratch("into"), check=True)
    assert os.path.getsize(lab.scratch("into/f")) == 100_000
    one_line(lab.vmferry("cp", lab.scratch("missing"), "lab:/srv/x"))
    assert "\x1b" not in one_line(lab.vmferry("cp", lab.scratch("missing\n\x1b[31m"), "lab:/srv/x"))
    one_line(lab.vmferry("cp", "lab:/srv/missing", lab.scratch("x")))
    assert lab.vmferry("cp", lab.scratch("f"), lab.scratch("g")).returncode == 2


def test_cp_stream(lab, vm):
    lab.vmferry("cp", "-", "lab:/srv/stream", input="piped in", check=True)
    assert lab.vmferry("cp", "lab:/srv/stream", "-", check=True).stdout == "piped in"


def test_cp_stream_without_space(lab, vm):
    """What stopped the guest is told, not that a pipe broke."""
    lab.vmferry("exec", "lab", "--", "sh", "-c", "mkdir -p /srv/small && mount -t tmpfs -o size=1m small /srv/small", check=True)
    try:
        line = one_line(lab.vmferry("cp", "-", "lab:/srv/small/x", input="x" * (16 << 20)))
        assert "space" in line.lower() and "pipe" not in line.lower(), line
    finally:
        lab.vmferry("exec", "lab", "--", "umount", "/srv/small", check=True)


def test_cp_spellings(lab, vm):
    """As cp -r has them: the contents of a tree, in a directory that is there, or as a new one."""
    tree.build(lab.scratch("s"), 20)
    source, back = lab.scratch("s"), lab.scratch("s.back")
    lab.vmferry("cp", "-r", source + "/.", "lab:/srv//spelt", check=True)
    lab.vmferry("cp", "-R", "lab:/srv/spelt/.", back, check=True)
    assert tree.differences(tree.describe(source), tree.describe(back)) == []
    # Once more, into what is there: directories of their own would be more entries. Their times change with what is put in.
    lab.vmferry("cp", "-r", source + "/.", "lab:/srv/./spelt/.", check=True)
    lab.vmferry("cp", "lab:/srv//spelt/./.", back + "/.", check=True)
    assert tree.describe(source).keys() == tree.describe(back).keys()


def test_cp_devices_and_descriptors(lab, vm):
    """What hostd could not open for its caller."""
    lab.vmferry("cp", "/etc/passwd", "lab:/srv/d", check=True)
    lab.vmferry("cp", "lab:/srv/d", "/dev/null", check=True)
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")
    with open("/etc/passwd") as file:
        assert lab.vmferry("cp", "lab:/srv/d", "/dev/stdout", check=True).stdout == file.read()
    lab.vmferry("cp", "/dev/fd/0", "lab:/srv/d", input="by number", check=True)
    assert lab.vmferry("cp", "lab:/srv/d", "-", check=True).stdout == "by number"


def test_cp_for_later(lab, vm):
    """A copy for a guest that is off is left in the queue."""
    off = lab.domain("later", start=False)
    lab.wait_state("later", "off")
    number = lab.vmferry("cp", "--queue", "/etc/passwd", "later:/srv/p", check=True, timeout=20).stdout.strip()
    assert number in lab.vmferry("queue", "later", check=True).stdout
    lab.vmferry("cancel", number, check=True)
    off.undefine()


def test_cp_tree(lab, vm):
    tree.build(lab.scratch("t"), 50)
    lab.vmferry("cp", lab.scratch("t"), "lab:/srv/", check=True)
    lab.vmferry("cp", "lab:/srv/t", lab.scratch("t.back"), check=True)
    assert tree.differences(tree.describe(lab.scratch("t")), tree.describe(lab.scratch("t.back"))) == []


def test_jobs(lab, vm):
    lab.vmferry("cp", "/etc/passwd", "lab:/srv/p", check=True)
    text = lab.vmferry("jobs", "--all", check=True).stdout
    assert "push" in text and "done" in text
    documents(lab.vmferry("--json", "jobs", "--all", check=True).stdout)
    one_line(lab.vmferry("cancel", "4000000000"))
