# SPDX-License-Identifier: LGPL-2.1-or-later
"""Actions on a real machine: at each boot, once, in order, and what a wrong file does."""

import json
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
    # As DESIGN has it, remarks included.
    actions("10-site", f"""[Action]
Description=Push and run
Guests=l*;edge-?             # globs on the name, or uuid:…
On=ready                     # ready, started, stopped, message:TOPIC
Once=boot                    # boot (default), guest, always
Timeout=60s
Retries=3

[Step file]
Push={source}:/run/site
Mode=0640

[Step run]
Run=/bin/sh -c 'stat -c %a /run/site >> /run/order'
""")
    on_ready = "[Action]\nGuests=lab\nOn=ready\nOnce={once}\n[Step x]\nRun=/bin/sh -c 'echo {word} >> /run/order'\n"
    actions("20-after", on_ready.format(once="boot", word="second"))
    actions("30-other", on_ready.format(once="boot", word="never").replace("=lab", "=web-*"))
    actions("40-guest", on_ready.format(once="guest", word="guest"))
    actions("50-always", on_ready.format(once="always", word="always"))
    actions("90-started", on_ready.format(once="boot", word="started").replace("=ready", "=started"))
    actions("91-started-guest", on_ready.format(once="guest", word="started, guest").replace("=ready", "=started"))
    actions("95-stopped", "[Action]\nGuests=lab\nOn=stopped\nOnce=always\n"
                          "[Step x]\nRun=/bin/sh -c 'echo stopped >> /run/stopped'\n")
    eventually(lambda: results(client, "95-stopped") is not None, 10, "the files noticed")
    assert not lab.vmferry("actions", "check").returncode
    reboot(lab, vm)
    ended(client, "50-always")
    # What waits for the start comes before what waits for the guest; then by name.
    assert lines(client, "/run/order") == ["started", "started, guest", "640", "second", "guest", "always"]
    assert results(client, "30-other") == {}
    eventually(lambda: lines(client, "/run/stopped") == ["stopped"], 20, "what was queued at the stop")
    assert "Action 10-site for guest lab is done" in lab.place.log("hostd")

    lab.hostd.restart()
    client.wait_ready("lab", 60)
    ended(client, "50-always")
    assert results(client, "10-site") == {"lab": ("done", "")}
    assert lines(client, "/run/order") == ["started", "started, guest", "640", "second", "guest", "always", "always"]
    assert lines(client, "/run/stopped") == ["stopped"]

    reboot(lab, vm)
    ended(client, "50-always")
    assert lines(client, "/run/order") == ["started", "640", "second", "always"]
    # What is not done again is not waited for either.
    assert results(client, "91-started-guest") == {"lab": ("done", "")}
    eventually(lambda: lines(client, "/run/stopped") == ["stopped"], 20, "what was queued at the stop")


def publish(client, topic, text=""):
    assert client.run("lab", "vmferry-guestd", "send", topic, text)[0] == 0


ON_MESSAGE = "[Action]\nGuests=lab\nOn=message:{topic}\nOnce=always\n{more}\n[Step x]\n{step}\n"


def test_every_verb(lab, client, vm, actions):
    source, back = lab.scratch("verbs-source"), lab.scratch("verbs-back")
    os.makedirs(source, exist_ok=True)
    with open(os.path.join(source, "f"), "w") as file:
        file.write("in a tree")
    actions("verbs", f"""[Action]
Guests=uuid:{vm.uuid}
On=message:verbs
Once=always
[Step tree]
Push={source}:/run/verbs
[Step run]
Run=/bin/sh -c 'echo "$A $B $(pwd) $(id -un)" > /tmp/verbs-run'
Environment=A=1 B='2 3'
WorkingDirectory=/tmp
User=user
Timeout=20s
[Step back]
Pull=/tmp/verbs-run:{back}
Overwrite=replace
[Step say]
Send=append from an action
[Step ask]
Call=upper something
""")
    eventually(lambda: results(client, "verbs") is not None, 10, "the file noticed")
    publish(client, "verbs")
    ended(client, "verbs")
    assert lines(client, "/run/verbs/f") == ["in a tree"]
    with open(back) as file:
        assert file.read() == "1 2 3 /tmp user\n"
    eventually(lambda: "from an action" in lines(client, "/run/appended"), 10, "the message")


def test_tried_again(lab, client, vm, actions):
    actions("again", ON_MESSAGE.format(
        topic="again", more="Retries=3",
        step="Run=/bin/sh -c 'echo try >> /run/again; [ $(wc -l < /run/again) = 3 ]'"))
    actions("late", ON_MESSAGE.format(topic="late", more="Timeout=1s", step="Run=sleep 600"))
    eventually(lambda: results(client, "late") is not None, 10, "the files noticed")
    publish(client, "again")
    publish(client, "late")
    ended(client, "again")
    assert lines(client, "/run/again") == ["try"] * 3
    assert "timeout" in ended(client, "late", "failed")
    eventually(lambda: client.run("lab", "pidof", "sleep")[0] == 1, 20, "the end of what took too long")


def test_hung_one_delays_nobody(lab, client, vm, actions):
    actions("10-hung", ON_MESSAGE.format(topic="hang", more="Timeout=5min", step="Run=sleep 1000"))
    actions("20-next", ON_MESSAGE.format(topic="hang", more="", step="Run=touch /run/next"))
    eventually(lambda: results(client, "20-next") is not None, 10, "the files noticed")
    publish(client, "hang")
    ended(client, "20-next")
    assert results(client, "10-hung")["lab"][0] == "running"
    # Nor does it outlive its file's removal and hostd.
    client.run("lab", "killall", "sleep")
    ended(client, "10-hung", "failed")


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
    table = lab.vmferry("actions", check=True).stdout
    assert any(line.split()[:5] == ["good", "message:go", "always", "lab", "done"] for line in table.splitlines()), table
    told = [json.loads(line) for line in lab.vmferry("--json", "actions", check=True).stdout.splitlines()]
    good = next(action for action in told if action["name"] == "good")
    assert good["results"][0]["guest"] == "lab" and good["file"].endswith("/good.action"), good
    # A pattern may be meant for a domain to come.
    path = actions("early", "[Action]\n# who comes\nGuests=lab;web-*\n[Step x]\nRun=/bin/true\n")
    r = lab.vmferry("actions", "check", path, check=True)
    assert r.stderr.startswith(f"{path}:3: ") and "web-*" in r.stderr and "'lab'" not in r.stderr, r.stderr
    eventually(lambda: f"{path}:3: " in lab.place.log("hostd"), 10, "the same in the log")


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
