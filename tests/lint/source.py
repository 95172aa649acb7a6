# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree as the lints see it: the files that git knows or could know, and where the build is."""

import os
import re
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
LEFT_OUT = {".git", "__pycache__", ".cache", ".pytest_cache"}


def files(below="", suffixes=()):
    """Paths relative to the root, sorted; no build directories."""
    found = []
    for directory, names, file_names in os.walk(os.path.join(ROOT, below)):
        names[:] = [n for n in names if n not in LEFT_OUT and not n.startswith("build")
                    and not os.path.exists(os.path.join(directory, n, "build.ninja"))]
        for name in file_names:
            if name not in LEFT_OUT and (not suffixes or name.endswith(tuple(suffixes))):
                found.append(os.path.relpath(os.path.join(directory, name), ROOT))
    return sorted(found)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def exists(path):
    return os.path.exists(os.path.join(ROOT, path))


def without_comments(text):
    return re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)


def report(problems):
    """Prints them and ends: 1 if there are any."""
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


def skip(why):
    """Meson's skip; in CI a failure."""
    print(why)
    sys.exit(1 if os.environ.get("CI") == "true" else 77)
