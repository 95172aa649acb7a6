#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The AppArmor profile and the SELinux module through their own compilers. Whether a kernel agrees is not seen here."""

import os
import shutil
import subprocess
import sys
import tempfile

import source

DEVEL = "/usr/share/selinux/devel/Makefile"


def run(argv, **kw):
    r = subprocess.run(argv, capture_output=True, text=True, **kw)
    return [f"{' '.join(argv)}: {r.stdout}{r.stderr}"] if r.returncode else []


def main():
    profile = os.path.join(sys.argv[1], "data/apparmor/vmferry-hostd")
    parser = shutil.which("apparmor_parser", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not parser or not os.path.exists(DEVEL):
        source.skip("apparmor or selinux-policy-dev is missing")
    problems = run([parser, "--skip-kernel-load", "--skip-cache", profile])
    with tempfile.TemporaryDirectory(prefix="vmferry-selinux-") as directory:
        for end in "te", "fc":
            shutil.copy(os.path.join(source.ROOT, f"data/selinux/vmferry.{end}"), directory)
        problems += run(["make", "-f", DEVEL, "vmferry.pp"], cwd=directory)
    source.report(problems)


main()
