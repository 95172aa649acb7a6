# SPDX-License-Identifier: LGPL-2.1-or-later
"""cp between a real hostd and a real guestd, whose ports are two terminals; what it makes of sources and destinations is what
cp -r makes of them on one machine, status included."""

import fcntl
import json
import os
import pty
import re
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest
from conftest import Host
from guestdaemon import Guest

from lab import tree
from lab.bus import options
from lab.need import built, eventually, tool


class Bridge:
    """A socket for hostd in front of a terminal of guestd."""

    def __init__(self, path, terminal):
        if os.path.exists(path):
            os.unlink(path)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(path)
        self.server.listen(8)
        self.terminal = terminal.fd
        self.ended = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ended:
            self.server.settimeout(0.2)
            try:
                client, _ = self.server.accept()
            except TimeoutError:
                continue
            client.setblocking(True)
            os.set_blocking(self.terminal, True)
            with client, selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ)
                selector.register(self.terminal, selectors.EVENT_READ)
                try:
                    while not self.ended and self.carry(client, selector):
                        pass
                except OSError:
                    pass

    def carry(self, client, selector):
        for key, _ in selector.select(0.2):
            data = os.read(key.fd, 4096)
            if key.fileobj is client:
                if not data:
                    return False
                while data:
                    data = data[os.write(self.terminal, data):]
            else:
                client.sendall(data)
        return True

    def end(self):
        self.ended = True
        self.thread.join()
        self.server.close()


@pytest.fixture(scope="module")
def pair():
    guest, host, bridges = Guest(), None, []
    try:
        # The peer of the other tests makes way for the daemon.
        host = Host(peers=("good",))
        host.peers.pop("good").close()
        for port, terminal in ("ctl", guest.control), ("data", guest.data):
            bridges.append(Bridge(host.socket("good", port), terminal))
        time.sleep(0.5)
        eventually(lambda: host.client.state("good") == "ready" and answers(host), 30, "the real guest")
        yield host
    finally:
        if host:
            host.end()
        for bridge in bridges:
            bridge.end()
        guest.end()


def answers(host):
    try:
        return host.client.run("good", "true")[0] == 0
    except Exception:
        return False


def vmferry(host, *argv, cwd="/", **popen):
    return subprocess.run([built("src/cli/vmferry"), "--user", *argv], capture_output=True, text=True, timeout=60, cwd=cwd,
                          env=host.hostd.env, **popen)


@pytest.fixture
def place(pair):
    return pair.directory(f"c{time.monotonic_ns()}")


def fill(directory):
    """What the cases speak of."""
    for name in "src/deep", "existing", "full/src":
        os.makedirs(os.path.join(directory, name))
    for name in "file", "other", "src/inner", "src/deep/er", "src/.dot", ".hidden", "a:b", "existing/kept", "full/file", "full/src/old", "-x":
        with open(os.path.join(directory, name), "w") as file:
            file.write(name)
    os.makedirs(os.path.join(directory, "clash/file"))
    os.symlink("inner", os.path.join(directory, "src/link"))


