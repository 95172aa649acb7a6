# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands with live descriptors, through D-Bus and as people type them."""

import hashlib
import os
import subprocess
import threading
import time

import pytest

from lab.bus import BusError, Client, options
from lab.need import built, eventually

PROCESS = "org.vmferry1.Process"


class Process:
    """An Exec: its job and the caller's ends of its descriptors."""

    def __init__(self, client, *argv, **opts):
        self.client = client
        (self.number, self.path, *_), (self.stdin, self.stdout, self.stderr) = client.guest(
            "lab", "Exec", "(asa{sv})", list(argv), options(**opts))

    def read(self, fd):
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def write_and_close(self, data):
        with os.fdopen(self.stdin, "wb") as file:
            file.write(data)

    def exit_status(self, timeout=60):
        self.client.wait_job(self.path, timeout)
        return self.client.get(self.path, PROCESS, "ExitStatus")

    def kill(self, signal):
        self.client.call(self.path, PROCESS, "Kill", "(i)", signal)


def n_processes(client, word):
    return int(client.run("lab", "sh", "-c", f"ps | grep -c '[{word[0]}]{word[1:]}' || true")[1])


def test_streams(client, vm):
    p = Process(client, "sh", "-c", "cat; echo err >&2; exit 7")
    data = os.urandom(1_000_000)
    writer = threading.Thread(target=p.write_and_close, args=(data,))
    writer.start()
    assert p.read(p.stdout) == data
    assert p.read(p.stderr) == b"err\n"
    writer.join()
    assert p.exit_status() == 7


def test_exit_after_the_last_byte(client, vm, rounds):
    expected = "".join(f"{i}\n" for i in range(1, 20001)).encode()
    for _ in range(rounds):
        p = Process(client, "seq", "1", "20000")
        assert p.read(p.stdout) == expected
        os.close(p.stdin)
        os.close(p.stderr)
        assert p.exit_status() == 0


def test_unread_stdout_stops_that_process_only(client, vm):
    p = Process(client, "yes")
    time.sleep(1)
    client.ping("lab")
    assert client.run("lab", "echo", "on")[1] == "on\n"
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)
    client.wait_job(p.path, 20)
    eventually(lambda: n_processes(client, "yes") == 0, 10, "the end of yes")


def test_half_close(client, vm):
    p = Process(client, "wc", "-c")
    p.write_and_close(b"12345")
    assert p.read(p.stdout) == b"5\n"
    assert p.exit_status() == 0


def test_kill_tree(client, vm):
    p = Process(client, "sh", "-c", "setsid sh -c 'sleep 2711 & sleep 2712' & sleep 2713")
    eventually(lambda: n_processes(client, "sleep 271") == 3, 10, "three sleeps")
    p.kill(15)
    client.wait_job(p.path, 20)
    eventually(lambda: n_processes(client, "sleep 271") == 0, 15, "the end of the tree")


def test_cancel(client, vm):
    p = Process(client, "sh", "-c", "trap '' TERM; while :; do sleep 2721; done")
    client.job(p.path, "Cancel")
    assert client.wait_job(p.path, 30)["State"] == "cancelled"
    eventually(lambda: n_processes(client, "sleep 2721") == 0, 15, "its end")


def test_caller_gone(lab, client, vm):
    """A process that isn't detached ends with who asked for it."""
    other = Client(lab.bus.address)
    p = Process(other, "sleep", "2731")
    eventually(lambda: n_processes(client, "sleep 2731") == 1, 10, "its start")
    other.close()
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)
    eventually(lambda: n_processes(client, "sleep 2731") == 0, 20, "its end")


