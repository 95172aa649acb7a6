#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes the vectors of the wire from man/vmferry-protocol.7 alone: no code of src/proto is in it, XXH64 included.

frames.txt: a line each, fields separated by blanks
    good NAME TYPE FLAGS STREAM SEQ SESSION BODY FRAME
    bad NAME BYTES             no frame is in these
conversation-ROLE-VERSION.txt: what one side gets ('>') and must then say ('<'), frame by frame, with a peer that speaks that
    version only; its random bytes are 'random', its own range of versions is 'versions'. Those of a version stay as they
    are for as long as it is spoken, which is for two versions more: they are what old programs said.
conversation-ROLE-VERSION-of-LATER.txt: the same, where this side speaks later versions too
Bytes are in hex, '-' for none.
"""

import json
import pathlib
import struct

MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
HELLO_REQ, HELLO, HELLO_ACK, START = 1, 2, 3, 4
PING, PONG, BYE, BYE_ACK = 8, 9, 10, 11
REQUEST, REPLY, NOTIFY = 16, 17, 18
OPEN, OPENED, DATA, EOF, RESET, CREDIT, ACK = 32, 33, 34, 35, 36, 37, 38
MORE = 1


def rotl(x, n):
    return ((x << n) | (x >> (64 - n))) & MASK


def mix(acc, lane):
    return rotl((acc + lane * P2) & MASK, 31) * P1 & MASK


def xxh64(data, seed=0):
    at = 0
    if len(data) >= 32:
        acc = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed, (seed - P1) & MASK]
        while at + 32 <= len(data):
            for i, lane in enumerate(struct.unpack_from("<4Q", data, at)):
                acc[i] = mix(acc[i], lane)
            at += 32
        h = (rotl(acc[0], 1) + rotl(acc[1], 7) + rotl(acc[2], 12) + rotl(acc[3], 18)) & MASK
        for a in acc:
            h = ((h ^ mix(0, a)) * P1 + P4) & MASK
    else:
        h = (seed + P5) & MASK
    h = (h + len(data)) & MASK
    while at + 8 <= len(data):
        h = (rotl(h ^ mix(0, struct.unpack_from("<Q", data, at)[0]), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= len(data):
        h = (rotl(h ^ (struct.unpack_from("<I", data, at)[0] * P1 & MASK), 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        h = rotl(h ^ (byte * P5 & MASK), 11) * P1 & MASK
    h = (h ^ (h >> 33)) * P2 & MASK
    h = (h ^ (h >> 29)) * P3 & MASK
    return h ^ (h >> 32)


def header(type_, body, flags=0, stream=0, seq=0, session=0, version=1, length=None):
    return bytes.fromhex("a3766d66d11f8c0e") + struct.pack(
        "<BBHIIIQ", version, type_, flags, stream, seq, len(body) if length is None else length, session
    )


def frame(type_, body=b"", **fields):
    head = header(type_, body, **fields)
    check = xxh64(head, 0x766D666572727931)
    seal = xxh64(b"" if type_ == DATA else body, check)
    return head + struct.pack("<Q", check) + body + struct.pack("<Q", seal)


def text(value):
    return json.dumps(value, separators=(",", ":")).encode()


def hexed(data):
    return data.hex() or "-"


def frames():
    good = [
        ("hello-req", HELLO_REQ, 0, 0, 0, 0, b"{}"),
        ("hello", HELLO, 0, 0, 0, 0, text({"port": "data", "version": [1, 1], "nonce": "00" * 16})),
        ("ping", PING, 0, 0, 7, 0x1122334455667788, b"abcdefgh"),
        ("bye", BYE, 0, 0, 8, 1, b""),
        ("request", REQUEST, 0, 0xFFFFFFFF, 0xFFFFFFFF, MASK, text({"method": "data.open"})),
        ("payload", NOTIFY, 0, 0, 2, 3, b"{}\0\0\1\2"),
        ("fragment", REPLY, MORE, 5, 2, 3, b'{"a":'),
        ("unknown-flags", NOTIFY, 0xFFFE, 0, 2, 3, b"{}"),
        ("unknown-type", 200, 0, 0, 2, 3, b"?"),
        ("data", DATA, 0, 1, 4, 5, bytes(range(256))),
        ("data-empty", DATA, 0, 1, 4, 5, b""),
        ("credit", CREDIT, 0, 1, 4, 5, struct.pack("<I", 131072)),
        ("ack", ACK, 0, 0, 4, 5, struct.pack("<QI", 1 << 40, 77)),
    ]
    for name, type_, flags, stream, seq, session, body in good:
        data = frame(type_, body, flags=flags, stream=stream, seq=seq, session=session)
        yield f"good {name} {type_} {flags} {stream} {seq} {session} {hexed(body)} {hexed(data)}"

    one = frame(NOTIFY, b'{"a":1}', seq=1, session=2)
    bulk = frame(DATA, b"content", stream=1, seq=1, session=2)
    bad = [
        ("half", one[:-1]),
        ("magic", b"\xa2" + one[1:]),
        ("check", one[:32] + bytes([one[32] ^ 1]) + one[33:]),
        ("seal", one[:-1] + bytes([one[-1] ^ 0x80])),
        ("body", one[:40] + b"[" + one[41:]),
        ("bulk-seal", bulk[:-1] + bytes([bulk[-1] ^ 1])),
        ("bulk-cut", bulk[:-11] + one[:30]),
        ("layout-version", frame(NOTIFY, b"{}", version=2)),
        ("too-long", frame(NOTIFY, b"", length=32721) + bytes(200)),
        ("four-gib", frame(NOTIFY, b"", length=0xFFFFFFFF) + bytes(200)),
        ("garbage", bytes(i * 167 & 0xFF for i in range(2000))),
    ]
    for name, data in bad:
        yield f"bad {name} {hexed(data)}"


def conversation_host(latest=1):
    host, guest = bytes([0x11] * 16), bytes(range(16))
    session = xxh64(host + guest) or 1
    yield f"versions 1 {latest}"
    yield "random 11"
    yield "< " + hexed(frame(HELLO, text({"port": "control", "version": [1, latest], "nonce": host.hex()})))
    ack = {"agent": "0.1.0", "capabilities": ["exec"], "version": 1, "nonce": guest.hex(), "echo": host.hex()}
    yield "> " + hexed(frame(HELLO_ACK, text(ack)))
    yield "< " + hexed(frame(START, text({"echo": guest.hex()}), session=session))
    yield "> " + hexed(frame(PING, b"12345678", session=session))
    yield "< " + hexed(frame(PONG, b"12345678", session=session, seq=1))
    yield "> " + hexed(frame(NOTIFY, text({"method": "process.exited"}), session=session, seq=1))
    yield "> " + hexed(frame(BYE, session=session, seq=2))
    yield "< " + hexed(frame(BYE_ACK, session=session, seq=2))


def conversation_guest(latest=1):
    host, guest = bytes(range(16, 32)), bytes([0x22] * 16)
    session = xxh64(host + guest) or 1
    yield f"versions 1 {latest}"
    yield "random 22"
    yield "< " + hexed(frame(HELLO_REQ, b"{}"))
    yield "> " + hexed(frame(HELLO, text({"port": "data", "version": [1, 1], "nonce": host.hex()})))
    yield "< " + hexed(frame(HELLO_ACK, text({"version": 1, "nonce": guest.hex(), "echo": host.hex()})))
    yield "> " + hexed(frame(START, text({"echo": guest.hex()}), session=session))
    yield "> " + hexed(frame(DATA, b"nobody's", stream=1, session=session, seq=1))
    yield "> " + hexed(frame(BYE, session=session, seq=2))
    yield "< " + hexed(frame(ACK, struct.pack("<QI", 8, 1), session=session))
    yield "< " + hexed(frame(BYE_ACK, session=session, seq=1))


def main():
    here = pathlib.Path(__file__).parent
    for name, lines in [
        ("frames.txt", frames()),
        ("conversation-host-1.txt", conversation_host()),
        ("conversation-guest-1.txt", conversation_guest()),
        ("conversation-host-1-of-3.txt", conversation_host(3)),
        ("conversation-guest-1-of-3.txt", conversation_guest(3)),
    ]:
        (here / name).write_text("".join(line + "\n" for line in lines))


if __name__ == "__main__":
    main()
