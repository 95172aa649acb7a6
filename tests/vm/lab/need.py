# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test cannot do without. Missing on a developer's machine it skips, in CI it fails."""

import os
import shutil
import time

import pytest

SOURCE = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


def in_ci():
    return os.environ.get("CI") == "true"


def need(found, what):
    """Returns found if there is something."""
    if not found:
        if in_ci():
            pytest.fail(f"{what} is missing", pytrace=False)
        pytest.skip(f"{what} is missing")
    return found


def tool(name):
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"
    return need(shutil.which(name, path=path), name)


def build_dir():
    path = os.environ.get("VMFERRY_BUILD") or os.path.join(SOURCE, "build")
    return need(os.path.isdir(path) and os.path.realpath(path), f"the build directory {path} (VMFERRY_BUILD)")


def built(path):
    """A file of the build directory, such as src/hostd/vmferry-hostd."""
    file = os.path.join(build_dir(), path)
    return need(os.path.exists(file) and file, file)


def guestd_program():
    """The guest's daemon: static, so not of a build with sanitizers."""
    return os.environ.get("VMFERRY_GUESTD") or built("src/guestd/vmferry-guestd")


def eventually(condition, timeout=10, what="", every=0.05):
    """Waits until condition() is true and returns what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(every)
