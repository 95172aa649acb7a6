# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vmferry metrics` as a scraper reads it, line by line after OpenMetrics 1.0 and in the types that the older text format of
Prometheus knows too, and what the counters count."""

import re
import subprocess

from conftest import Host
from hostpeer import REPLY

from lab.need import built, eventually

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)\}})? (-?[0-9.e+-]+)$")
SUFFIX = {"counter": "_total", "gauge": ""}


def metrics(host):
    r = subprocess.run([built("src/cli/vmferry"), "--user", "metrics"], capture_output=True, text=True, timeout=20,
                       env=host.hostd.env)
    assert r.returncode == 0 and not r.stderr, r.stderr
    return r.stdout


def parse(text):
    """{(sample, labels): value}; asserts what the specification asks."""
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
    found, families, family, kind, described = {}, set(), None, None, set()
    for line in text.splitlines()[:-1]:
        if line.startswith("# "):
            word, name, rest = line[2:].split(" ", 2)
            if word == "TYPE":
                assert re.fullmatch(NAME, name) and name not in families and rest in SUFFIX, line
                family, kind, described = name, rest, set()
                families.add(name)
                assert not name.endswith("_total")
                continue
            assert word in ("HELP", "UNIT") and name == family and word not in described, line
            described.add(word)
            assert word != "UNIT" or family.endswith("_" + rest), line
            continue
        name, labels, value = SAMPLE.match(line).groups()
        assert name == family + SUFFIX[kind], line
        assert "HELP" in described, line
        assert (name, labels) not in found, line
        assert kind != "counter" or float(value) >= 0
        found[name, labels] = float(value)
    return found


def of(samples, name, guest):
    return next(v for (n, labels), v in samples.items() if n == name and f'guest="{guest}"' in labels)


def test_metrics(host, client):
    samples = parse(metrics(host))
    assert samples["vmferry_guests", None] == 2 and samples["vmferry_guests_ready", None] == 2
    assert samples["vmferry_libvirt_connected", None] == 1
    states = {labels: v for (n, labels), v in samples.items() if n == "vmferry_guest_state" and 'guest="good"' in labels}
    assert sorted(states.values()) == [0] * 8 + [1]
    assert next(labels for labels, v in states.items() if v).endswith('state="ready"')
    client.ping("good")
    assert 0 < of(parse(metrics(host)), "vmferry_guest_round_trip_seconds", "good") < 60


def test_counters(host, client, liar):
    """Each counts its own kind of trouble, for the guest that has it."""
    port = liar.control
    before = parse(metrics(host))

    def grew(name, guest="liar"):
        return of(parse(metrics(host)), name, guest) > of(before, name, guest)

    port.raw(b"VMF" * 100 + port.next_frame(REPLY, b"{}", stream=1, session=77))
    eventually(lambda: grew("vmferry_guest_frames_dropped_total"), 5, "a dropped frame")
    liar.control.hello_req()
    host.wait_well("liar", 5)
    assert grew("vmferry_guest_sessions_total") and grew("vmferry_guest_resyncs_total")
    port.request("message.call", topic="nobody", id=1)
    assert grew("vmferry_guest_requests_refused_total")
    # A link that goes silent: found by the question of the next caller, and begun anew.
    port.is_mute = True
    try:
        client.ping("liar", timeout=20)
    except Exception:  # noqa: BLE001 - whatever its name is
        pass
    eventually(lambda: grew("vmferry_guest_silences_total"), 10, "a silence")
    port.is_mute = False
    host.wait_well("liar", 15)
    assert grew("vmferry_guest_reconnects_total")
    assert not grew("vmferry_guest_silences_total", "good") and not grew("vmferry_guest_reconnects_total", "good")


def test_names_are_escaped():
    """A domain's name is its owner's."""
    name = 'odd &quot;name&quot; \\ of &lt;one&gt;'
    host = Host(peers=("good",), domains={name: ""})
    try:
        text = metrics(host)
        parse(text)
        assert 'guest="odd \\"name\\" \\\\ of <one>"' in text
    finally:
        host.end()