def test_detached_survives(lab, client, vm):
    """hostd, its caller and guestd may go; the output is kept."""
    job = lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c", "echo first; sleep 6; echo last; exit 5", check=True).stdout
    number = job.split()[-1].strip("/").split("/")[-1]
    starts = vm.guestd_starts()
    client.kill_guestd("lab")
    vm.wait_guestd(starts)
    lab.hostd.restart()
    client.wait_ready("lab", 20)
    r = lab.vmferry("exec", "--attach", number)
    assert (r.returncode, r.stdout) == (5, "first\nlast\n"), r.stderr


def test_tty(client, vm):
    p = Process(client, "sh", "-c", "tty >/dev/null && stty size && read x && echo got $x", tty=True, rows=("q", 30),
                columns=("q", 90))
    os.write(p.stdin, b"typed\n")
    text = b""
    while b"got typed" not in text:
        block = os.read(p.stdout, 1000)
        assert block, text
        text += block
    assert b"30 90" in text
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)


def test_run_with_a_terminal(client, vm):
    status, out, err = client.run("lab", "sh", "-c", "tty >/dev/null && stty size; echo both >&2", tty=True, rows=("q", 30),
                                  columns=("q", 90))
    assert (status, out.split(), err) == (0, ["30", "90", "both"], "")


def test_run_detached(lab, client, vm):
    """It is answered when it was started, and its job goes on."""
    assert client.run("lab", "sh", "-c", "echo left; while [ ! -e /tmp/end ]; do sleep 0.1; done", detach=True) == (0, "", "")
    number, path = [(j[0], j[1]) for j in client.manager("ListJobs") if j[3:] == ("exec", "running")][-1]
    client.run("lab", "touch", "/tmp/end")
    assert client.wait_job(path)["State"] == "done"
    assert lab.vmferry("exec", "--attach", str(number)).stdout == "left\n"
    with pytest.raises(BusError) as e:
        client.run("lab", "cat", detach=True, stdin=b"x")
    assert e.value.name.endswith("InvalidArgs")


# As people type it


def test_command_exit_codes(lab, vm):
    for argv, status in ((["true"], 0), (["sh", "-c", "exit 42"], 42), (["sh", "-c", "kill -15 $$"], 143),
                         (["/no/such/program"], 127), (["/etc/passwd"], 126)):
        r = lab.vmferry("exec", "lab", "--", *argv)
        assert r.returncode == status, (argv, r.stderr)
    r = lab.vmferry("exec", "nobody", "--", "true")
    assert r.returncode == 125 and r.stderr.count("\n") == 1
    assert lab.vmferry("exec").returncode == 2


def test_command_output(lab, vm):
    r = lab.vmferry("exec", "lab", "--", "sh", "-c", "echo out; echo err >&2")
    assert (r.stdout, r.stderr) == ("out\n", "err\n")
    r = lab.vmferry("exec", "-w", "/proc", "-e", "A=1", "-u", "user", "lab", "--", "sh", "-c", "pwd; echo $A; id -u")
    assert r.stdout == "/proc\n1\n1000\n"


def test_command_stdin(lab, vm):
    data = os.urandom(20 << 20)
    r = lab.vmferry("exec", "-i", "lab", "--", "sha256sum", input=data, text=False)
    assert r.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    # Without -i there is none.
    assert lab.vmferry("exec", "lab", "--", "wc", "-c", input="not for you").stdout.strip() == "0"


def test_command_timeout_leaves_nothing(lab, client, vm):
    started = time.monotonic()
    # Which of them setsid forks, and so whether the command itself is there at the end, is the guest's business.
    lab.vmferry("exec", "--timeout", "1", "lab", "--", "sh", "-c", 'setsid sh -c "sleep 2741 & sleep 2742"')
    assert time.monotonic() - started < 15
    eventually(lambda: n_processes(client, "sleep 274") == 0, 15, "nothing left")


