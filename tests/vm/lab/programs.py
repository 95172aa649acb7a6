# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of this machine for a guest of busybox: what an Image's `files` need to carry them there."""

import os
import shutil
import subprocess

from .need import need


def program(path, to=None):
    """An executable and the libraries that it loads."""
    need(path and os.path.exists(path), path or "a program")
    real = os.path.realpath(path)
    files = [(real, to or path)]
    for line in subprocess.run(["ldd", real], capture_output=True, text=True).stdout.splitlines():
        library = next((word for word in line.split() if word.startswith("/")), None)
        if library:
            files.append((os.path.realpath(library), library))
    return files


def vim():
    """A vim without its runtime files, and what it knows of terminals."""
    files = program(need(shutil.which("vim"), "vim"), "/usr/bin/vim")
    for name in "screen", "xterm", "tmux-256color", "screen-256color":
        for root in "/lib/terminfo", "/usr/share/terminfo":
            entry = os.path.join(root, name[0], name)
            if os.path.exists(entry):
                files.append((os.path.realpath(entry), entry))
                break
    return files


def python(place):
    """Python with the modules that a small program needs."""
    interpreter = need(os.path.exists("/usr/bin/python3") and os.path.realpath("/usr/bin/python3"), "/usr/bin/python3")
    version = os.path.basename(interpreter)
    source = os.path.join("/usr/lib", version)
    library = place.directory("python", "lib")
    for name in os.listdir(source):
        path = os.path.join(source, name)
        if name.endswith(".py"):
            shutil.copy(path, library)
        elif name in ("encodings", "json", "re", "collections", "importlib", "lib-dynload"):
            shutil.copytree(path, os.path.join(library, name), ignore=shutil.ignore_patterns("__pycache__", "*test*"))
    # Compiling takes half a minute under emulation.
    subprocess.run([interpreter, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", library], check=True)
    return program(interpreter, "/usr/bin/python3") + [(library, source)]