CASES = {
    "new name": ("file", "new"),
    "into a directory": ("file", "existing"),
    "into a directory/": ("file", "existing/"),
    "over a file": ("file", "full/file"),
    "into a directory that has it": ("file", "full"),
    "a name/ that is not there": ("file", "new/"),
    "beneath a directory that is not there": ("file", "no/such"),
    "a directory where the file should be": ("file", "clash"),
    "hidden": (".hidden", "existing"),
    "with a colon": ("./a:b", "existing"),
    "with a dash": ("./-x", "existing"),
    "tree, new name": ("src", "new"),
    "tree, new name/": ("src", "new/"),
    "tree/, new name": ("src/", "new"),
    "tree into a directory": ("src", "existing"),
    "tree/ into a directory/": ("src/", "existing/"),
    "tree into a directory that has it": ("src", "full"),
    "tree over a file": ("src", "file"),
    "two": ("file", "other", "existing"),
    "two, one a tree": ("file", "src", "existing/"),
    "two, no such directory": ("file", "other", "new"),
    "two trees, no such directory": ("src", "existing", "new"),
    "two over a file": ("file", "src", "other"),
    "one of two is missing": ("file", "missing", "existing"),
    "missing": ("missing", "new"),
    "spelled with //": (".//file", "existing//"),
    "spelled with .": ("./src/./inner", "./existing/."),
    "to no directory/.": ("file", "new/."),
    "over a file/.": ("file", "other/."),
    "a file/.": ("file/.", "new"),
    "tree/. into a directory": ("src/.", "existing"),
    "tree/./ into a directory/": ("src/.//", "existing/"),
    "tree/. into a directory/.": ("src/.", "existing/."),
    "tree/. into a directory that has it": ("full/.", "existing"),
    "tree/. with a directory where a file is": ("clash/.", "full"),
    "tree/., new name": ("src/.", "new"),
    "tree/., new name/": ("src/.", "new/"),
    "tree/. over a file": ("src/.", "file"),
    "two trees/. into a directory": ("src/.", "full/.", "existing"),
    "a file, a tree and a tree/.": ("file", "src", "full/.", "existing"),
}


@pytest.mark.parametrize("direction", ["push", "pull"])
@pytest.mark.parametrize("name", CASES)
def test_as_cp(pair, place, name, direction):
    *sources, destination = CASES[name]
    there, here, model = (os.path.join(place, n) for n in ("there", "here", "model"))
    for directory in there, here, model:
        fill(directory)
        subprocess.run(["chmod", "-R", "a+rwX", directory], check=True)
    # Only the destination's side may change; the model has both in one, as cp has.
    expected = subprocess.run(["cp", "-r", "--", *sources, destination], cwd=model, capture_output=True, text=True)
    if direction == "push":
        r = vmferry(pair, "cp", "--", *sources, f"good:{there}/{destination}", cwd=here)
        changed, same = there, here
    else:
        r = vmferry(pair, "cp", "--", *(f"good:{there}/{s[2:] if s.startswith('./') else s}" for s in sources), destination, cwd=here)
        changed, same = here, there
    assert (r.returncode != 0) == (expected.returncode != 0), (r.stderr, expected.stderr)
    assert names(changed) == names(model), r.stderr
    shutil.rmtree(model)
    fill(model)
    assert names(same) == names(model)


def names(path):
    """Relative name → content of a file, target of a link."""
    found = {}
    for directory, directories, files in os.walk(path):
        for name in directories + files:
            full = os.path.join(directory, name)
            if os.path.islink(full):
                found[os.path.relpath(full, path)] = "→" + os.readlink(full)
            elif os.path.isfile(full):
                with open(full) as file:
                    found[os.path.relpath(full, path)] = file.read()
            else:
                found[os.path.relpath(full, path)] = None
    return found


def one_line(r, *said, status=1):
    assert r.returncode == status and r.stderr.count("\n") == 1, (r.returncode, r.stdout, r.stderr)
    assert all(s in r.stderr for s in said), r.stderr


def test_empty_name(pair, place):
    """It is no file, and not the directory that we are in."""
    os.makedirs(place + "/here/inner")
    os.mkdir(place + "/there")
    one_line(vmferry(pair, "cp", "", f"good:{place}/there/", cwd=place + "/here"), "No such file")
    one_line(vmferry(pair, "cp", f"good:{place}/here", "", cwd=place + "/there"), "No such file")
    assert os.listdir(place + "/there") == []


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_same_name_twice(pair, place, direction):
    """The first one stays, whichever would have been done first; the others go on."""
    for i in range(10):
        os.makedirs(f"{place}/{i}")
        with open(f"{place}/{i}/x", "w") as file:
            file.write(str(i) * 100_000)
    with open(place + "/0/y", "w") as file:
        file.write("y")
    os.mkdir(place + "/to")
    sources = [f"{place}/{i}/x" for i in range(10)] + [f"{place}/0//y"]
    there = "good:" if direction == "push" else ""
    r = vmferry(pair, "cp", *(s if there else "good:" + s for s in sources), f"{there}{place}/to")
    assert r.returncode == 1
    assert r.stderr == "".join(f"vmferry: {s}: not copied: it would overwrite what {sources[0]} has just become\n"
                               for s in sources[1:10])
    assert names(place + "/to") == {"x": "0" * 100_000, "y": "y"}


