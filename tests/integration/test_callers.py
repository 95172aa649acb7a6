# SPDX-License-Identifier: LGPL-2.1-or-later
"""Callers, configuration and domains that are wrong: the right name, and a sentence that helps."""

import os

import pytest
from conftest import CHANNEL, Host
from hostpeer import EOF

from lab.bus import BusError, options

ARGS = "org.freedesktop.DBus.Error.InvalidArgs"
MANAGER = {
    "no such guest": (("Ping", "(s)", "nobody"), "NoSuchGuest", "nobody"),
    "empty name": (("Ping", "(s)", ""), "NoSuchGuest", ""),
    "name of controls": (("GetGuest", "(s)", "a\n\x1b"), "NoSuchGuest", ""),
    "relative host path": (("Push", "(sssa{sv})", "good", "a/b", "/x", {}), "InvalidPath", "a/b"),
    "relative guest path": (("Push", "(sssa{sv})", "good", "/etc/passwd", "x", {}), "InvalidPath", "x"),
    "dots": (("Pull", "(sssa{sv})", "good", "/a/../b", "/tmp/x", {}), "InvalidPath", ".."),
    "empty path": (("Pull", "(sssa{sv})", "good", "/a", "", {}), "InvalidPath", ""),
    "unknown option": (("Push", "(sssa{sv})", "good", "/etc/passwd", "/x", options(colour="red")), ARGS, "colour"),
    "option of another type": (("Push", "(sssa{sv})", "good", "/etc/passwd", "/x", options(mode="0644")), ARGS, "mode"),
    "overwrite of another word": (("Push", "(sssa{sv})", "good", "/etc/passwd", "/x", options(overwrite="maybe")), ARGS, "overwrite"),
    "mode beyond bits": (("Push", "(sssa{sv})", "good", "/etc/passwd", "/x", options(mode=("u", 0o100644))), ARGS, "mode"),
    "ttl of nothing kept": (("Send", "(sssa{sv})", "good", "t", "x", options(ttl=5_000_000)), ARGS, '"ttl"'),
    "ttl of a push": (("Push", "(sssa{sv})", "good", "/etc/passwd", "/x", options(ttl=5_000_000)), ARGS, '"queue"'),
    "ttl of a command": (("Run", "(sasa{sv})", "good", ["true"], options(ttl=5_000_000)), ARGS, '"queue"'),
    "key of a call": (("Call", "(sssa{sv})", "good", "echo", "x", options(key="k")), ARGS, "answer"),
    "key of a push": (("Push", "(sssa{sv})", "good", "/etc/passwd", "/x", options(key="k")), ARGS, '"key"'),
    "key of a command": (("Run", "(sasa{sv})", "good", ["true"], options(key="k")), ARGS, '"key"'),
    "key of nothing": (("Send", "(sssa{sv})", "good", "t", "x", options(key="")), ARGS, "255"),
    "key of 256 bytes": (("Send", "(sssa{sv})", "good", "t", "x", options(key="k" * 256)), ARGS, "255"),
    "argv of nothing": (("Run", "(sasa{sv})", "good", [], {}), ARGS, "argv"),
    "empty argv[0]": (("Run", "(sasa{sv})", "good", [""], {}), None, ""),
    "env name with =": (("Run", "(sasa{sv})", "good", ["true"], options(env={"A=B": "c"})), ARGS, "A=B"),
    "env name of nothing": (("Run", "(sasa{sv})", "good", ["true"], options(env={"": "c"})), ARGS, ""),
    "relative cwd": (("Run", "(sasa{sv})", "good", ["true"], options(cwd="tmp")), ARGS, "tmp"),
    "large payload": (("Call", "(sssa{sv})", "good", "echo", "x" * 65537, {}), "TooLarge", "65536"),
    "topic with a slash": (("Send", "(sssa{sv})", "good", "a/b", "x", {}), ARGS, "a/b"),
    "topic of nothing": (("Send", "(sssa{sv})", "good", "", "x", {}), ARGS, ""),
    "topic of 10 KiB": (("Send", "(sssa{sv})", "good", "t" * 10240, "x", {}), "TooLarge", "128"),
    "hidden topic": (("Call", "(sssa{sv})", "good", ".x", "x", {}), ARGS, ".x"),
    "register a path": (("RegisterTopic", "(s)", "a/b"), ARGS, "a/b"),
}


