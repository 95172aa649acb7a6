# SPDX-License-Identifier: LGPL-2.1-or-later
"""Action files that come and go under a running hostd, and what is remembered of their runs."""

import os
import shutil
import subprocess
import time

import pytest
from conftest import Host

from lab.need import built, eventually

NAME = "guest"
ACTION = "[Action]\nGuests=*\nOn={on}\nOnce={once}\n[Step x]\nSend={topic} now\n"


@pytest.fixture(scope="module")
def host():
    host = Host(peers=(NAME,))
    yield host
    host.end()


def directory(host):
    return os.path.join(host.hostd.home, "cfg/vmferry/actions.d")


@pytest.fixture
def actions(host):
    """Writes action files; no others are there."""
    shutil.rmtree(directory(host), ignore_errors=True)

    def write(name, on="ready", once="always", topic="app.go"):
        os.makedirs(directory(host), exist_ok=True)
        with open(os.path.join(directory(host), name + ".action"), "w") as file:
            file.write(ACTION.format(on=on, once=once, topic=topic))

    yield write
    shutil.rmtree(directory(host), ignore_errors=True)


def known(host):
    return {action[0] for action in host.client.manager("ListActions")}


def results(host, name):
    """guest → (result, reason) of an action."""
    action = next(action for action in host.client.manager("ListActions") if action[0] == name)
    return {guest: (result, reason) for guest, result, _, reason in action[6]}


def test_noticed_from_nothing(host, actions):
    """Where the directory's own directory is missing, too, as after an installation."""
    above, aside = os.path.dirname(directory(host)), host.hostd.home + "/aside"
    shutil.copytree(above, aside)
    shutil.rmtree(above)
    eventually(lambda: known(host) == set(), 10, "none are left")
    for name in "first", "second":
        actions(name)
        eventually(lambda: name in known(host), 10, f"{name} noticed")
        shutil.rmtree(above)
        eventually(lambda: known(host) == set(), 10, "its end noticed")
    shutil.copytree(aside, above)


@pytest.fixture
def guest(host):
    """It takes messages, but for those to app.no."""
    def answer(port, ident, body, payload):
        port.reply(ident, {"error": "NoHandler", "message": "nobody here"} if body["topic"] == "app.no" else {})
    host.peers[NAME].serve["message.send"] = answer


def times(host, name):
    return [at for action in host.client.manager("ListActions") if action[0] == name for _, _, at, _ in action[6]]


def test_remembered(host, actions, guest):
    """How the last run ended is known to the next hostd, also where there is no run any more: of a guest that is not ready."""
    actions("good", once="boot")
    actions("bad", once="boot", topic="app.no")
    eventually(lambda: known(host) == {"good", "bad"}, 10, "the files noticed")
    host.hostd.restart()
    eventually(lambda: all(results(host, name).get(NAME, ("",))[0] in ("done", "failed") for name in ("good", "bad")), 20, "both ends")
    assert results(host, "good") == {NAME: ("done", "")}
    result, reason = results(host, "bad")[NAME]
    assert result == "failed" and "app.no" in reason
    before = {name: (results(host, name), times(host, name)) for name in ("good", "bad")}
    host.peers[NAME].close()
    time.sleep(0.5)  # on disk, a moment later
    host.hostd.restart()
    assert {name: (results(host, name), times(host, name)) for name in ("good", "bad")} == before
    host.peers[NAME] = type(host.peers[NAME])(host.socket(NAME, "ctl"), host.socket(NAME, "data"), NAME)
    host.client.wait_ready(NAME, 20)


def test_unreadable(host, actions):
    """A directory that cannot be read is told of, by the command and by hostd."""
    os.symlink(os.path.basename(directory(host)), directory(host))
    try:
        r = subprocess.run([built("src/cli/vmferry"), "--user", "actions", "check"], capture_output=True, text=True, timeout=60,
                           env=host.hostd.env)
        assert r.returncode == 1 and r.stderr.startswith(directory(host) + ": "), r
        eventually(lambda: f"{directory(host)}: its actions cannot be read" in host.place.log("hostd"), 10, "the same in the log")
    finally:
        os.unlink(directory(host))