def test_contents_by_number_of_dots(pair, place):
    """. is where we are and .. is above: what is in them is copied, as nobody can go by such a name."""
    fill(place + "/here")
    os.mkdir(place + "/there")
    assert vmferry(pair, "cp", ".", f"good:{place}/there", cwd=place + "/here/src").returncode == 0
    assert names(place + "/there") == names(place + "/here/src")
    shutil.rmtree(place + "/there")
    assert vmferry(pair, "cp", "-r", "..", f"good:{place}/there", cwd=place + "/here/src").returncode == 0
    assert names(place + "/there") == names(place + "/here")


def test_guest_paths(pair, place):
    """Ordinary spellings are taken, .. is not; and no path is no path."""
    fill(place)
    for path in "//src//inner", "/./src/inner", "/src/./inner":
        assert vmferry(pair, "cp", f"good:{place}{path}", "-").stdout == "src/inner", path
        assert vmferry(pair, "cp", place + "/file", f"good:{place}{path}").returncode == 0, path
        assert open(place + "/src/inner").read() == "file"
        with open(place + "/src/inner", "w") as file:
            file.write("src/inner")
    one_line(vmferry(pair, "cp", f"good:{place}/src/../file", "-"), "..")
    one_line(vmferry(pair, "cp", place + "/file", f"good:{place}/src/../new"), "..")
    before = os.listdir("/")
    one_line(vmferry(pair, "cp", "file", "good:", cwd=place), "good:: the path in the guest is missing")
    one_line(vmferry(pair, "cp", "file", "other", "good:", cwd=place), "good:: the path in the guest is missing")
    one_line(vmferry(pair, "cp", "good:", place), "good:: the path in the guest is missing")
    one_line(vmferry(pair, "cp", f"good:{place}/src", "good:", place + "/existing"), "good:: the path in the guest is missing")
    assert os.listdir("/") == before and os.listdir(place + "/existing") == ["kept"]


class Watched:
    """A copy whose progress somebody watches."""

    def __init__(self, host, *argv, stdin=subprocess.DEVNULL):
        self.terminal, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self.process = subprocess.Popen([built("src/cli/vmferry"), "--user", "cp", *argv], env=host.hostd.env, stdin=stdin, stderr=slave)
        os.close(slave)
        self.shown = ""

    def look(self, within=0.05):
        while select.select([self.terminal], [], [], within)[0]:
            try:
                self.shown += os.read(self.terminal, 65536).decode()
            except OSError:  # the last writer is gone
                return self.shown
        return self.shown

    def end(self):
        status = self.process.wait(60)
        self.look()
        os.close(self.terminal)
        return status


def test_progress_of_a_pipe(pair, place):
    """How much has arrived is shown while more is coming all the time."""
    copy = Watched(pair, "-", f"good:{place}/x", stdin=subprocess.PIPE)
    deadline = time.monotonic() + 20
    with copy.process.stdin as file:
        while not re.search(r"[1-9][0-9.]* (B|KiB|MiB)  ", copy.look(0)):
            assert time.monotonic() < deadline, copy.shown
            file.write(b"x" * 1000)
            file.flush()
            time.sleep(0.01)
    assert copy.end() == 0


def test_progress_of_several(pair, place):
    """A source that is over before anybody has looked is in the sum, of which there is all in the end."""
    for i in range(12):
        with open(f"{place}/f{i}", "wb") as file:
            file.write(b"x" * 1024 * (300 if i == 0 else 1))
    os.mkdir(place + "/to")
    copy = Watched(pair, *(f"{place}/f{i}" for i in range(12)), f"good:{place}/to/")
    assert copy.end() == 0
    assert "100%  311.0 KiB of 311.0 KiB" in copy.shown.split("\r")[-2], copy.shown
    assert "12/12 files" in copy.shown.split("\r")[-2], copy.shown


