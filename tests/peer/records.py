# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records of a transfer, written from vmferry-protocol(7): right ones, and whatever a liar would put into them."""

import struct

from hostpeer import xxh64

TOTALS, ENTRY, DATA, FILE_END, LEAVE, FAILED, END = range(1, 8)
WANT, ACK, DONE = 16, 17, 18
FILE, DIRECTORY, SYMLINK, HARDLINK = range(1, 5)
UNKNOWN = (1 << 64) - 1


def record(kind, body=b"", flags=0, length=None):
    return struct.pack("<BBHI", kind, flags, 0, len(body) if length is None else length) + body


def totals(n_bytes=UNKNOWN, n_files=UNKNOWN):
    return record(TOTALS, struct.pack("<QQQ", n_bytes, n_files, n_bytes))


def entry(kind, path=b"", *, target=b"", size=0, mode=0o644, mtime=1, offer=False, n_path=None):
    path, target = (s.encode() if isinstance(s, str) else s for s in (path, target))
    return record(ENTRY, struct.pack("<BBHIQqIIIHHHH", kind, 0, 0, mode, size, mtime, 0, 0, 0,
                                     len(path) if n_path is None else n_path, len(target), 0, 0)
                  + path + b"\0" + target + b"\0\0\0", int(offer))


def data(number, offset, content):
    return record(DATA, struct.pack("<QQ", number, offset) + content)


def file_end(number, content, size=None, digest=None):
    return record(FILE_END, struct.pack("<QQQ", number, len(content) if size is None else size,
                                        xxh64(content) if digest is None else digest))


def leave():
    return record(LEAVE)


def end():
    return record(END)


def failed(number, error="NotFound", text="gone", path="", skipped=False):
    return record(FAILED, struct.pack("<Q", number) + b"".join(s.encode() + b"\0" for s in (error, text, path)), int(skipped))


def want(number, what=0):
    return record(WANT, struct.pack("<QB", number, what))


def ack(n_settled, n_bytes, n_files):
    return record(ACK, struct.pack("<QQQ", n_settled, n_bytes, n_files))


def done(n_files=1, n_bytes=0, n_failed=0, digest=0, error="", text="", path=""):
    return record(DONE, struct.pack("<QQQQ", n_files, n_bytes, n_failed, digest)
                  + b"".join(s.encode() + b"\0" for s in (error, text, path)))


def split(buf):
    """Takes the whole records of a bytearray: [(type, flags, body)]."""
    found = []
    while len(buf) >= 8:
        kind, flags, _, length = struct.unpack("<BBHI", buf[:8])
        if len(buf) < 8 + length:
            break
        found.append((kind, flags, bytes(buf[8:8 + length])))
        del buf[:8 + length]
    return found


def file(content, number=0, path=b"", size=None):
    """One whole file."""
    return (entry(FILE, path, size=len(content) if size is None else size) + (data(number, 0, content) if content else b"")
            + file_end(number, content))
