# SPDX-License-Identifier: LGPL-2.1-or-later
"""Terminals, as somebody sees them who sits at one: in a pane of tmux."""

import os
import subprocess

import pytest

from lab.need import built, eventually, tool
from lab.programs import vim


@pytest.fixture(scope="module")
def vm(lab):
    domain = lab.domain("lab", lab.image("vim", files=vim()))
    lab.client.wait_ready("lab", 90)
    return domain


class Pane:
    """A shell on a terminal of 30 rows and 90 columns."""

    number = 0

    def __init__(self, lab):
        Pane.number += 1
        self.tmux = [tool("tmux"), "-S", lab.place.file(f"tmux{Pane.number}"), "-f", "/dev/null"]
        env = dict(lab.hostd.env, TERM="xterm", PS1="local> ", HISTFILE="")
        subprocess.run([*self.tmux, "new-session", "-d", "-x", "90", "-y", "30", tool("bash"), "--norc", "--noprofile"],
                       env=env, check=True)
        self.vmferry = f"{built('src/cli/vmferry')} --user"
        self.sees("local>")

    def end(self):
        subprocess.run([*self.tmux, "kill-server"])

    def screen(self):
        return subprocess.run([*self.tmux, "capture-pane", "-p", "-J"], capture_output=True, text=True, check=True).stdout

    def keys(self, *keys):
        subprocess.run([*self.tmux, "send-keys", *keys], check=True)

    def type(self, text):
        subprocess.run([*self.tmux, "send-keys", "-l", text], check=True)
        self.keys("Enter")

    def sees(self, text, timeout=15):
        try:
            eventually(lambda: text in self.screen(), timeout)
        except AssertionError:
            raise AssertionError(f"{text!r} is not on the screen:\n{self.screen()}") from None

    def guest_shell(self):
        """Its prompt is seen when it is the guest's: what is typed here is not what is looked for."""
        self.type(f"{self.vmferry} exec -t -e 'PS1=guest$((3+4))> ' lab -- sh; echo left with $?")
        self.sees("guest7>")

    def resize(self, rows, columns):
        subprocess.run([*self.tmux, "resize-window", "-x", str(columns), "-y", str(rows)], check=True)

    def settings(self, name):
        """Of the local terminal, when its shell is back. A file: a terminal that is not sane shows nothing well."""
        self.type(f"stty -a >{name}; echo done >{name}.done")
        eventually(lambda: os.path.exists(name + ".done"), 10, "a local shell that listens")
        with open(name) as file:
            return file.read()


@pytest.fixture
def pane(lab, vm):
    p = Pane(lab)
    yield p
    p.end()


@pytest.fixture
def shell(pane):
    """A shell of the guest in it."""
    pane.guest_shell()
    return pane


def test_size_follows_the_window(shell):
    shell.type("stty size")
    shell.sees("30 90")
    shell.resize(41, 101)
    eventually(lambda: (shell.type("clear; stty size"), "41 101" in shell.screen())[1], 10, "the new size", every=0.5)


def test_vim_edits_and_saves(client, shell):
    client.run("lab", "sh", "-c", "echo 'first line' >/tmp/text")
    shell.type("vim -u NONE /tmp/text")
    shell.sees("first line")
    shell.type("osecond line")
    shell.keys("Escape")
    shell.type(":wq")
    eventually(lambda: client.run("lab", "cat", "/tmp/text")[1] == "first line\nsecond line\n\n", 10, "the saved file")
    shell.type("clear; echo and $((40 + 2))")
    shell.sees("and 42")


def test_less_pages(shell):
    shell.type("seq 1 500 >/tmp/numbers; less /tmp/numbers")
    shell.sees("\n20\n")
    shell.keys("G")
    shell.sees("\n500\n")
    shell.keys("q")
    shell.type("clear; echo and $((40 + 2))")
    shell.sees("and 42")


def test_top_refreshes(shell):
    shell.type("top -d 1")
    shell.sees("Load average")
    shell.keys("q")
    shell.type("clear; echo and $((40 + 2))")
    shell.sees("and 42")


def test_keys_go_to_the_guest(client, shell):
    shell.type("sleep 2811; echo status $?")
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 0, 10, "sleep")
    shell.keys("C-c")
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 1, 10, "the end of sleep")
    shell.type("clear; sleep 2812")
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 0, 10, "sleep")
    shell.keys("C-z")
    shell.sees("Stopped")
    shell.type("kill -9 %1; clear; echo begin $((1 + 1)); cat; echo end $((2 + 2))")
    shell.sees("begin 2")
    shell.keys("C-d")
    shell.sees("end 4")
    shell.keys("C-d")
    shell.sees("left with 0")


def test_exit_status_and_sane_terminal(lab, pane):
    before = pane.settings(lab.scratch("exit-before"))
    pane.type(f"{pane.vmferry} shell lab; echo left with $?")
    pane.sees("~ #")
    pane.type("exit 7")
    pane.sees("left with 7")
    assert pane.settings(lab.scratch("exit-after")) == before


def test_escape_leaves(lab, client, pane):
    before = pane.settings(lab.scratch("escape-before"))
    pane.type(f"{pane.vmferry} exec -t lab -- sleep 2821; echo left with $?")
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 0, 10, "sleep")
    pane.keys("Enter", "~", ".")
    pane.sees("left with 125")
    assert pane.settings(lab.scratch("escape-after")) == before
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 1, 15, "the end of sleep")


@pytest.mark.parametrize("signal", ["TERM", "HUP", "INT", "ABRT"])
def test_signal_to_the_command(lab, client, pane, signal):
    before = pane.settings(lab.scratch(f"{signal}-before"))
    pane.type(f"{pane.vmferry} exec -t lab -- sleep 2831; echo left")
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 0, 10, "sleep")
    subprocess.run(["pkill", f"-{signal}", "-f", f"^{built('src/cli/vmferry')} --user exec -t lab -- sleep 2831"], check=True)
    pane.sees("\nleft")
    assert pane.settings(lab.scratch(f"{signal}-after")) == before
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 1, 15, "the end of sleep")


def test_killed_hostd_leaves_a_sane_terminal(lab, client, pane):
    before = pane.settings(lab.scratch("kill-before"))
    pane.guest_shell()
    lab.hostd.kill()
    try:
        pane.sees("left with 125")
        assert "restarted or has ended" in pane.screen()
        assert pane.settings(lab.scratch("kill-after")) == before
    finally:
        lab.hostd.start()
        client.wait_ready("lab", 20)
    eventually(lambda: "PS1=guest" not in client.run("lab", "sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")[1],
               15, "the end of the guest's shell")