BIG = 8 << 20  # more than a pipe and what is under way can hold


def test_pipe_that_nobody_reads(pair, place):
    """The job's reason is told, not that its pipe broke: early, and late."""
    one_line(vmferry(pair, "cp", "-", f"good:{place}/no/such/x", input="x" * BIG), "/no/such")
    with open(place + "/there", "w"):
        pass
    one_line(vmferry(pair, "cp", "--overwrite=fail", "-", f"good:{place}/there", input="x" * BIG), "exists already")
    process = subprocess.Popen([built("src/cli/vmferry"), "--user", "cp", "-", f"good:{place}/x"], env=pair.hostd.env,
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    feeder = threading.Thread(target=feed, args=(process.stdin,), daemon=True)
    feeder.start()
    eventually(lambda: any(name != "there" for name in os.listdir(place)), 20, "the first bytes")
    number, = [line.split()[0] for line in vmferry(pair, "jobs").stdout.splitlines() if place in line]
    assert vmferry(pair, "cancel", number).returncode == 0
    assert process.wait(20) == 1
    feeder.join(20)
    said = process.stderr.read()
    process.stderr.close()
    assert said.count("\n") == 1 and "pipe" not in said.lower(), said


def feed(file):
    try:
        while True:
            file.write("x" * 65536)
            file.flush()
    except BrokenPipeError:
        pass
    finally:
        try:
            file.close()
        except BrokenPipeError:
            pass


def test_output_that_nobody_reads(pair, place):
    """As a failure, in one line; also when the job itself was over before."""
    for size in BIG, 10:
        with open(place + "/file", "w") as file:
            file.write("x" * size)
        for_reading, for_writing = os.pipe()
        os.close(for_reading)
        r = subprocess.run([built("src/cli/vmferry"), "--user", "cp", f"good:{place}/file", "-"], env=pair.hostd.env, text=True,
                           stdout=for_writing, stderr=subprocess.PIPE, timeout=60)
        os.close(for_writing)
        one_line(r, "standard output: Broken pipe")
    with open(place + "/there", "w") as there:
        r = subprocess.run([built("src/cli/vmferry"), "--user", "cp", "-", f"good:{place}/new"], env=pair.hostd.env, text=True,
                           stdin=os.open(place, os.O_RDONLY), stdout=there, stderr=subprocess.PIPE, timeout=60)
    one_line(r, "standard input: Is a directory")


def test_streams_and_reports(pair, place):
    """What is written to standard output is the file; a job that ends with us is not left behind."""
    fill(place)
    for name in "-", "/dev/stdout", "/dev/fd/1":
        r = vmferry(pair, "--json", "cp", f"good:{place}/file", name)
        assert r.stdout == "file" and json.loads(r.stderr)["state"] == "done", (name, r.stdout, r.stderr)
    with open(place + "/out", "w") as out:
        r = subprocess.run([built("src/cli/vmferry"), "--user", "--json", "cp", f"good:{place}/file", "/proc/self/fd/1"],
                           env=pair.hostd.env, stdout=out, stderr=subprocess.PIPE, timeout=60)
    assert r.returncode == 0 and open(place + "/out").read() == "file"
    for argv in ("-", f"good:{place}/x"), ("/dev/fd/0", f"good:{place}/x"), (f"good:{place}/file", "-"), (f"good:{place}/file", "/dev/null"):
        one_line(vmferry(pair, "cp", "--detach", *argv, input="x"), "--detach leaves", status=2)
    one_line(vmferry(pair, "cp", "-", "/dev/stdin", f"good:{place}/existing", input="x"), "standard input is one source", status=2)
    for name in "-", "/dev/null":
        one_line(vmferry(pair, "cp", f"good:{place}/file", f"good:{place}/other", name), f"'{name}' takes one source", status=2)
    assert not os.path.exists(place + "/x") and os.listdir(place + "/existing") == ["kept"]


@pytest.fixture
def over_ssh(pair, place):
    """vmferry -H: "ssh" goes to the bus of the tests by a pipe, which passes no descriptor."""
    os.mkdir(place + "/bin")
    with open(place + "/bin/ssh", "w") as file:
        file.write("""#!/usr/bin/python3
import os
os.set_blocking(0, True)
os.execvp("sh", ["sh", "-c", 'cat | systemd-stdio-bridge --bus-path="$DBUS_SESSION_BUS_ADDRESS" | cat'])
""")
    os.chmod(place + "/bin/ssh", 0o755)
    tool("systemd-stdio-bridge")
    env = {**pair.hostd.env, "PATH": place + "/bin:" + os.environ["PATH"]}

    def run(*argv, cwd="/", host=("-H", "other"), **popen):
        return subprocess.run([built("src/cli/vmferry"), *host, *argv], capture_output=True, text=True, timeout=60, cwd=cwd,
                              env=env, **popen)
    return run


def test_paths_of_another_host(pair, place, over_ssh):
    """Nothing here says anything about a path there, and no descriptor gets there."""
    fill(place)
    assert "good" in over_ssh("list").stdout
    for host in ("-H", "other"), ("-Hother",), ("--host", "other"), ("--host=other",):
        assert "good" in over_ssh("list", host=host).stdout and "good" in over_ssh("list", *host, host=()).stdout, host
    assert over_ssh("cp", f"{place}//./file", f"good:{place}/existing/").returncode == 0
    assert over_ssh("cp", f"good:{place}/src", f"{place}/existing/.").returncode == 0
    assert set(names(place + "/existing")) == {"kept", "file", "src", "src/inner", "src/deep", "src/deep/er", "src/.dot", "src/link"}
    for r in over_ssh("cp", "file", f"good:{place}/new", cwd=place), over_ssh("cp", f"good:{place}/file", "new", cwd=place):
        one_line(r, "with -H a path begins with a slash", status=2)
    one_line(over_ssh("cp", f"good:{place}/file", "-"), "-: this bus cannot pass descriptors (-H)")
    one_line(over_ssh("cp", "-", f"good:{place}/new", input="x"), "-: this bus cannot pass descriptors (-H)")
    one_line(over_ssh("cp", "/dev/fd/0", f"good:{place}/new", input="x"), "/dev/fd/0: this bus cannot pass descriptors (-H)")
    assert not os.path.exists(place + "/new")


def test_overwrite(pair, place):
    """fail leaves what is there, update takes the newer ones, replace all."""
    fill(place + "/a")
    shutil.copytree(place + "/a", place + "/b", symlinks=True)
    with open(place + "/a/src/inner", "w") as file:
        file.write("changed")
    os.utime(place + "/a/src/inner", (1, 1))
    assert vmferry(pair, "cp", "--overwrite=fail", place + "/a/file", f"good:{place}/b/file").returncode == 1
    assert vmferry(pair, "cp", "--overwrite=update", place + "/a/src", f"good:{place}/b").returncode == 0
    assert open(place + "/b/src/inner").read() == "src/inner"
    r = vmferry(pair, "cp", "--overwrite=fail", place + "/a/src", f"good:{place}/b")
    assert r.returncode == 1 and open(place + "/b/src/inner").read() == "src/inner"
    assert "inner: It exists already" in r.stderr and "deep/er: It exists already" in r.stderr, r.stderr
    assert vmferry(pair, "cp", "--overwrite=replace", place + "/a/src", f"good:{place}/b").returncode == 0
    assert open(place + "/b/src/inner").read() == "changed"
    one_line(vmferry(pair, "cp", "--overwrite=perhaps", place + "/a/src", place + "/a/file", f"good:{place}/b"), "not 'perhaps'", status=2)


def test_left_out(pair, place):
    """A fifo is left out with a word, and is no failure; a file that cannot be placed is one, and the rest goes on."""
    fill(place + "/a")
    os.mkfifo(place + "/a/src/fifo")
    r = vmferry(pair, "cp", place + "/a/src", f"good:{place}/b")
    assert r.returncode == 0 and "fifo: It is a fifo" in r.stderr, r.stderr
    os.unlink(place + "/b/inner")
    os.mkdir(place + "/b/inner")
    os.rename(place + "/b", place + "/c")
    os.mkdir(place + "/b")
    os.rename(place + "/c", place + "/b/src")
    r = vmferry(pair, "cp", place + "/a/src", f"good:{place}/b")
    assert r.returncode == 1
    assert any(line.startswith("vmferry: inner: ") for line in r.stderr.splitlines()), r.stderr
    assert "1 of its entries failed" in r.stderr.splitlines()[-1]
    assert open(place + "/b/src/deep/er").read() == "src/deep/er"


def test_modes(pair, place):
    """set-uid comes only with preserve; everything else of a mode always does."""
    for name, mode in ("setuid", 0o4755), ("plain", 0o640), ("none", 0o400):
        with open(os.path.join(place, name), "w") as file:
            file.write(name)
        os.chmod(os.path.join(place, name), mode)
        for option, expected in ((), mode & 0o777), (("--preserve",), mode):
            assert vmferry(pair, "cp", *option, os.path.join(place, name), f"good:{place}/to").returncode == 0
            assert os.stat(place + "/to").st_mode & 0o7777 == expected, (name, option)
            os.unlink(place + "/to")


def test_preflight(pair, place):
    """Refused before the first byte, by name."""
    with open(place + "/file", "w") as file:
        file.truncate(1 << 43)  # nothing but a hole; with it there would be work for days
    for destination, said in ("/no/such/directory/x", "/no/such"), (place + "/file/x", "file"):
        r = vmferry(pair, "cp", place + "/file", "good:" + destination)
        assert r.returncode == 1 and said in r.stderr and r.stderr.count("\n") == 1, r.stderr


def test_interrupted(pair, place):
    """Ctrl-C ends the job and leaves nothing on either side; --detach leaves the job."""
    with open(place + "/large", "wb") as file:
        for _ in range(512):
            file.write(os.urandom(1 << 20))
    for source, destination in (place + "/large", f"good:{place}/to/x"), (f"good:{place}/large", place + "/to/x"):
        os.makedirs(place + "/to")
        process = subprocess.Popen([built("src/cli/vmferry"), "--user", "cp", source, destination], env=pair.hostd.env,
                                   stderr=subprocess.PIPE, text=True)
        eventually(lambda: os.listdir(place + "/to"), 20, "the first bytes")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
        assert "cancelled" in process.stderr.read()
        process.stderr.close()
        eventually(lambda: os.listdir(place + "/to") == [], 10, "nothing left")
        os.rmdir(place + "/to")
    r = vmferry(pair, "cp", "--detach", place + "/large", f"good:{place}/detached")
    assert r.returncode == 0
    number = int(r.stdout)
    jobs = vmferry(pair, "jobs").stdout
    assert any(line.split()[:1] == [str(number)] for line in jobs.splitlines()), jobs
    assert vmferry(pair, "cancel", str(number)).returncode == 0
    os.unlink(place + "/large")


@pytest.mark.parametrize("direction", ["push", "pull"])
@pytest.mark.parametrize("destination", ["existing", "existing/", "new", "new/", "full"])
@pytest.mark.parametrize("queue", [False, True])
def test_contents(pair, place, direction, destination, queue):
    """What is in a directory goes into the other one, as with cp -r src/. dst; and that one keeps what it is."""
    for name in "ours", "model":
        fill(os.path.join(place, name))
    subprocess.run(["cp", "-r", "src/.", destination], cwd=place + "/model", check=True)
    os.chmod(place + "/ours/src", 0o750)
    os.chmod(place + "/ours/existing", 0o711)
    copy = getattr(pair.client, direction)
    for _ in range(2):
        pair.client.done(copy("good", place + "/ours/src", f"{place}/ours/{destination}", contents=True, queue=queue, preserve=queue))
        assert names(place + "/ours") == names(place + "/model")
        assert os.stat(place + "/ours/existing").st_mode & 0o777 == 0o711
    if destination.startswith("new"):
        assert os.stat(place + "/ours/new").st_mode & 0o777 == 0o750


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_contents_of_what_has_none(pair, place, direction):
    fill(place)
    job = getattr(pair.client, direction)("good", place + "/file", place + "/existing", contents=True)
    p = pair.client.wait_job(job[1], 20)
    assert p["State"] == "failed" and p["ErrorName"].endswith("InvalidArgs"), p
    assert "the source is no directory" in p["ErrorMessage"], p
    assert os.listdir(place + "/existing") == ["kept"]
    eventually(lambda: not pair.workers(), 5, "the worker's end")


def shell(host, script, cwd):
    return subprocess.run(["sh", "-c", script, built("src/cli/vmferry")], capture_output=True, timeout=60, cwd=cwd, env=host.hostd.env)


def test_offset(pair, place):
    """A file as standard input or output stands behind what was copied, as after cat."""
    with open(place + "/x", "wb") as file:
        file.write(b"x" * 5000)
    with open(place + "/sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(100_000)
    script = 'set -e; { echo head; "$0" --user cp %s -; "$0" --user cp %s -; echo end; } >out'
    for a, b in ("x", "x"), ("x", "sparse"), ("sparse", "x"):
        r = shell(pair, script % (f"good:{place}/{a}", f"good:{place}/{b}"), place)
        assert r.returncode == 0, r.stderr
        expected = b"head\n" + b"".join(open(os.path.join(place, n), "rb").read() for n in (a, b)) + b"end\n"
        assert open(place + "/out", "rb").read() == expected, (a, b)
    r = shell(pair, f'set -e; {{ read line; "$0" --user cp - good:{place}/pushed; cat; echo end; }} <out', place)
    assert (r.returncode, r.stdout) == (0, b"end\n"), (r.stdout[:100], r.stderr)
    assert open(place + "/pushed", "rb").read() == open(place + "/out", "rb").read()[len("head\n"):]
    # What is appended to looks after its end by itself.
    r = shell(pair, f'"$0" --user cp good:{place}/x - >>out && echo more >>out', place)
    assert r.returncode == 0 and open(place + "/out", "rb").read() == expected + b"x" * 5000 + b"more\n", r.stderr


def test_without_a_name(pair, place):
    """What has no name of its own goes to none that somebody else made up: into a directory it is refused."""
    fill(place)
    for destination, said in (("existing", "the source has no name"), ("existing/", "the source has no name"),
                              ("none/", "Cannot open the directory")):
        for script in 'echo piped | "$0" --user cp - ', '"$0" --user cp - <file ':
            r = shell(pair, f"{script} good:{place}/{destination}", place)
            assert r.returncode == 1 and said in r.stderr.decode(), r.stderr
        assert os.listdir(place + "/existing") == ["kept"] and not os.path.exists(place + "/none")
    assert shell(pair, f'echo piped | "$0" --user cp - good:{place}/existing/name', place).returncode == 0
    assert open(place + "/existing/name").read() == "piped\n"

    def push_fd(destination, **opts):
        fd = os.open(place + "/src", os.O_RDONLY)
        try:
            return pair.client.guest("good", "PushFd", "(hsa{sv})", 0, f"{place}/{destination}", options(**opts), fds=[fd])
        finally:
            os.close(fd)
    assert pair.client.failed(push_fd("full")) == "InvalidPath"
    assert os.listdir(place + "/full/src") == ["old"] and len(os.listdir(place + "/full")) == 2
    pair.client.done(push_fd("full", contents=True))
    assert os.path.exists(place + "/full/deep/er")
    pair.client.done(push_fd("tree"))
    assert os.path.exists(place + "/tree/deep/er")


def test_tree_back(pair, place):
    """Identical both ways, with everything odd that names and attributes can have."""
    tree.build(place + "/a", 200)
    xattrs = tree.add_xattrs(place + "/a")
    assert vmferry(pair, "cp", "-p", place + "/a", f"good:{place}/b").returncode == 0
    assert vmferry(pair, "cp", "-p", f"good:{place}/b", place + "/c").returncode == 0
    owners = os.geteuid() == 0
    for other in "b", "c":
        assert tree.differences(tree.describe(place + "/a", owners, xattrs), tree.describe(f"{place}/{other}", owners, xattrs)) == []
