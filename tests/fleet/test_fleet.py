# SPDX-License-Identifier: LGPL-2.1-or-later
"""A hundred guests at once, some of which are slow, break off, send half frames, or lie: hostd serves the others, answers every
caller, and has everybody back."""

import os

import pytest

from fleet import NAME, PATH, Fleet, GLib

N = 100
NAMED = ("Interrupted", "NotReady", "Timeout")


def manager(method, signature, *arguments):
    return (PATH, NAME + ".Manager", method, signature, arguments)


def echo(name, text="hello"):
    return manager("Call", "(sssa{sv})", name, "echo", text, {})


@pytest.fixture(params=[{}, {"latency": 20, "chatter": 2}, {"drop": 5000, "garble": 5000, "half": 5000, "close": 5000, "seed": 7},
                        {"liars": 20}], ids=["honest", "slow and chatty", "faulty", "liars"])
def fleet(request):
    fleet = Fleet(N, **request.param)
    fleet.is_faulty = "close" in request.param
    try:
        fleet.hostd.start()
        fleet.wait_all(20)
        yield fleet
    finally:
        fleet.end()


def test_everybody_is_served(fleet):
    """Each caller is answered: by the guest's words, or where links break by the name of what happened."""
    n_good = 0
    for _ in range(5):
        for result in fleet.calls([echo(f"g{i}") for i in range(N)], 30):
            if result == ("hello",):
                n_good += 1
                continue
            assert fleet.is_faulty and isinstance(result, GLib.Error), result
            assert any(f"org.vmferry1.Error.{name}" in result.message for name in NAMED), result.message
    assert n_good == 5 * N or fleet.is_faulty and n_good > 2 * N
    # All of them lose their connection at once.
    before = fleet.hostd.n_fds()
    fleet.lose_all()
    fleet.wait_all(20)
    assert fleet.hostd.n_fds() <= before + 2  # a holder may be looked for
    # And hostd is killed.
    fleet.hostd.restart()
    fleet.wait_all(20)


def test_pulls(fleet):
    if fleet.is_faulty:
        pytest.skip("what becomes of transfers over bad links is tested with real guests")
    directory = fleet.place.directory("out", owned=True)
    os.chmod(directory, 0o777)
    started = fleet.calls([manager("Pull", "(sssa{sv})", f"g{i}", "/file", f"{directory}/{i}", {}) for i in range(20)])
    for _, path in started:
        properties = fleet.client.wait_job(path, 30)
        assert properties["State"] == "done", properties
    assert {os.path.getsize(os.path.join(directory, name)) for name in os.listdir(directory)} == {1 << 20}
    assert len(os.listdir(directory)) == 20