def test_who_changes_its_number_all_the_time_ends(lab, client, vm):
    """Each process starts the next one and leaves, in a session of its own: whoever looks for it comes too late."""

    def n_started():
        return int(client.run("lab", "sh", "-c", "sed -n 's/^processes //p' /proc/stat")[1])

    def n_started_in_a_second():
        before = n_started()
        time.sleep(1)
        return n_started() - before

    hop = "h() { (h) & exit; }; h"
    lab.vmferry("exec", "--timeout", "2", "lab", "--", "setsid", "sh", "-c", f"({hop}) & sleep 1; {hop}")
    # A look starts processes of its own.
    eventually(lambda: n_started_in_a_second() < 40, 30, "nothing hops any more", every=0.5)
    client.ping("lab")


def test_command_timeout(lab, vm):
    started = time.monotonic()
    r = lab.vmferry("exec", "--timeout", "1", "lab", "--", "sh", "-c", "sleep 2751; echo over")
    assert r.returncode == 125 and r.stdout == "" and time.monotonic() - started < 15
    assert r.stderr.count("\n") == 1


def test_lines_in_order(lab, vm, rounds):
    """--rounds=4000 is the whole of it."""
    expected = "".join(f"{i}\n" for i in range(1, 200001))
    for _ in range(max(2, rounds // 4)):
        r = lab.vmferry("exec", "lab", "--", "sh", "-c", "seq 1 200000")
        assert r.returncode == 0 and r.stdout == expected


def test_ends_while_stdin_is_open(client, vm):
    """Whoever asked may keep its end: the job is over when the process is, and its output."""
    p = Process(client, "sh", "-c", "echo bye; exit 4")
    assert p.read(p.stdout) == b"bye\n"
    assert p.exit_status(10) == 4
    os.close(p.stdin)
    os.close(p.stderr)


def test_cancel_of_what_was_left_behind(client, vm):
    """The command has ended, and something of it holds the output."""
    p = Process(client, "sh", "-c", "sleep 2751 & echo on")
    assert os.read(p.stdout, 10) == b"on\n"
    eventually(lambda: n_processes(client, "sleep 2751") == 1, 10, "what is left")
    assert client.job_properties(p.path)["State"] == "running"
    client.job(p.path, "Cancel")
    assert client.wait_job(p.path, 10)["State"] == "cancelled"
    eventually(lambda: n_processes(client, "sleep 2751") == 0, 15, "its end")
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)


def test_other_processes_are_not_touched(client, vm):
    client.run("lab", "sh", "-c", "setsid sleep 2761 >/dev/null 2>&1 </dev/null &")
    p = Process(client, "sleep", "2762")
    p.kill(9)
    assert client.wait_job(p.path, 10)["State"] == "done"
    assert client.get(p.path, PROCESS, "ExitSignal") == 9
    assert n_processes(client, "sleep 2761") == 1
    client.run("lab", "sh", "-c", "kill $(pidof sleep)")
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)


INVALID = "org.freedesktop.DBus.Error.InvalidArgs"


@pytest.mark.parametrize("argv,opts,name", [
    ([], {}, INVALID),
    ([""], {}, INVALID),
    (["x" * (10 << 20)], {}, "TooLarge"),
    (["true"] * 1025, {}, "TooLarge"),
    (["true"], {"env": {"A=B": "c"}}, INVALID),
    (["true"], {"env": {"": "c"}}, INVALID),
    (["true"], {"cwd": "relative"}, INVALID),
    (["true"], {"cwd": "/no/such/directory"}, "InvalidPath"),
    (["true"], {"cwd": "/etc/passwd"}, "InvalidPath"),
    (["true"], {"user": "nobody-of-this-name"}, INVALID),
    (["true"], {"no-such-option": "x"}, INVALID),
    (["/no/such/program"], {}, "NotFound"),
    (["no-such-program"], {}, "NotFound"),
    (["/etc/passwd"], {}, "PermissionDenied"),
    (["/etc"], {}, "PermissionDenied"),
])
def test_refused(client, vm, argv, opts, name):
    with pytest.raises(BusError) as e:
        Process(client, *argv, **opts)
    assert e.value.name == name and e.value.message


