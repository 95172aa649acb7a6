# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's side of the wire, written from vmferry-protocol(7) and from nothing else.

A HostPeer owns one socket of a virtio-serial port (or any stream socket to a guest) and speaks either port of it. It shares
no code with src/proto, so that a misreading in one shows in the other. It can lie: every frame can be made by hand with
frame() and written with write().
"""

import ctypes
import ctypes.util
import json
import os
import select
import socket
import struct
import time

_xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
_xxhash.XXH64.restype = ctypes.c_uint64
_xxhash.XXH64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def xxh64(data, seed=0):
    return _xxhash.XXH64(bytes(data), len(data), seed)


MAGIC = bytes([0xA3, 0x76, 0x6D, 0x66, 0xD1, 0x1F, 0x8C, 0x0E])
SEED = 0x766D666572727931
HEADER, SEAL, FRAME_MAX = 40, 8, 32768
BODY_MAX = FRAME_MAX - HEADER - SEAL
MORE = 1

HELLO_REQ, HELLO, HELLO_ACK, START = 1, 2, 3, 4
PING, PONG, BYE, BYE_ACK = 8, 9, 10, 11
REQUEST, REPLY, NOTIFY = 16, 17, 18
OPEN, OPENED, DATA, EOF, RESET, CREDIT, ACK = 32, 33, 34, 35, 36, 37, 38

STREAM_CREDIT = 524288
WINDOW_BYTES, WINDOW_FRAMES = 1048576, 96


class PeerError(Exception):
    pass


class Remote(PeerError):
    """The guest answered with an error."""

    def __init__(self, body):
        self.name = body.get("error", "Failed")
        self.body = body
        super().__init__(f"{self.name}: {body.get('message', '')}")


def frame(kind, body=b"", *, flags=0, stream=0, seq=0, session=0, version=1, length=None):
    """One whole frame; every field can be wrong on purpose."""
    head = MAGIC + struct.pack(
        "<BBHIIIQ", version, kind, flags, stream, seq, len(body) if length is None else length, session
    )
    check = xxh64(head, SEED)
    seal = xxh64(b"" if kind == DATA else body, check)
    return head + struct.pack("<Q", check) + body + struct.pack("<Q", seal)


def parse(buf):
    """Takes one frame from a bytearray: (type, flags, stream, seq, session, body), or None. Hunts byte by byte."""
    while True:
        at = buf.find(MAGIC)
        if at < 0:
            del buf[: max(0, len(buf) - len(MAGIC) + 1)]
            return None
        del buf[:at]
        if len(buf) < HEADER:
            return None
        version, kind, flags, stream, seq, length, session = struct.unpack("<BBHIIIQ", buf[8:32])
        (check,) = struct.unpack("<Q", buf[32:40])
        if version != 1 or length > BODY_MAX or check != xxh64(buf[:32], SEED):
            del buf[:1]
            continue
        whole = HEADER + length + SEAL
        if len(buf) < whole:
            return None
        body = bytes(buf[HEADER : HEADER + length])
        (seal,) = struct.unpack("<Q", buf[whole - SEAL : whole])
        if seal != xxh64(b"" if kind == DATA else body, check):
            del buf[:1]
            continue
        del buf[:whole]
        return kind, flags, stream, seq, session, body


def split_message(body):
    text, nul, payload = body.partition(b"\0")
    return json.loads(text), payload if nul else b""


class Stream:
    def __init__(self, ident):
        self.id = ident
        self.opened = None
        self.reset = None
        self.data = bytearray()
        self.ended = False
        self.room = STREAM_CREDIT
        self.untold = 0


class HostPeer:
    def __init__(self, path=None, *, sock=None, port="control", timeout=20.0, hello=None):
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(path)
        self.sock = sock
        self.sock.setblocking(False)
        self.port, self.timeout = port, timeout
        self.hello_extra = {"agent": "hostpeer", **(hello or {})}
        self.buf = bytearray()
        self.session = 0
        self.seq_out = self.seq_in = 0
        self.last_request = self.last_stream = 0
        self.guest = None
        self.n_hello_req = 0
        self.requests = []  # (id, json, payload) of the guest, unanswered
        self.notifications = []
        self.replies, self.pongs, self.partial, self.streams = {}, [], {}, {}
        self.got_bye = self.got_bye_ack = False
        self.got_bytes = self.got_frames = 0
        self.told_bytes = self.told_frames = 0
        self.sent_bytes = self.sent_frames = 0
        self.acked_bytes = self.acked_frames = 0

    # Bytes.

    def write(self, data, timeout=None):
        end = time.monotonic() + (timeout or self.timeout)
        view = memoryview(data)
        while view:
            readable, writable, _ = select.select([self.sock], [self.sock], [], max(0, end - time.monotonic()))
            if not readable and not writable:
                raise PeerError("the guest takes no bytes")
            if readable:
                self._read()
            if writable:
                try:
                    view = view[self.sock.send(view, socket.MSG_NOSIGNAL) :]
                except BlockingIOError:
                    pass

    def _read(self):
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        if not data:
            raise EOFError("the port was closed")
        self.buf += data

    def send(self, kind, body=b"", *, flags=0, stream=0):
        self.write(frame(kind, body, flags=flags, stream=stream, seq=self.seq_out, session=self.session))
        self.seq_out = (self.seq_out + 1) & 0xFFFFFFFF

    def _next_frame(self, end):
        while True:
            found = parse(self.buf)
            if found:
                return found
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                return None
            self._read()

    # The handshake.

    def handshake(self, timeout=None, versions=(1, 1)):
        """Says HELLO every 2 seconds until the guest has answered; returns its HELLO_ACK."""
        end = time.monotonic() + (timeout or self.timeout)
        nonce, due = None, 0.0
        while time.monotonic() < end:
            if time.monotonic() >= due:
                nonce, due = os.urandom(16), time.monotonic() + 2
                hello = {"port": self.port, "version": list(versions), "nonce": nonce.hex(), **self.hello_extra}
                self.write(frame(HELLO, json.dumps(hello).encode()), max(0.1, end - time.monotonic()))
            found = self._next_frame(min(due, end))
            if not found:
                continue
            kind, _, _, _, session, body = found
            if kind == HELLO_REQ and session == 0:
                self.n_hello_req += 1
                due = 0.0
            if kind != HELLO_ACK or session != 0:
                continue
            ack = json.loads(body)
            if ack.get("echo") != nonce.hex():
                continue
            if not versions[0] <= ack["version"] <= versions[1]:
                raise PeerError(f"incompatible: {ack}")
            self._begin(nonce, ack)
            return ack
        raise PeerError("no HELLO_ACK")

    def _begin(self, nonce, ack):
        self.session = xxh64(nonce + bytes.fromhex(ack["nonce"])) or 1
        self.seq_out = self.seq_in = 0
        self.last_request = self.last_stream = 0
        self.replies, self.pongs, self.partial, self.streams = {}, [], {}, {}
        self.got_bytes = self.got_frames = self.told_bytes = self.told_frames = 0
        self.sent_bytes = self.sent_frames = self.acked_bytes = self.acked_frames = 0
        self.guest = ack
        self.send(START, json.dumps({"echo": ack["nonce"]}).encode())

    # A session.

    def step(self, timeout):
        """Takes one frame of the session; False when none came. A new HELLO_REQ ends the session: PeerError."""
        found = self._next_frame(time.monotonic() + timeout)
        if not found:
            return False
        kind, flags, stream, seq, session, body = found
        if kind == HELLO_REQ and session == 0:
            self.n_hello_req += 1
            raise PeerError("the guest has ended the session")
        if session != self.session or not session:
            return True
        if seq != self.seq_in:
            raise PeerError(f"frame {seq} where {self.seq_in} is due")
        self.seq_in = (self.seq_in + 1) & 0xFFFFFFFF
        self._take(kind, flags, stream, body)
        return True

    def _take(self, kind, flags, stream, body):
        if kind == PING:
            self.send(PONG, body)
        elif kind == PONG:
            self.pongs.append(body)
        elif kind == BYE:
            self.got_bye = True
            self.send(BYE_ACK)
        elif kind == BYE_ACK:
            self.got_bye_ack = True
        elif kind in (REQUEST, REPLY, NOTIFY, OPENED, RESET):
            whole = self.partial.pop((kind, stream), b"") + body
            if flags & MORE:
                self.partial[kind, stream] = whole
            else:
                self._take_message(kind, stream, *split_message(whole))
        elif kind == DATA:
            self._take_data(stream, body)
        elif kind == EOF:
            if stream in self.streams:
                self.streams[stream].ended = True
            self._tell()
        elif kind == CREDIT:
            if stream in self.streams:
                self.streams[stream].room += struct.unpack("<I", body)[0]
        elif kind == ACK:
            self.acked_bytes, self.acked_frames = struct.unpack("<QI", body)

    def _take_message(self, kind, stream, body, payload):
        if kind == REQUEST:
            self.requests.append((stream, body, payload))
        elif kind == REPLY:
            self.replies[stream] = (body, payload)
        elif kind == NOTIFY:
            self.notifications.append(body)
        elif stream in self.streams:
            setattr(self.streams[stream], "opened" if kind == OPENED else "reset", body)

    def _take_data(self, stream, body):
        self.got_bytes += len(body)
        self.got_frames += 1
        s = self.streams.get(stream)
        if s:
            s.data += body
            s.untold += len(body)
            if s.untold >= 131072:
                self.send(CREDIT, struct.pack("<I", s.untold), stream=stream)
                s.untold = 0
        if self.got_bytes - self.told_bytes >= 131072 or self.got_frames - self.told_frames >= 16:
            self._tell()

    def _tell(self):
        self.told_bytes, self.told_frames = self.got_bytes, self.got_frames
        self.send(ACK, struct.pack("<QI", self.got_bytes, self.got_frames))

    def wait(self, condition, timeout=None, what="it"):
        end = time.monotonic() + (timeout or self.timeout)
        while not condition():
            left = end - time.monotonic()
            if left <= 0 or (not self.step(left) and not condition()):
                raise TimeoutError(f"{what} did not happen")

    def settle(self, seconds):
        """Takes whatever comes in this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step(max(0, end - time.monotonic()))

    def ping(self, timeout=None):
        cookie, start = os.urandom(8), time.monotonic()
        self.send(PING, cookie)
        self.wait(lambda: cookie in self.pongs, timeout, "PONG")
        return time.monotonic() - start

    def _message(self, kind, stream, body, payload):
        whole = json.dumps(body).encode() + (b"\0" + payload if payload is not None else b"")
        while len(whole) > BODY_MAX:
            self.send(kind, whole[:BODY_MAX], flags=MORE, stream=stream)
            whole = whole[BODY_MAX:]
        self.send(kind, whole, stream=stream)

    def ask(self, method, payload=None, **parameters):
        """Sends a request and returns its id."""
        self.last_request += 1
        self._message(REQUEST, self.last_request, {"method": method, **parameters}, payload)
        return self.last_request

    def answer_to(self, ident, timeout=None):
        self.wait(lambda: ident in self.replies, timeout, "REPLY")
        body, payload = self.replies.pop(ident)
        if "error" in body:
            raise Remote(body)
        return body, payload

    def request(self, method, payload=None, patience=None, **parameters):
        """(JSON, payload) of the answer; Remote if it is an error. patience: seconds; a `timeout` is the guest's, in µs."""
        return self.answer_to(self.ask(method, payload, **parameters), patience)

    def reply(self, ident, body=None, payload=None):
        self.requests = [r for r in self.requests if r[0] != ident]
        self._message(REPLY, ident, body or {}, payload)

    def notify(self, method, **parameters):
        self._message(NOTIFY, 0, {"method": method, **parameters}, None)

    def bye(self, timeout=None):
        self.send(BYE)
        self.wait(lambda: self.got_bye_ack, timeout, "BYE_ACK")

    # Streams, on the data port.

    def open_stream(self, kind, patience=None, **parameters):
        self.last_stream += 1
        s = self.streams[self.last_stream] = Stream(self.last_stream)
        self._message(OPEN, s.id, {"kind": kind, **parameters}, None)
        self.wait(lambda: s.opened is not None or s.reset is not None, patience, "OPENED")
        if s.reset is not None:
            raise Remote(s.reset)
        return s

    def send_data(self, s, data, timeout=None):
        view = memoryview(bytes(data))
        while view:
            self.wait(
                lambda: s.reset is not None
                or (
                    s.room > 0
                    and self.sent_bytes - self.acked_bytes < WINDOW_BYTES - BODY_MAX
                    and self.sent_frames - self.acked_frames < WINDOW_FRAMES
                ),
                timeout,
                "room",
            )
            if s.reset is not None:
                raise Remote(s.reset)
            piece = view[: min(BODY_MAX, s.room)]
            self.send(DATA, bytes(piece), stream=s.id)
            s.room -= len(piece)
            self.sent_bytes += len(piece)
            self.sent_frames += 1
            view = view[len(piece) :]

    def end_stream(self, s):
        self.send(EOF, stream=s.id)

    def read_all(self, s, timeout=None):
        self.wait(lambda: s.ended or s.reset is not None, timeout, "the end of the stream")
        if s.reset is not None:
            raise Remote(s.reset)
        return bytes(s.data)

    # Ends.

    def close(self, gently=True):
        """gently: half-close and read to the end, so that QEMU delivers what it was given."""
        try:
            if gently:
                self.sock.shutdown(socket.SHUT_WR)
                end = time.monotonic() + 1
                while select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
                    if not self.sock.recv(1 << 16):
                        break
        except OSError:
            pass
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close(gently=False)