@pytest.mark.parametrize("name", MANAGER)
def test_manager(host, client, name):
    (method, signature, *args), error, word = MANAGER[name]
    with pytest.raises(BusError) as e:
        client.manager(method, signature, *args, timeout=10)
    assert error is None or e.value.name == error, e.value
    assert len(e.value.message) > 15 and word in e.value.message, e.value.message
    assert client.message("good", "echo", "x" * 65536) == "x" * 65536


def test_large_argument(host, client):
    with pytest.raises(BusError) as e:
        client.run("good", "echo", "x" * (10 << 20))
    assert e.value.name in ("TooLarge", "LimitsExceeded", ARGS), e.value
    client.ping("good")


def test_unopenable(host, client):
    for path, names in ("/nonexistent/file", {"NotFound"}), ("/dev/null/x", {"NotFound", "InvalidPath", "Exists", "Failed"}):
        job = client.wait_job(client.push("good", path, "/x")[1], 10)
        assert job["State"] == "failed" and job["ErrorName"].rpartition(".")[2] in names, job
        assert path in job["ErrorMessage"] and "good" in job["ErrorMessage"]


def test_output_too_large(host, client, liar):
    """Run keeps 16 MiB of each output, and says so when there was more; hostd keeps no more than that either."""
    streams = {}

    def start(port, ident, body, payload):
        port.reply(ident, {"pid": 7})
        streams["id"] = body["id"]

    def stdio(port, s):
        port.opened(s)
        for _ in range(20):
            if not port.send_data(s, bytes(1 << 20)):
                break
        port.send(EOF, stream=s.id)
        liar.control.message(18, 0, {"method": "process.exited", "id": streams["id"], "exit_status": 0})

    liar.serve.update({"process.start": start, "process.kill": lambda port, ident, *_: port.reply(ident)})
    liar.opens.update(stdio=stdio, stderr=lambda port, s: (port.opened(s), port.send(EOF, stream=s.id)))
    rss = host.rss_kib()
    with pytest.raises(BusError) as e:
        client.run("liar", "yes", wait=30)
    assert e.value.name == "TooLarge" and "16" in e.value.message, e.value
    assert host.rss_kib() < rss + 80 * 1024
    client.ping("liar")


def test_domains():
    """Channels that cannot be used: no-channel, with the reason; the domain beside them is served."""
    path = "/tmp/vmferry-test-nobody.sock"
    other = {
        "absent": ("", "vmferry enable"),
        "half": (CHANNEL.format(path=path, name="org.vmferry.data.0"), "org.vmferry.ctl.0"),
        "relative": ("".join(f"<channel type='pty'><target type='virtio' name='org.vmferry.{p}.0'/></channel>" for p in ("ctl", "data")),
                     "Unix socket"),
        "connecting": ("".join(f"<channel type='unix'><source mode='connect' path='{path}'/><target type='virtio' "
                               f"name='org.vmferry.{p}.0'/></channel>" for p in ("ctl", "data")), "bind"),
        "long": ("".join(CHANNEL.format(path="/tmp/" + "x" * 120, name=f"org.vmferry.{p}.0") for p in ("ctl", "data")), "too long"),
    }
    config = "KeepAlive=soon\nColour=red\nMaxJobs=7\nnonsense\n"
    host = Host(peers=("good",), domains={name: devices for name, (devices, _) in other.items()}, config=config)
    try:
        for name, (_, word) in other.items():
            shown = host.client.guest_properties(name)
            assert shown["State"] == "no-channel" and word in shown["StateReason"], (name, shown["State"], shown["StateReason"])
            with pytest.raises(BusError) as e:
                host.client.ping(name)
            assert e.value.name in ("NotReady", "NoChannel") and name in e.value.message
        host.client.ping("good")
        # The configuration's mistakes: file, line and key; what is right counts.
        log = "\n".join(host.log())
        file = os.path.join(host.hostd.home, "cfg/vmferry/hostd.conf")
        for line, key in (3, "KeepAlive"), (4, "Colour"):
            assert f"{file}:{line}: {key}: " in log, log
        assert f"{file}:6: " in log, log
    finally:
        host.end()
