# SPDX-License-Identifier: LGPL-2.1-or-later
"""Actions on a real machine: at each boot, once, in order, and what a wrong file does."""

import os

import pytest

from lab.need import eventually


@pytest.fixture
def actions(lab, vm):
    """Writes action files; they are gone afterwards."""
    directory = os.path.join(lab.hostd.home, "cfg/vmferry/actions.d")
    os.makedirs(directory, exist_ok=True)
    written = []

    def write(name, text):
        written.append(os.path.join(directory, name + ".action"))
        with open(written[-1], "w") as file:
            file.write(text)
        return written[-1]

    yield write
    for path in written:
        os.unlink(path)
    lab.client.manager("Reload")


def results(client, name):
    """guest → (result, reason) of an action; None: it isn't loaded."""
    for action in client.manager("ListActions"):
        if action[0] == name:
            return {guest: (result, reason) for guest, result, _, reason in action[6]}
    return None


def ended(client, name, result="done", timeout=60):
    eventually(lambda: (results(client, name) or {}).get("lab", ("",))[0] == result, timeout, f"{name} {result}")
    return results(client, name)["lab"][1]


def lines(client, path):
    status, out, _ = client.run("lab", "cat", path)
    return out.splitlines() if status == 0 else []


def reboot(lab, vm):
    vm.destroy()
    lab.wait_state("lab", "off")
    vm.start()
    lab.client.wait_ready("lab", 120)


def test_each_boot_once(lab, client, vm, actions):
    source = lab.scratch("action-source")
    with open(source, "w") as file:
        file.write("site")
    actions("10-site", f"""[Action]
Description=Push and run
Guests=l*;edge-?
On=ready

[Step file]
Push={source}:/run/site
Mode=0640

[Step run]
Run=/bin/sh -c 'stat -c %a /run/site >> /run/order'
""")
    actions("20-after", "[Action]\nGuests=lab\nOn=ready\n[Step x]\nRun=/bin/sh -c 'echo second >> /run/order'\n")
    actions("30-other", "[Action]\nGuests=web-*\n[Step x]\nRun=/bin/sh -c 'echo never >> /run/order'\n")
    eventually(lambda: results(client, "20-after") is not None, 10, "the files noticed")
    reboot(lab, vm)
    ended(client, "20-after")
    assert lines(client, "/run/order") == ["640", "second"]
    assert results(client, "30-other") == {}
    lab.hostd.restart()
    client.wait_ready("lab", 60)
    assert results(client, "10-site") == {}
    assert lines(client, "/run/order") == ["640", "second"]
    reboot(lab, vm)
    ended(client, "20-after")
    assert lines(client, "/run/order") == ["640", "second"]


def test_typo(lab, client, vm, actions):
    path = actions("bad", "[Action]\nGuests=lab\nOn=ready\n\n[Step x]\nPuhs=/a:/b\n")
    actions("good", "[Action]\nGuests=lab\nOn=message:go\nOnce=always\n[Step x]\nRun=/bin/touch /run/good\n")
    eventually(lambda: results(client, "good") is not None, 10, "the files noticed")
    assert results(client, "bad") is None
    assert f"{path}:6: " in lab.place.log("hostd")
    r = lab.vmferry("actions", "check")
    assert r.returncode == 1 and f"{path}:6: " in r.stderr and "Puhs" in r.stderr
    os.unlink(path)
    assert lab.vmferry("actions", "check").returncode == 0
    with open(path, "w"):
        pass
    # The others still work.
    assert client.run("lab", "vmferry-guestd", "send", "go", "now")[0] == 0
    ended(client, "good")
    assert "good" in lab.vmferry("actions", check=True).stdout


def test_failure_is_told(lab, client, vm, actions):
    actions("fails", "[Action]\nGuests=lab\nOn=message:fail\nOnce=always\nRetries=1\n"
                     "[Step bad]\nRun=/bin/sh -c 'echo try >> /run/tries; echo why >&2; exit 3'\n"
                     "[Step never]\nRun=/bin/touch /run/never\n")
    eventually(lambda: results(client, "fails") is not None, 10, "the file noticed")
    assert client.run("lab", "vmferry-guestd", "send", "fail", "")[0] == 0
    reason = ended(client, "fails", "failed")
    assert "bad" in reason and "3" in reason and "why" in reason
    assert lines(client, "/run/tries") == ["try", "try"]
    assert client.run("lab", "ls", "/run/never")[0] != 0
    assert "Action fails" in lab.place.log("hostd")
