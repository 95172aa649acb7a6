#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hostd says of its interfaces against data/dbus, member by member: the documented interface is the one that is there.
hostd runs on a bus of its own, on libvirt's test driver. Jobs exist only while something is under way; their interfaces
are compared when an object has them, and by the tests on virtual machines.

    introspection.py HOSTD
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

import source

BUS = """<busconfig><type>session</type><listen>unix:path={0}/bus</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""
STANDARD = "org.freedesktop.DBus."


def members(interface):
    """A comparable picture of an <interface>."""
    found = set()
    for kind in "method", "signal", "property":
        for member in interface.findall(kind):
            arguments = tuple((a.get("type"), a.get("direction", "out" if kind == "signal" else "in"))
                              for a in member.findall("arg"))
            ins = tuple(t for t, d in arguments if d == "in")
            outs = tuple(t for t, d in arguments if d == "out")
            changes = ""
            for annotation in member.findall("annotation"):
                if annotation.get("name") == "org.freedesktop.DBus.Property.EmitsChangedSignal":
                    changes = annotation.get("value")
            found.add((kind, member.get("name"), ins, outs, member.get("type") or "", member.get("access") or "",
                       "" if changes == "true" else changes))
    return found


def documented():
    result = {}
    for path in source.files("data/dbus", (".xml",)):
        for interface in ET.fromstring(source.read(path)).iter("interface"):
            result[interface.get("name")] = members(interface)
    return result


def compare(name, expected, actual):
    problems = []
    for member in sorted(actual - expected):
        problems.append(f"data/dbus: {name} lacks {member}")
    for member in sorted(expected - actual):
        problems.append(f"data/dbus: {name} has {member}, and hostd hasn't")
    return problems


def busctl(address, *args):
    return subprocess.run(["busctl", f"--address={address}", "--no-pager", *args], capture_output=True, text=True, timeout=30)


def start(directory, hostd):
    with open(f"{directory}/bus.conf", "w") as file:
        file.write(BUS.format(directory))
    os.makedirs(f"{directory}/vmferry")
    with open(f"{directory}/vmferry/hostd.conf", "w") as file:
        file.write("[Host]\nConnectUri=test:///default\n")
    env = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={directory}/bus", "XDG_CONFIG_HOME": directory,
           "XDG_RUNTIME_DIR": directory, "XDG_STATE_HOME": directory, "HOME": directory}
    bus = subprocess.Popen(["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--nopidfile"])
    for _ in range(100):
        if os.path.exists(f"{directory}/bus"):
            break
        time.sleep(0.05)
    daemon = subprocess.Popen([hostd, "--user"], env=env, stderr=open(f"{directory}/log", "w"))
    return bus, daemon


def look(address):
    """interface → members, of all objects; once the test driver's domain is a guest."""
    found = {}
    paths = []
    for _ in range(200):
        r = busctl(address, "tree", "--list", "org.vmferry1")
        paths = [p for p in r.stdout.split() if p.startswith("/org/vmferry1")]
        if r.returncode == 0 and any("/guest/" in p for p in paths):
            break
        time.sleep(0.05)
    for path in paths:
        r = busctl(address, "introspect", "--xml-interface", "org.vmferry1", path)
        if r.returncode == 0:
            for interface in ET.fromstring(r.stdout).findall("interface"):
                if not interface.get("name").startswith(STANDARD):
                    found[interface.get("name")] = members(interface)
    return found


def main():
    hostd = sys.argv[1]
    if not os.path.exists(hostd):
        source.report([f"{hostd} is not built"])
    for tool in "dbus-daemon", "busctl":
        if not shutil.which(tool):
            source.skip(f"{tool} is missing")
    expected = documented()
    if not expected:
        source.report(["data/dbus has no interfaces"])
    directory = tempfile.mkdtemp(prefix="vfi-", dir="/tmp")
    processes = ()
    try:
        processes = start(directory, hostd)
        actual = look(f"unix:path={directory}/bus")
        problems = []
        for name in "org.vmferry1.Manager", "org.vmferry1.Guest":
            if name not in actual:
                problems.append(f"hostd shows no {name}: {open(f'{directory}/log').read()[-1000:]}")
        for name, there in sorted(actual.items()):
            problems += compare(name, expected.get(name, set()), there)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)
    source.report(problems)


main()
