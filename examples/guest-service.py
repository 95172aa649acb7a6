#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serves the topic "disk-free" in a guest: on the host, `vmferry call GUEST disk-free /var` is answered with the free
bytes of that file system, and each message to "disk-watch" is published back. See vmferry-guestd.sock(5)."""
import json
import shutil
import socket

sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/vmferry/guestd.sock")
lines = sock.makefile("r", encoding="utf-8")


def say(**line):
    sock.sendall(json.dumps(line).encode() + b"\n")


say(method="serve", topic="disk-free")
say(method="subscribe", topic="disk-watch")
for line in map(json.loads, lines):
    event, path = line.get("event"), line.get("text") or "/"
    if "error" in line:
        raise SystemExit(f"guestd: {line['error']}: {line['message']}")
    try:
        if event == "call":
            say(method="answer", call=line["call"], text=str(shutil.disk_usage(path).free))
        elif event == "message":
            say(method="publish", topic="disk-free", text=f"{path} {shutil.disk_usage(path).free}")
    except OSError as e:
        if event == "call":
            say(method="answer", call=line["call"], error=str(e))