def test_resize_is_there_when_answered(client, vm, rounds):
    """What is typed behind it, on another port, meets the new size."""
    p = Process(client, "sh", "-c", "stty -echo; echo go; while read x; do stty size; done", tty=True)
    with os.fdopen(p.stdout, "rb") as out:
        assert out.readline() == b"go\r\n"
        for i in range(10, 10 + 10 * rounds):
            client.call(p.path, PROCESS, "Resize", "(qq)", i, i + 1)
            os.write(p.stdin, b"\n")
            assert out.readline() == f"{i} {i + 1}\r\n".encode()
        os.close(p.stdin)
        os.close(p.stderr)
        p.kill(9)
    client.wait_job(p.path, 20)
    with pytest.raises(BusError) as e:
        client.call(p.path, PROCESS, "Resize", "(qq)", 1, 1)
    assert e.value.name == "NotFound"


def test_signal_is_there_when_answered(client, vm):
    p = Process(client, "sleep", "2781")
    pid = client.get(p.path, PROCESS, "GuestPid")
    for signal, state in (19, "T"), (18, "S"), (19, "T"), (18, "S"):
        p.kill(signal)
        eventually(lambda: client.run("lab", "cut", "-d", " ", "-f", "3", f"/proc/{pid}/stat")[1].strip() == state, 5, state)
    with pytest.raises(BusError) as e:
        client.call(p.path, PROCESS, "Resize", "(qq)", 1, 1)
    assert e.value.name == "Unsupported"
    for signal in 0, -1, 65:
        with pytest.raises(BusError) as e:
            p.kill(signal)
        assert e.value.name == INVALID
    p.kill(9)
    assert client.wait_job(p.path, 20)["State"] == "done"
    with pytest.raises(BusError) as e:
        p.kill(15)
    assert e.value.name == "NotFound"
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)


@pytest.mark.parametrize("rows,columns", [(0, 0), (65535, 65535), (2, 3)])
def test_odd_window_sizes(client, vm, rows, columns):
    """busybox believes 24 80 of what it thinks cannot be; the kernel takes all."""
    p = Process(client, "sh", "-c", "stty size; read x; stty size", tty=True, rows=("q", rows), columns=("q", columns))
    assert os.read(p.stdout, 100).split() == ([b"2", b"3"] if rows == 2 else [b"24", b"80"])
    client.call(p.path, PROCESS, "Resize", "(qq)", 40, 7)
    os.write(p.stdin, b"\n")
    assert b"40 7" in p.read(p.stdout)
    assert p.exit_status(10) == 0
    os.close(p.stdin)
    os.close(p.stderr)


# As people type it, once more


def vmferry_line(lab, line, timeout=30):
    """A line of shell with $V as the command."""
    env = dict(lab.hostd.env, V=f"{built('src/cli/vmferry')} --user")
    return subprocess.run(["bash", "-c", "set -o pipefail; " + line], env=env, capture_output=True, text=True, timeout=timeout)


def test_yes_into_head(lab, client, vm):
    r = vmferry_line(lab, "$V exec lab -- yes | head -n 3")
    assert r.stdout == "y\ny\ny\n" and r.returncode == 128 + 13, r.stderr
    eventually(lambda: n_processes(client, "yes") == 0, 10, "the end of yes")
    r = vmferry_line(lab, "yes | $V exec -i lab -- head -n 3")
    assert r.stdout == "y\ny\ny\n" and r.returncode in (0, 128 + 13), r.stderr
    # What does not write to the end of the pipe goes on.
    r = vmferry_line(lab, "$V exec lab -- sh -c 'seq 1 100000; echo on >/run/after' | head -n 1")
    assert r.stdout == "1\n"
    eventually(lambda: client.run("lab", "cat", "/run/after")[1] == "on\n", 10, "what follows")


