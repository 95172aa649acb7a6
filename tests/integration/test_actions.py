# SPDX-License-Identifier: LGPL-2.1-or-later
"""Action files that come and go under a running hostd, and what is remembered of their runs."""

import os
import shutil

import pytest
from conftest import Host

from lab.need import eventually

NAME = "guest"
ACTION = "[Action]\nGuests=*\nOn={on}\nOnce={once}\n[Step x]\nSend=app.go now\n"


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

    def write(name, on="ready", once="always"):
        os.makedirs(directory(host), exist_ok=True)
        with open(os.path.join(directory(host), name + ".action"), "w") as file:
            file.write(ACTION.format(on=on, once=once))

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
    shutil.rmtree(os.path.dirname(directory(host)))
    host.client.manager("Ping", "(s)", NAME)
    eventually(lambda: known(host) == set(), 10, "none are left")
    for name in "first", "second":
        actions(name)
        eventually(lambda: name in known(host), 10, f"{name} noticed")
        shutil.rmtree(os.path.dirname(directory(host)))
        eventually(lambda: known(host) == set(), 10, "its end noticed")
