# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's side of the wire, and QEMU's: two listening sockets that serve one client each.

Written from vmferry-protocol(7), with hostpeer's frames. An honest guest by itself: it answers handshakes, pings, `data.open`
and calls to the topic echo. It lies where a test says so: serve, on_open and hello are there to be replaced, and raw() writes
anything at all. A thread for each port reads, so that a test may wait for hostd meanwhile.
"""

import json
import os
import select
import socket
import struct
import threading
import time

from hostpeer import (ACK, BODY_MAX, BYE, BYE_ACK, CREDIT, DATA, EOF, HELLO, HELLO_ACK, HELLO_REQ, MORE, NOTIFY, OPEN, OPENED,
                      PING, PONG, REPLY, REQUEST, RESET, START, STREAM_CREDIT, WINDOW_BYTES, WINDOW_FRAMES, PeerError, frame,
                      parse, split_message, xxh64)


class Gone(PeerError):
    """hostd has hung up, as it may at any time: it will come again."""


class GuestStream:
    def __init__(self, ident, params):
        self.id, self.params = ident, params
        self.room = STREAM_CREDIT
        self.data = bytearray()  # of the host
        self.ended = False  # the host's half
        self.reset = None


class GuestPort:
    def __init__(self, guest, port, path):
        self.guest, self.port, self.path = guest, port, path
        self.lock = threading.RLock()  # of what is written
        self.news = threading.Condition(self.lock)
        self.conn = None
        self.is_deaf = False  # reads nothing
        self.is_mute = False  # reads, and answers nothing
        self._forget()
        self.n_hellos = self.n_sessions = 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self.listener.bind(path)
        self.listener.listen(1)
        self.ending = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _forget(self):
        self.session = 0
        self.is_up = False
        self.seq_out = self.seq_in = 0
        self.partial, self.streams, self.replies, self.notifications = {}, {}, {}, []
        self.last_request = 0
        self.sent_bytes = self.sent_frames = self.acked_bytes = self.acked_frames = 0
        self.got_bytes = self.got_frames = self.told_bytes = self.told_frames = 0

    # The thread.

    def _run(self):
        while not self.ending:
            try:
                if not select.select([self.listener], [], [], 0.1)[0]:
                    continue
                conn = self.listener.accept()[0]
            except (OSError, ValueError):
                return  # close()
            with self.lock:
                self.conn = conn
                self._forget()
                self.news.notify_all()
            buf = bytearray()
            try:
                if not (self.is_deaf or self.is_mute):
                    self.hello_req()
                while not self.ending:
                    if self.is_deaf:
                        time.sleep(0.02)
                        continue
                    if not select.select([conn], [], [], 0.1)[0]:
                        continue
                    data = conn.recv(1 << 18)
                    if not data:
                        break
                    if self.is_mute:
                        buf.clear()
                        continue
                    buf += data
                    while found := parse(buf):
                        with self.lock:
                            self._take(*found)
                            self.news.notify_all()
            except (OSError, Gone):
                pass
            with self.lock:
                self.conn = None
                self._forget()
                self.news.notify_all()
            conn.close()

    def _take(self, kind, flags, stream, seq, session, body):
        if kind == HELLO and session == 0:
            self._answer_hello(json.loads(body))
            return
        if session != self.session or not session:
            return
        if seq != self.seq_in:
            raise PeerError(f"frame {seq} where {self.seq_in} is due")
        self.seq_in += 1
        if kind == START:
            self.is_up = json.loads(body)["echo"] == self.nonce.hex()
            self.n_sessions += self.is_up
        elif kind == PING:
            self.guest.on_ping(self, body)
        elif kind == BYE:
            self.send(BYE_ACK)
        elif kind in (REQUEST, REPLY, NOTIFY, OPEN, RESET):
            whole = self.partial.pop((kind, stream), b"") + body
            if flags & MORE:
                self.partial[kind, stream] = whole
            else:
                self._take_message(kind, stream, *split_message(whole))
        elif kind == DATA:
            self._take_data(stream, body)
        elif kind == EOF and stream in self.streams:
            self.streams[stream].ended = True
            self._tell()
        elif kind == CREDIT and stream in self.streams:
            self.streams[stream].room += struct.unpack("<I", body)[0]
        elif kind == ACK:
            self.acked_bytes, self.acked_frames = struct.unpack("<QI", body)

    def _answer_hello(self, hello):
        self.n_hellos += 1
        self._forget()
        self.nonce = os.urandom(16)
        ack = {"version": 1, "nonce": self.nonce.hex(), "echo": hello["nonce"], **self.guest.hello}
        self.session = xxh64(bytes.fromhex(hello["nonce"]) + self.nonce) or 1
        body = self.guest.hello_body(ack)
        self._write(frame(HELLO_ACK, body))

    def _take_message(self, kind, stream, body, payload):
        if kind == REQUEST:
            self.guest.on_request(self, stream, body, payload)
        elif kind == REPLY:
            self.replies[stream] = (body, payload)
        elif kind == NOTIFY:
            self.notifications.append(body)
        elif kind == OPEN:
            s = self.streams[stream] = GuestStream(stream, body)
            threading.Thread(target=self.guest.on_open, args=(self, s), daemon=True).start()
        elif kind == RESET and stream in self.streams:
            self.streams[stream].reset = body

    def _take_data(self, stream, body):
        self.got_bytes += len(body)
        self.got_frames += 1
        s = self.streams.get(stream)
        if s:
            s.data += body
            self.send(CREDIT, struct.pack("<I", len(body)), stream=stream)
        if self.got_bytes - self.told_bytes >= 131072 or self.got_frames - self.told_frames >= 16:
            self._tell()

    def _tell(self):
        self.told_bytes, self.told_frames = self.got_bytes, self.got_frames
        self.send(ACK, struct.pack("<QI", self.got_bytes, self.got_frames))

    # For anybody.

    def _write(self, data):
        with self.lock:
            if not self.conn:
                raise Gone("hostd is not connected")
            try:
                self.conn.sendall(data)
            except OSError as error:
                raise Gone(str(error)) from None

    def raw(self, data, timeout=20):
        """Writes bytes as they are; waits for hostd to be connected. False: hostd has hung up on the way."""
        with self.lock:
            if not self.news.wait_for(lambda: self.conn, timeout):
                raise PeerError("hostd is not connected")
            try:
                self._write(data)
            except PeerError:
                return False
        return True

    def hello_req(self, timeout=20):
        with self.lock:
            if not self.news.wait_for(lambda: self.conn, timeout):
                raise PeerError("hostd is not connected")
            self._forget()
            self._write(frame(HELLO_REQ, b"{}"))

    def send(self, kind, body=b"", *, flags=0, stream=0):
        with self.lock:
            self._write(self.next_frame(kind, body, flags=flags, stream=stream))

    def next_frame(self, kind, body=b"", *, flags=0, stream=0, **wrong):
        """The bytes of the frame that is due, to be written with raw(), perhaps broken."""
        with self.lock:
            made = frame(kind, body, **{"flags": flags, "stream": stream, "seq": self.seq_out, "session": self.session, **wrong})
            self.seq_out = (self.seq_out + 1) & 0xFFFFFFFF
            return made

    def message(self, kind, stream, body, payload=None):
        whole = json.dumps(body).encode() + (b"\0" + payload if payload is not None else b"")
        with self.lock:
            while len(whole) > BODY_MAX:
                self.send(kind, whole[:BODY_MAX], flags=MORE, stream=stream)
                whole = whole[BODY_MAX:]
            self.send(kind, whole, stream=stream)

    def reply(self, ident, body=None, payload=None):
        self.message(REPLY, ident, body or {}, payload)

    def request(self, method, payload=None, timeout=10, **parameters):
        """The answer's (JSON, payload), an error's too."""
        with self.lock:
            self.last_request += 1
            ident = self.last_request
            self.message(REQUEST, ident, {"method": method, **parameters}, payload)
            if not self.news.wait_for(lambda: ident in self.replies, timeout):
                raise PeerError("hostd does not answer")
            return self.replies.pop(ident)

    def wait_up(self, timeout=20):
        with self.lock:
            if not self.news.wait_for(lambda: self.is_up, timeout):
                raise PeerError(f"no session on the {self.port} port")
        return self

    # Streams.

    def opened(self, s, body=None):
        self.message(OPENED, s.id, body or {})

    def reset(self, s, error, text="a lie"):
        self.message(RESET, s.id, {"error": error, "message": text})

    def send_data(self, s, data, timeout=60):
        """All of it, within credit and window; False: hostd wants no more."""
        view = memoryview(bytes(data))
        while view:
            with self.lock:
                def may():
                    return (not self.session or s.reset is not None or s.id not in self.streams or
                            (s.room > 0 and self.sent_bytes - self.acked_bytes < WINDOW_BYTES - BODY_MAX
                             and self.sent_frames - self.acked_frames < WINDOW_FRAMES))
                if not self.news.wait_for(may, timeout):
                    raise PeerError("no room in the stream")
                if not self.session or s.reset is not None or s.id not in self.streams:
                    return False
                piece = view[:min(BODY_MAX, s.room)]
                self.send(DATA, bytes(piece), stream=s.id)
                s.room -= len(piece)
                self.sent_bytes += len(piece)
                self.sent_frames += 1
                view = view[len(piece):]
        return True

    def end_stream(self, s):
        self.send(EOF, stream=s.id)

    def close(self):
        self.ending = True
        self.thread.join(5)
        self.listener.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


class GuestPeer:
    """Both ports of one domain."""

    def __init__(self, control_path, data_path, name="guest", **hello):
        self.name = name
        self.hello = {"agent": "guestpeer", "capabilities": ["exec", "push", "pull", "send", "call"],
                      "boot_id": os.urandom(16).hex(), "instance": os.urandom(16).hex(), "facts": {"hostname": name}, **hello}
        self.hello_body = lambda ack: json.dumps(ack).encode()
        self.serve = {}  # method → f(port, id, body, payload), in place of the honest one
        self.opens = {}  # kind → f(port, stream), on a thread of its own
        self.control = GuestPort(self, "control", control_path)
        self.data = GuestPort(self, "data", data_path)

    def on_ping(self, port, cookie):
        port.send(PONG, cookie)

    def on_request(self, port, ident, body, payload):
        method = body.get("method")
        if method in self.serve:
            self.serve[method](port, ident, body, payload)
        elif method == "data.open":
            port.reply(ident)
            if self.data.conn:
                self.data.hello_req()
        elif method == "message.call" and body.get("topic") == "echo":
            port.reply(ident, {}, payload)
        else:
            port.reply(ident, {"error": "Unsupported", "message": f"no {method}"})

    def on_open(self, port, s):
        try:
            if s.params.get("kind") in self.opens:
                self.opens[s.params["kind"]](port, s)
            else:
                port.reset(s, "Unsupported")
        except (PeerError, OSError):
            pass  # hostd has had enough

    def close(self):
        self.control.close()
        self.data.close()
