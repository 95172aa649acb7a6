# SPDX-License-Identifier: LGPL-2.1-or-later
"""guestd replaced by another, and by what is none: the host always finds one that works."""

import os
import subprocess

import pytest
from guestdaemon import Guest, copy_of, ended
from hostpeer import Remote, xxh64

from lab.need import eventually, guestd_program
from lab.place import Place

SCRIPT = "#!/bin/sh\n[ \"$1\" = --version ] || exit 7\necho vmferry-guestd 99\n"


@pytest.fixture
def guest():
    place = Place()
    guest = Guest(program=copy_of(guestd_program(), place))
    yield guest
    ended(guest.config)
    guest.place.stop(guest.process)
    guest.place.remove()
    place.remove()


def digest(path):
    with open(path, "rb") as file:
        return f"xxh64:{xxh64(file.read()):016x}"


def fresh(guest, text):
    path = guest.place.file("fresh")
    with open(path, "w") as file:
        file.write(text)
    return path


def upgrade(guest, path, **more):
    return guest.host.request("agent.upgrade", path=path, digest=digest(path), **more)[0]


def test_upgrade(guest):
    before = guest.host.guest
    path = copy_of(guest.program, guest.place, "fresh", b"\0")
    wanted = digest(path)
    assert upgrade(guest, path)["version"]
    with pytest.raises(Exception):  # it leaves, by BYE and a new handshake of another instance
        guest.host.settle(5)
    after = guest.host.handshake(20)
    assert after["build"] == wanted != before["build"] and after["instance"] != before["instance"]
    assert guest.process.poll() is None, "the process stays"
    assert not os.path.exists(path) and digest(guest.program) == wanted
    eventually(lambda: "Upgraded" in guest.log(), 10, "the word to the watcher")
    guest.host.ping(2)


WRONG = {
    "no vmferry-guestd": ("#!/bin/sh\necho something else\n", "Incompatible"),
    "one that fails": ("#!/bin/sh\nexit 3\n", "Incompatible"),
    "one that dies": ("#!/bin/sh\nkill -9 $$\n", "Incompatible"),
    "nothing to execute": ("\x7fELF, but only at its start", "Incompatible"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_program(guest, name):
    """It is tried before it is put in place; then nothing has changed."""
    before = digest(guest.program)
    with pytest.raises(Remote) as e:
        upgrade(guest, fresh(guest, WRONG[name][0]))
    assert e.value.name == WRONG[name][1] and len(e.value.body["message"]) > 20
    assert digest(guest.program) == before and not os.path.exists(guest.program + ".new")
    guest.well()


STAGE = "/run/vmferry/guestd.new"


@pytest.mark.parametrize("wanted", ["Incompatible", "Integrity"])
def test_nothing_is_left(guest, wanted):
    """What was put where hosts put it is removed after a failure, too; what lies elsewhere is not the daemon's."""
    path = fresh(guest, WRONG["one that fails"][0])
    subprocess.run(guest.inside("cp", path, STAGE), check=True)
    for source in path, STAGE:
        with pytest.raises(Remote) as e:
            guest.host.request("agent.upgrade", path=source, digest=digest(path) if wanted == "Incompatible" else "xxh64:0000000000000000")
        assert e.value.name == wanted
    assert os.path.exists(path)
    assert subprocess.run(guest.inside("test", "-e", STAGE)).returncode == 1
    guest.well()


def test_wrong_words(guest):
    path = fresh(guest, SCRIPT)
    for parameters, error in (({"path": "fresh", "digest": digest(path)}, "InvalidPath"),
                              ({"path": path, "digest": "xxh64:0000000000000000"}, "Integrity"),
                              ({"path": "/nonexistent", "digest": "x"}, "NotFound"),
                              ({"path": "/dev/null", "digest": "x"}, "InvalidArgs")):
        with pytest.raises(Remote) as e:
            guest.host.request("agent.upgrade", **parameters)
        assert e.value.name == error or error == "InvalidArgs", e.value
    guest.well()


def test_back_to_the_old_one(guest):
    """The new one calls itself right and never says a word to the host: the old one is back by itself."""
    before = digest(guest.program)
    assert upgrade(guest, fresh(guest, SCRIPT), timeout=1_000_000)["version"] == "99"
    assert guest.process.wait(10) == 7, "the new program's own end"
    after = guest.host.handshake(40)
    assert after["build"] == before == digest(guest.program)
    guest.host.ping(2)
    assert not os.path.exists(guest.program + ".new")