def test_interrupt(lab, client, vm):
    """Without a terminal the signal goes to the command."""
    r = vmferry_line(lab, "timeout -s INT 2 $V exec lab -- sh -c 'trap \"echo caught; exit 9\" INT; while :; do sleep 0.1; done'")
    assert r.stdout == "caught\n", r.stderr
    r = vmferry_line(lab, "timeout -s TERM 2 $V exec lab -- sleep 2771; echo $?")
    eventually(lambda: n_processes(client, "sleep 2771") == 0, 10, "its end")


def test_controls_are_shown_not_obeyed(lab, client, vm):
    """Of a command's own words, where they are shown to people; a script keeps its lines."""
    p = Process(client, "sh", "-c", "sleep 2792\n: \t'ümläut'", "evil\x1b[2Jname")
    properties = client.job_properties(p.path)
    assert "\\x1b[2J" in properties["Source"] and properties["Source"].isprintable(), properties["Source"]
    argv = client.get(p.path, PROCESS, "Argv")
    assert argv[2] == "sleep 2792\n: \t'ümläut'" and argv[3] == "evil\\x1b[2Jname"
    assert "\x1b" not in lab.vmferry("jobs").stdout
    p.kill(9)
    client.wait_job(p.path)
    for fd in p.stdin, p.stdout, p.stderr:
        os.close(fd)
    with pytest.raises(BusError) as e:
        Process(client, "/no\x1b]0;such\nprogram")
    assert e.value.message.isprintable()


def test_what_failed_is_told_apart(lab, vm):
    for argv, status in ((["-u", "nobody-of-this-name", "lab", "--", "true"], 125), (["-w", "/nowhere", "lab", "--", "true"], 125),
                         (["lab", "--", "no-such-program"], 127), (["lab", "--", "/etc"], 126)):
        r = lab.vmferry("exec", *argv)
        assert (r.returncode, r.stderr.count("\n")) == (status, 1), (argv, r.stderr)


def test_attach_follows_over_a_restart(lab, client, vm):
    """From the start, each byte once, although hostd was away in the middle."""
    number = lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c",
                         "for i in $(seq 1 40); do echo $i; sleep 0.2; done; echo err >&2; exit 6", check=True).stdout.strip()
    attached = subprocess.Popen([built("src/cli/vmferry"), "--user", "exec", "--attach", number], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=lab.hostd.env)
    time.sleep(2)
    lab.hostd.restart()
    out, err = attached.communicate(timeout=60)
    assert out == "".join(f"{i}\n" for i in range(1, 41)), (out, err)
    assert attached.returncode == 6 and err == "err\n"
    r = lab.vmferry("jobs", "--all")
    assert any(line.split()[0] == number and "done" in line for line in r.stdout.splitlines()[1:]), r.stdout
    # The end is kept over a restart too, and as often as asked.
    lab.hostd.restart()
    client.wait_ready("lab", 20)
    r = lab.vmferry("exec", "--attach", number)
    assert (r.returncode, r.stderr) == (6, "err\n") and r.stdout == out
    assert lab.vmferry("exec", "--attach", "4000000").returncode == 125


def test_detached_output_is_bounded_and_the_loss_is_told(lab, client, vm):
    number = lab.vmferry("exec", "--detach", "lab", "--", "sh", "-c", "seq 1 3000000", check=True).stdout.strip()
    client.wait_job(f"/org/vmferry1/job/{number}", 120)
    r = lab.vmferry("exec", "--attach", number)
    assert r.returncode == 0 and r.stdout.endswith("\n3000000\n")
    assert "bytes of output are lost" in r.stdout and len(r.stdout) < 20 << 20


# How much


def guestd_shape(client):
    """Descriptors, threads, all processes, memory in KiB of the guest's daemon."""
    script = r"""p=$(pidof vmferry-guestd | tr ' ' '\n' | sort -n | head -n 1)
        ls /proc/$p/fd | wc -l; sed -n 's/^Threads:[^0-9]*//p' /proc/$p/status; ls -d /proc/[0-9]* | wc -l
        sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' /proc/$p/status"""
    return [int(n) for n in client.run("lab", "sh", "-c", script)[1].split()]


