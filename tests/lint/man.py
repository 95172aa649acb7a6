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
    path = os.path.join("man", name)
    if not source.exists(path):
        return None
    text = source.read(path)
    # Roff to words: fonts, escapes.
    text = re.sub(r"\\f(?:[BIRP]|\([A-Z]{2}|\[[^]]*\])", "", text)
    return text.replace("\\-", "-").replace("\\&", "").replace("\\(aq", "'").replace("\\e", "\\")


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
    described = set(re.findall(r"^\.(?:BR?|IP|TP|B|RB) .*?(--[a-z][a-z0-9-]+)", text, re.M))
    for option in sorted(described - options):
        if option in ("--now", "--user") or name == "vmferry.1" and option == "--help":
            continue
        problems.append(f"man/{name}: {option} is not in --help")
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
    for key in sorted(set(re.findall(r"^(?:\.[A-Z]+ +)?\"?([A-Z][a-z]+[A-Za-z]*)=", text, re.M))):
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


def check_form(path):
    if not shutil.which("man"):
        return []
    r = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", os.path.join(source.ROOT, path)],
                       capture_output=True, text=True, env={**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"})
    return [f"{path}: {line}" for line in r.stderr.split("\n") if line.strip()]


def main():
    build = sys.argv[1]
    problems = []
    for name, program in PROGRAMS.items():
        problems += check_options(name, os.path.join(build, program))
    for name, pattern in CONFIGS.items():
        problems += check_keys(name, pattern)
    problems += check_bus()
    for path in source.files("man"):
        if re.search(r"\.[1-8]$", path):
            problems += check_form(path)
    source.report(problems)


main()
