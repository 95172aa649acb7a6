# SPDX-License-Identifier: LGPL-2.1-or-later
"""enable and disable: the XML of domains that are off, that run, and that are only there while they run. None of them boots."""

import json

import pytest

from lab.virt import CONTROL, DATA


@pytest.fixture
def domain(lab, request):
    """One without channels or controller, defined and off; called as the test is."""
    d = lab.domain(request.node.name.replace("_", "-"), channels=(), controller=False, start=False)
    yield d
    d.undefine()


def definition(domain):
    return domain.virsh("dumpxml", "--inactive").stdout


def count(xml):
    """Of controllers, control channels, data channels."""
    return [xml.count("<controller type='virtio-serial'"), xml.count(f"name='{CONTROL}'"), xml.count(f"name='{DATA}'")]


def failed(r, *words):
    assert r.returncode == 1 and r.stderr.count("\n") == 1, (r.stdout, r.stderr)
    assert all(word in r.stderr for word in words), r.stderr


def test_off(lab, domain):
    before = definition(domain)
    assert count(before) == [0, 0, 0]
    diff = lab.vmferry("enable", "--dry-run", domain.name, check=True).stdout
    assert "+" in diff and CONTROL in diff and DATA in diff
    assert definition(domain) == before
    assert "next start" in lab.vmferry("enable", domain.name, check=True).stdout
    after = definition(domain)
    assert count(after) == [1, 1, 1]
    # Again, and by its UUID: nothing happens.
    lab.vmferry("enable", domain.uuid, check=True)
    assert definition(domain) == after
    assert lab.vmferry("enable", "--dry-run", domain.name, check=True).stdout == ""
    lab.vmferry("disable", domain.name, check=True)
    assert count(definition(domain))[1:] == [0, 0]
    lab.vmferry("disable", domain.name, check=True)


def test_one_of_two_is_there(lab, domain):
    lab.vmferry("enable", domain.name, check=True)
    xml = definition(domain)
    start = xml.rindex("<channel", 0, xml.index(DATA))
    with open(lab.scratch("half.xml"), "w") as file:
        file.write(xml[:start] + xml[xml.index("</channel>", start) + len("</channel>"):])
    lab.libvirtd.virsh("define", lab.scratch("half.xml"))
    assert count(definition(domain)) == [1, 1, 0]
    lab.vmferry("enable", domain.name, check=True)
    assert count(definition(domain)) == [1, 1, 1]


def test_running_without_a_controller(lab, client, domain):
    """libvirt cannot plug one in: the channels are there from the next start on, and that is told."""
    domain.virsh("start", "--paused")
    document = json.loads(lab.vmferry("--json", "enable", domain.name, check=True).stdout)
    assert document["live"] is False
    assert count(definition(domain)) == [1, 1, 1] and count(domain.live_xml())[1:] == [0, 0]
    domain.destroy()
    domain.virsh("start", "--paused")
    assert count(domain.live_xml()) == [1, 1, 1]
    # A guest that does not run its vCPUs cannot let go of a device: only the definition is looked at.
    domain.destroy()
    lab.vmferry("disable", domain.name, check=True)
    assert count(definition(domain))[1:] == [0, 0]


def test_running_with_a_controller(lab):
    domain = lab.domain("plugged", channels=(), start=False)
    try:
        domain.virsh("start", "--paused")
        assert json.loads(lab.vmferry("--json", "enable", "plugged", check=True).stdout)["live"] is True
        assert count(domain.live_xml()) == [1, 1, 1] and count(definition(domain)) == [1, 1, 1]
    finally:
        domain.undefine()


def test_there_only_while_it_runs(lab, domain):
    """Without a definition nothing could be changed for later."""
    domain.virsh("start", "--paused")
    domain.virsh("undefine")
    failed(lab.vmferry("enable", domain.name), domain.name, "controller")


def test_another_device_of_that_name(lab, domain):
    xml = definition(domain).replace("</devices>", f"<channel type='pty'><target type='virtio' name='{CONTROL}'/></channel></devices>")
    with open(lab.scratch("other.xml"), "w") as file:
        file.write(xml)
    lab.libvirtd.virsh("define", lab.scratch("other.xml"))
    before = definition(domain)
    failed(lab.vmferry("enable", domain.name), CONTROL, "virsh edit")
    assert definition(domain) == before
    # The names are vmferry's: disable removes whatever has them.
    lab.vmferry("disable", domain.name, check=True)
    lab.vmferry("enable", domain.name, check=True)
    assert count(definition(domain)) == [1, 1, 1]


def test_nobody_of_that_name(lab):
    failed(lab.vmferry("enable", "nobody"), "nobody")
    failed(lab.vmferry("disable", "--dry-run", "nobody"), "nobody")
    assert lab.vmferry("enable").returncode == 2
    assert lab.vmferry("enable", "--other", "x").returncode == 2
