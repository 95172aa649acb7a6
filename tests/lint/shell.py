#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shell scripts through shellcheck."""

import re
import shutil
import subprocess

import source


def main():
    if not shutil.which("shellcheck"):
        source.skip("shellcheck is missing")
    scripts = [p for p in source.files() if re.match(r"#!/(usr/)?bin/(env )?(ba)?sh\b", source.read(p)[:40])]
    r = subprocess.run(["shellcheck", "--severity=warning", *scripts], cwd=source.ROOT, capture_output=True, text=True)
    source.report([r.stdout] if r.returncode else [])


main()
