#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Man pages against what they describe: every option and command of --help, every key of a configuration file, every name
on the bus; and nothing that isn't there any more. Pages that man(1) complains about fail too.

    man.py BUILD
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import source

PROGRAMS = {
    "vmferry.1": "src/cli/vmferry",
    "vmferry-hostd.8": "src/hostd/vmferry-hostd",
    "vmferry-guestd.8": "src/guestd/vmferry-guestd",
}
CONFIGS = {"hostd.conf.5": "src/hostd/config.c", "guestd.conf.5": "src/guestd/config*.c"}


def page(name):
    """A page as people read it, on one long line a paragraph; None if there is no such page."""
    if not source.exists(os.path.join("man", name)):
        return None
    return man(name, width="2000").stdout


def man(name, width="80"):
    env = {**os.environ, "MANWIDTH": width, "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": "", "GROFF_NO_SGR": "1"}
    r = subprocess.run(["man", "--warnings", "-E", "ascii", "-P", "col -bx", "--nh", "--nj", "-l",
                        os.path.join(source.ROOT, "man", name)], capture_output=True, text=True, env=env)
    r.stdout = re.sub(".\b", "", r.stdout)
    return r


def check_options(name, program):
    text, problems = page(name), []
    if text is None or not os.path.exists(program):
        return []
    shown = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20)
    if shown.returncode:
        return [f"{program} --help ends with {shown.returncode}"]
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", shown.stdout))
    for option in sorted(options):
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", text):
            problems.append(f"man/{name}: nothing on {option}")
    # What stands at the beginning of a paragraph is described there.
    described = set(re.findall(r"^ +(?:-[a-zA-Z](?: \w+)?, )?(--[a-z][a-z0-9-]+)", text, re.M))
    code = "".join(source.read(p) for p in source.files(os.path.dirname(PROGRAMS[name]), (".c",)))
    for option in sorted(described - options):
        if f'"{option[2:]}"' not in code:
            problems.append(f"man/{name}: {PROGRAMS[name]} has no {option}")
    if name == "vmferry.1":
        for command in re.findall(r"^  ([a-z]+)\b", shown.stdout, re.M):
            if not re.search(rf"\b{command}\b", text):
                problems.append(f"man/{name}: nothing on the command {command}")
    return problems


def check_keys(name, pattern):
    text, problems = page(name), []
    sources = [p for p in source.files("src", (".c",)) if glob.fnmatch.fnmatch(p, pattern)]
    if text is None or not sources:
        return []
    keys = set()
    for path in sources:
        # Tables of keys: a capitalised word on its own in quotes.
        keys |= set(re.findall(r'"([A-Z][a-z]+(?:[A-Z][A-Za-z]*)*)"', source.without_comments(source.read(path))))
    keys -= {"Host", "Guest"}
    for key in sorted(keys):
        if f"{key}=" not in text:
            problems.append(f"man/{name}: nothing on {key}=")
    for key in sorted(set(re.findall(r"^ +([A-Z][a-z]+[A-Za-z]*)=", text, re.M))):
        if key not in keys:
            problems.append(f"man/{name}: {key}= is not a key of {pattern}")
    return problems


def check_bus():
    text, problems = page("org.vmferry1.5"), []
    if text is None:
        return []
    for path in source.files("data/dbus", (".xml",)):
        for interface in ET.fromstring(source.read(path)).iter("interface"):
            for tag in "method", "signal", "property":
                for member in interface.iter(tag):
                    if not re.search(rf"\b{member.get('name')}\b", text):
                        problems.append(f"man/org.vmferry1.5: nothing on {interface.get('name')}.{member.get('name')}")
    return problems


def check_form(name):
    return [f"man/{name}: {line}" for line in man(name).stderr.split("\n") if line.strip()]


def main():
    build = sys.argv[1]
    if not shutil.which("man"):
        source.skip("man is missing")
    problems = []
    for name, program in PROGRAMS.items():
        problems += check_options(name, os.path.join(build, program))
    for name, pattern in CONFIGS.items():
        problems += check_keys(name, pattern)
    problems += check_bus()
    for path in source.files("man"):
        if re.search(r"\.[1-8]$", path):
            problems += check_form(os.path.basename(path))
    source.report(problems)


main()
