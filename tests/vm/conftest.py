# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the tests on real virtual machines. One lab and one machine are shared by the tests of a module."""

import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from lab.host import Lab  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="fewer rounds, nothing slow")
    parser.addoption("--rounds", type=int, help="how often recovery is tried (20, quick: 3)")
    parser.addoption("--messages", type=int, default=5000, help="how many each way, in the flood (5000)")
    parser.addoption("--commands", type=int, default=300, help="how many run one after the other, in the leak test (300)")


def pytest_configure(config):
    # Ended from outside, as Ctrl-C would: the machines and daemons go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: minutes of its own; left out with --quick")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--quick"):
        skip = pytest.mark.skip(reason="slow, and --quick was given")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def rounds(request):
    return request.config.getoption("--rounds") or (3 if request.config.getoption("--quick") else 20)


@pytest.fixture(scope="module")
def bare_lab():
    """A bus and a libvirtd."""
    lab = Lab()
    yield lab
    lab.end()


@pytest.fixture(scope="module")
def lab(bare_lab):
    """And hostd."""
    bare_lab.start_hostd()
    return bare_lab


@pytest.fixture(scope="module")
def vm(lab):
    """And a guest that is ready: its domain, called lab."""
    domain = lab.domain("lab")
    lab.client.wait_ready("lab", 90)
    return domain


@pytest.fixture
def client(lab):
    return lab.client


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the daemons said."""
    report = (yield).get_result()
    lab = item.funcargs.get("lab") or item.funcargs.get("bare_lab")
    if report.failed and isinstance(lab, Lab):
        for name in "hostd", "libvirtd":
            report.sections.append((name, lab.place.log(name)[-6000:]))
        vm = item.funcargs.get("vm")
        if vm:
            report.sections.append(("console", vm.console()[-3000:]))
