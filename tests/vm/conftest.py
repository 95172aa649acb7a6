# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the tests on real virtual machines. One lab and one machine are shared by the tests of a module."""

import os
import random
import signal
import sys
import threading

import pytest

sys.path.insert(0, os.path.dirname(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../peer"))

from lab import bare  # noqa: E402
from lab.host import Lab  # noqa: E402
from lab.load import Load, Pinger  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="fewer rounds, nothing slow")
    parser.addoption("--rounds", type=int, help="how often recovery is tried (20, quick: 3)")
    parser.addoption("--seed", help="of the faults' moments: what a failure has printed")
    parser.addoption("--messages", type=int, default=5000, help="how many each way, in the flood (5000)")
    parser.addoption("--commands", type=int, default=300, help="how many run one after the other, in the leak test (300)")


def pytest_configure(config):
    # Ended from outside, as Ctrl-C would: the machines and daemons go with it. xdist's workers may have another main thread.
    if threading.current_thread() is threading.main_thread():
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


@pytest.fixture
def rng(request):
    """Chance that can be had again: --seed."""
    seed = request.config.getoption("--seed") or f"{random.SystemRandom().randrange(1 << 32):x}"
    print(f"--seed {seed}")
    return random.Random(f"{seed} {request.node.name}")


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


@pytest.fixture(scope="module")
def bare_vm(lab):
    """A guest that has bare ports too, and another one, called other, beside it."""
    image = bare.image(lab)
    lab.domain("other", image, memory=256)
    domain = lab.domain("lab", image, channels=bare.CHANNELS)
    lab.client.wait_ready("lab", 90)
    lab.client.wait_ready("other", 90)
    return domain


@pytest.fixture
def load(lab, vm):
    lab.client.wait_ready("lab", 60)
    load = Load(lab)
    yield load
    load.ends.set()


@pytest.fixture
def undisturbed(lab, bare_vm):
    """The other machine, pinged throughout: not one error."""
    lab.client.wait_ready("other", 60)
    pinger = Pinger(lab.bus.address, "other", strict=True, pause=0.05)
    yield pinger
    pinger.stop()
    assert pinger.n_good > 0


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
