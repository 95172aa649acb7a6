#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The form of files: an SPDX line, a description of the room, no more than 700 lines, no wider than .editorconfig says,
no tabs, no blanks at line ends, one end of line at the end, no leftovers."""

import os
import re

import source

LICENCE = "SPDX-License-Identifier: LGPL-2.1-or-later"
LINES_MAX = 700
COLUMNS_MAX = int(re.search(r"max_line_length = (\d+)", source.read(".editorconfig"))[1])
CODE = (".c", ".h")
TEXT = (".c", ".h", ".py", ".build", ".in", ".sh", ".service", ".rules", ".target", ".xml", ".policy", ".conf", ".md", ".yml")
# No comments in these, or not ours.
WITHOUT_LICENCE = ("LICENSE", ".md", ".json", ".svg", ".png", ".bin", ".gitignore", ".editorconfig", ".clang-format",
                   "tests/vectors/", "tests/vm/guest-root/", "debian/",
                   "benchmarks/results", "tests/old/", "examples/actions")


def is_text(path):
    with open(os.path.join(source.ROOT, path), "rb") as file:
        return b"\0" not in file.read(8192)


def check_licence(path, text):
    if "/corpus/" in path or any(path.endswith(e) or path.startswith(e) for e in WITHOUT_LICENCE):
        return []
    if LICENCE not in "\n".join(text.split("\n")[:4]):
        return [f"{path}:1: no {LICENCE}"]
    return []


def check_room(path, text):
    """A source file says what it is; where it has a header of its own, that may do it."""
    if not path.startswith("src/") or not path.endswith(".c"):
        return []
    head = text.split("\n#include", 1)[0]
    block = re.search(r"/\*(?! SPDX).*?\*/", head, re.S)
    if not block:
        # process-start.c: process-start.h or process.h.
        stem = path[:-2]
        while stem:
            if source.exists(stem + ".h") and re.search(r"/\*(?! SPDX).*?\*/", source.read(stem + ".h"), re.S):
                return []
            stem = stem.rpartition("-")[0]
        return [f"{path}:1: no words on what this file is"]
    if block[0].count("\n") + 1 > 14:
        return [f"{path}:1: the description has more than ten lines"]
    return []


def check_form(path, text):
    problems = []
    lines = text.split("\n")
    if text and not text.endswith("\n") or text.endswith("\n\n"):
        problems.append(f"{path}:{len(lines)}: not one end of line at the end")
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            problems.append(f"{path}:{number}: blanks at the end")
        if path.endswith(CODE):
            if "\t" in line:
                problems.append(f"{path}:{number}: a tab")
            if len(line) > COLUMNS_MAX:
                problems.append(f"{path}:{number}: {len(line)} columns")
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
                problems.append(f"{path}:{number}: unfinished")
    if path.endswith(CODE + (".py",)) and len(lines) - 1 > LINES_MAX:
        problems.append(f"{path}: {len(lines) - 1} lines: this is two rooms")
    return problems


def main():
    problems = []
    for path in source.files():
        if os.path.islink(os.path.join(source.ROOT, path)) or not is_text(path):
            continue
        text = source.read(path)
        problems += check_licence(path, text)
        problems += check_room(path, text)
        if path.endswith(TEXT):
            problems += check_form(path, text)
    source.report(problems)


main()