def hostd_shape(lab):
    with open(f"/proc/{lab.hostd.process.pid}/status") as file:
        threads = next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
    with open(f"/proc/{lab.hostd.process.pid}/task/{lab.hostd.process.pid}/children") as file:
        children = len(file.read().split())
    return [lab.hostd.n_fds(), threads, children, lab.hostd.rss_kib()]


def test_many(lab, client, vm, request):
    """Nothing grows with the number of commands. --commands=10000 is the whole of it."""
    lab.hostd.configure(f"ConnectUri={lab.libvirtd.uri}\nJobRetention=1s\n")
    lab.hostd.stop()
    usual = lab.hostd.env["ASAN_OPTIONS"]
    # What is freed stays resident there, up to 256 MiB by default: that is not hostd's memory.
    lab.hostd.env["ASAN_OPTIONS"] = usual + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
    lab.hostd.start()
    client.wait_ready("lab", 20)
    for _ in range(100):
        client.run("lab", "true")
    time.sleep(2)
    before = hostd_shape(lab), guestd_shape(client)
    started = time.monotonic()
    for i in range(request.config.getoption("--commands")):
        assert client.run("lab", "true")[0] == 0
    took = time.monotonic() - started
    time.sleep(2)
    after = hostd_shape(lab), guestd_shape(client)
    print(f"before {before}, after {after}, {took:.0f} s")
    for b, a, slack in zip(before, after, (4096, 1024)):
        assert a[0] <= b[0] + 2 and a[1] <= b[1] + 1 and a[2] <= b[2] + 2 and a[3] <= b[3] + slack, (before, after)
    # With sanitizers it says at its end what it has lost hold of.
    assert lab.hostd.stop() == 0
    lab.hostd.env["ASAN_OPTIONS"] = usual
    lab.hostd.start()
    client.wait_ready("lab", 20)


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("VmRSS:")), 0)


def guestd_rss(client):
    """Of the daemon and each of its children, the carrier and the supervisors: the largest."""
    script = "grep -h VmRSS $(grep -l vmferry /proc/[0-9]*/comm | sed s/comm/status/)"
    return max(int(line.split()[1]) for line in client.run("lab", "sh", "-c", script)[1].splitlines())


def test_large_stdin(lab, client, vm, request):
    """In constant memory, whoever carries it. With --commands=10000 it is 2 GiB."""
    n = 2048 if request.config.getoption("--commands") >= 10000 else 100
    started = time.monotonic()
    source = subprocess.Popen(["head", "-c", f"{n}M", "/dev/zero"], stdout=subprocess.PIPE)
    command = subprocess.Popen([built("src/cli/vmferry"), "--user", "exec", "-i", "lab", "--", "sha256sum"],
                               stdin=source.stdout, stdout=subprocess.PIPE, text=True, env=lab.hostd.env)
    source.stdout.close()
    samples = []
    while command.poll() is None:
        try:
            samples.append((lab.hostd.rss_kib(), rss_kib(command.pid), guestd_rss(client)))
        except FileNotFoundError:
            break
        time.sleep(0.3 if n < 1000 else 5)
    took = time.monotonic() - started
    assert command.communicate()[0] == subprocess.run(f"head -c {n}M /dev/zero | sha256sum", shell=True, capture_output=True,
                                                      text=True).stdout
    assert source.wait() == 0 and command.returncode == 0
    grown = [max(column) - column[min(2, len(column) - 1)] for column in zip(*samples)]
    print(f"{n} MiB in {took:.0f} s, {len(samples)} samples; at most {[max(c) for c in zip(*samples)]} KiB of hostd, command and "
          f"guestd, grown by {grown}")
    assert all(kib < 8192 for kib in grown), samples
