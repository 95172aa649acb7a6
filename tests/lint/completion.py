#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completions against the commands: every option that a command's own table has is offered by both, in one of its
spellings; and what bash makes of the words of cp."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

import source

BASH, ZSH = "data/completion/vmferry.bash", "data/completion/_vmferry"


def commands():
    """(command, [(long, short or None)]) of each command that reads its options itself."""
    for path in source.files("src/cli", (".c",)):
        text = source.without_comments(source.read(path))
        for match in re.finditer(r"^int command_(\w+)\([^)]*\)\n\{(.*?)^\}", text, re.S | re.M):
            table = re.search(r"struct option options\[\] = \{(.*?)\};", match[2], re.S)
            letters = re.search(r'getopt_long\(argc, argv, "([^"]*)"', match[2])
            if table and letters:
                yield match[1], [(name, short if short in letters[1] else None)
                                 for name, short in re.findall(r'\{ "([\w-]+)", \w+, NULL, \'(.)\' \}', table[1])]


def bash(*words, directory=None):
    """What is offered for the last of the words, as bash has split them."""
    script = (f"source {os.path.join(source.ROOT, BASH)}; compopt() {{ :; }}\n"
              "vmferry() { printf '%s\\n' '{\"Name\":\"web01\"}' '{\"Name\":\"web02\"}'; }\n"
              'COMP_WORDS=(vmferry "$@"); COMP_CWORD=$#; _vmferry; printf "%s\\n" "${COMPREPLY[@]}"')
    r = subprocess.run(["bash", "-c", script, "-", *words], capture_output=True, text=True, cwd=directory, check=True)
    return set(r.stdout.split("\n")) - {""}


def zsh(command):
    """The words of its line."""
    match = re.search(rf"^ +(?:\w+\|)*{command}(?:\|\w+)*\) (.*?);;", source.read(ZSH), re.S | re.M)
    return set(re.findall(r"(?<![\w-])--?[\w-]+", match[1])) if match else set()


def check_options():
    problems, n = [], 0
    for command, options in commands():
        offered = {BASH: {word.rstrip("=") for word in bash(command, "-")}, ZSH: zsh(command)}
        for name, short in options:
            n += 1
            for path, words in offered.items():
                if f"--{name}" not in words and f"-{short}" not in words:
                    problems.append(f"{path}: {command} has --{name}")
    return problems if n > 10 else problems + ["no options were found"]


def check_copy():
    with tempfile.TemporaryDirectory() as directory:
        for name in "etc", "elsewhere", "web03":
            os.mkdir(os.path.join(directory, name))
        cases = [
            (("cp", "e"), {"etc", "elsewhere"}),
            (("cp", "we"), {"web01:", "web02:", "web03"}),
            (("cp", "f", "./e"), {"./etc", "./elsewhere"}),
            # A path in the guest, with the colon as a word of its own or not: nothing here is in it.
            (("cp", "f", "web01", ":", "e"), set()),
            (("cp", "f", "web01", ":", directory + "/e"), set()),
            (("cp", "f", "web01", ":"), set()),
            (("cp", "f", "web01:" + directory + "/e"), set()),
            (("cp", "web01", ":", "/etc/x", "e"), {"etc", "elsewhere"}),
            (("cp", "--overwrite", ""), {"replace", "fail", "update"}),
            (("cp", "--overwrite", "=", "f"), {"fail"}),
        ]
        return [f"{BASH}: {words} offers {bash(*words, directory=directory)}, not {expected}" for words, expected in cases
                if bash(*words, directory=directory) != expected]


def main():
    if not shutil.which("bash"):
        source.skip("bash is missing")
    problems = check_options() + check_copy()
    if shutil.which("zsh"):
        r = subprocess.run(["zsh", "-n", os.path.join(source.ROOT, ZSH)], capture_output=True, text=True)
        problems += [f"{ZSH}: {line}" for line in r.stderr.split("\n") if line]
    source.report(problems)


sys.stdout.reconfigure(errors="replace")
main()
