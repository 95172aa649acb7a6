# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands with live descriptors, through D-Bus and as people type them."""

import hashlib
import os
import threading
import time

import pytest

from lab.bus import BusError, Client, options
from lab.need import eventually

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


def test_command_timeout(lab, vm):
    started = time.monotonic()
    r = lab.vmferry("exec", "--timeout", "1", "lab", "--", "sh", "-c", "sleep 2751; echo over")
    assert r.returncode == 125 and r.stdout == "" and time.monotonic() - started < 15
    assert r.stderr.count("\n") == 1


def test_lines_in_order(lab, vm, rounds):
    expected = "".join(f"{i}\n" for i in range(1, 200001))
    for _ in range(max(2, rounds // 4)):
        r = lab.vmferry("exec", "lab", "--", "sh", "-c", "seq 1 200000")
        assert r.returncode == 0 and r.stdout == expected


@pytest.mark.slow
def test_many(lab, client, vm):
    """Nothing grows with the number of commands."""
    for _ in range(100):
        client.run("lab", "true")
    before = lab.hostd.n_fds(), lab.hostd.rss_kib()
    for _ in range(1000):
        client.run("lab", "true")
    assert lab.hostd.n_fds() <= before[0] + 3
    assert lab.hostd.rss_kib() < before[1] + 8192
