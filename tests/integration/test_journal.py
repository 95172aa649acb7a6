# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each message, command and transfer leaves one entry in the journal, with what became of it; a refused one too, and a guest that
is refused all the time does not fill it."""

import time

import pytest
from conftest import Host
from guestpeer import GuestPeer
from hostpeer import REQUEST

from lab.bus import NAME, PATH, BusError, Client, Gio, GLib, options
from lab.need import eventually

CONFIG = "AllowGuestCall=ask.*:good\nMaxQueuedPerGuest=3\nMaxMessagesPerSecond=50\n"
SERVICE = """<node><interface name='org.vmferry1.Service'><method name='Call'><arg type='s' direction='in'/>
<arg type='s' direction='in'/><arg type='s' direction='in'/><arg type='ay' direction='in'/><arg type='ay' direction='out'/>
</method></interface></node>"""


@pytest.fixture(scope="module")
def host():
    host = Host(peers=("good", "liar"), domains={"off": ""}, config=CONFIG, journal=True)
    yield host
    host.end()


@pytest.fixture
def news(host):
    """The audit's entries since the test began."""
    before = len(host.journal())

    def entries(n=1, **fields):
        """Waits for n such entries, of which there are no more."""
        def found():
            return [e for e in host.journal()[before:] if "VMFERRY_VERB" in e and all(e.get(k) == v for k, v in fields.items())]
        eventually(lambda: len(found()) >= n, 10, f"{n} entries of {fields} among {host.journal()[before:]}")
        time.sleep(0.1)
        assert len(found()) == n, found()
        return found() if n > 1 else found()[0]
    return entries


def of(entry, *names):
    return [entry.get("VMFERRY_" + name) for name in names]


def test_published(host, client, news):
    peer = host.peers["good"].control
    peer.wait_up()
    peer.request("message.publish", b"hello", topic="app.news", id=4711)
    entry = news()
    assert of(entry, "VERB", "RESULT", "ID", "TOPIC", "BYTES", "CALLER_UID") == ["publish", "done", "4711", "app.news", "5", None]
    assert entry["DOMAIN_NAME"] == "good" and entry["MESSAGE_ID"]


class Service:
    """A program on the host: answers after a while, with a payload, or with an error where the topic is ask.wrong."""

    def __init__(self, host):
        self.client = Client(host.bus.address, signals=False)
        node = Gio.DBusNodeInfo.new_for_xml(SERVICE)
        self.client.connection.register_object(PATH + "/service", node.interfaces[0], self.on_call, None, None)
        self.called = []

    def on_call(self, connection, sender, path, interface, method, parameters, invocation):
        self.called.append(parameters.unpack()[2])
        if self.called[-1] == "ask.wrong":
            invocation.return_dbus_error("org.example.No", "not today")
        elif self.called[-1] != "ask.never":
            invocation.return_value(GLib.Variant("(ay)", (b"answer",)))

    def serve(self, until):
        deadline = time.monotonic() + 10
        while not until():
            assert time.monotonic() < deadline
            GLib.MainContext.default().iteration(False)
            time.sleep(0.01)


def test_calls_of_a_guest(host, client, news):
    """One entry each, when it is over and not when it begins."""
    service, peer = Service(host), host.peers["good"].control
    for topic in "ask.it", "ask.wrong", "ask.never":
        service.client.manager("RegisterTopic", "(s)", topic)
    peer.wait_up()

    def ask(topic, ident):
        with peer.lock:
            peer.last_request += 1
            peer.message(REQUEST, peer.last_request, {"method": "message.call", "topic": topic, "id": ident}, b"abc")
            return peer.last_request

    request = ask("ask.it", 31)
    service.serve(lambda: request in peer.replies)
    assert of(news(), "VERB", "RESULT", "ID", "TOPIC", "BYTES") == ["call", "done", "31", "ask.it", "3"]
    request = ask("ask.wrong", 32)
    service.serve(lambda: request in peer.replies)
    assert of(news(VMFERRY_ID="32"), "RESULT", "ERROR", "ERROR_TEXT") == ["failed", "Failed", "not today"]
    ask("ask.never", 33)
    service.serve(lambda: "ask.never" in service.called)
    news(2)
    peer.hello_req()  # the session is over, and with it the call
    assert of(news(VMFERRY_ID="33"), "RESULT", "ERROR") == ["failed", "Interrupted"]
    service.client.close()
    host.wait_well("good", 10)


REFUSED_OF_GUEST = {
    "not allowed": ("liar", {"method": "message.call", "topic": "ask.it"}, ["call", "PermissionDenied", "ask.it"]),
    "nobody": ("good", {"method": "message.call", "topic": "ask.nobody"}, ["call", "NoHandler", "ask.nobody"]),
    "no topic": ("liar", {"method": "message.publish", "topic": "../x"}, ["publish", "InvalidArgs", None]),
    "no method": ("liar", {"method": "rm.rf"}, ["request", "Unsupported", None]),
}


@pytest.mark.parametrize("name", REFUSED_OF_GUEST)
def test_refused_of_guest(host, client, news, name):
    guest, body, expected = REFUSED_OF_GUEST[name]
    peer = host.peers[guest].control
    peer.wait_up()
    peer.request(payload=b"x", id=5, **body)
    entry = news()
    assert of(entry, "VERB", "ERROR", "TOPIC") == expected and of(entry, "RESULT", "ID") == ["refused", "5"]


def test_flood_of_refusals(host, client, news):
    """Two hundred a second of what is refused: a few entries, the next of which says how many there are not."""
    peer = host.peers["liar"].control
    peer.wait_up()
    time.sleep(1)
    for _ in range(200):
        peer.request("message.call", b"", topic="ask.it", id=1)
    time.sleep(1.1)
    peer.request("message.call", b"", topic="ask.it", id=2)
    eventually(lambda: any(e.get("VMFERRY_ID") == "2" for e in host.journal()), 10, "the last")
    entries = [e for e in host.journal() if e.get("DOMAIN_NAME") == "liar" and of(e, "TOPIC", "RESULT") == ["ask.it", "refused"]]
    entries = [e for e in entries if e["VMFERRY_ID"] in "12"]
    assert len(entries) < 100
    assert len(entries) + sum(int(e.get("VMFERRY_LEFT_OUT", 0)) for e in entries) == 201


REFUSED = {
    "not ready": (("Send", "(sssa{sv})", "off", "t", "x", {}), ["send", "NotReady", "t"]),
    "call": (("Call", "(sssa{sv})", "off", "t", "xy", {}), ["call", "NotReady", "t"]),
    "large": (("Send", "(sssa{sv})", "good", "t", "x" * 65537, {}), ["send", "TooLarge", "t"]),
    "topic": (("Send", "(sssa{sv})", "good", "a/b", "x", {}), ["send", "InvalidArgs", "a/b"]),
    "queued topic": (("Send", "(sssa{sv})", "off", "a/b", "x", options(queue=True)), ["send", "InvalidArgs", "a/b"]),
    "queued path": (("Push", "(sssa{sv})", "off", "/x", "y", options(queue=True)), ["push", "InvalidPath", None]),
    "queued terminal": (("Run", "(sasa{sv})", "off", ["ls"], options(queue=True, tty=True)), ["exec", "Unsupported", None]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(host, client, news, name):
    """Before there is anything that could come to an end."""
    call, expected = REFUSED[name]
    with pytest.raises(BusError) as e:
        client.manager(*call)
    entry = news()
    assert of(entry, "VERB", "ERROR", "TOPIC", "RESULT") == [*expected, "refused"]
    assert entry["VMFERRY_ERROR_TEXT"].replace("\\\\", "\\") == e.value.message and entry["VMFERRY_CALLER_UID"]


def test_queue(host, client, news):
    """An item has one entry, at its end, whatever the end; one too many has its own."""
    sent = client.message("off", "app.go", "x", method="Send", queue=True)
    client.message("off", "app.go", "xyz", method="Call", queue=True, ttl=300_000)
    client.run("off", "true", queue=True, ttl=300_000)
    with pytest.raises(BusError):
        client.push("off", "/etc/hostname", "/x", queue=True)
    assert of(news(VMFERRY_RESULT="refused"), "VERB", "ERROR", "PATH", "HOST_PATH") == ["push", "LimitsExceeded", "/x", "/etc/hostname"]
    assert of(news(VMFERRY_VERB="call"), "RESULT", "ERROR", "TOPIC", "BYTES") == ["failed", "Timeout", "app.go", "3"]
    assert of(news(VMFERRY_VERB="exec"), "RESULT", "ERROR", "COMMAND") == ["failed", "Timeout", "'true'"]
    client.push("off", "/etc/hostname", "/x", queue=True, ttl=300_000)
    assert of(news(VMFERRY_VERB="push", VMFERRY_RESULT="failed"), "ERROR", "PATH") == ["Timeout", "/x"]
    client.manager("DropQueued", "(u)", sent)
    entry = news(VMFERRY_VERB="send")
    assert of(entry, "RESULT", "TOPIC") == ["cancelled", "app.go"] and entry["JOB_ID"] == str(sent)
    news(5)


def test_queue_retried(host, client, news):
    """Delivered at the second try, or cancelled after the first: one entry with the last word."""
    good = host.peers["good"]
    asked = []
    good.serve["message.send"] = lambda port, ident, *_: asked.append(ident)
    first, second = (client.message("good", "app.go", "x", method="Send", queue=True) for _ in range(2))
    eventually(lambda: asked, 10, "the first try")
    good.close()
    eventually(lambda: client.state("good") != "ready", 20, "the guest's end")
    client.job(f"/org/vmferry1/job/{first}", "Cancel")
    assert of(news(), "VERB", "RESULT") == ["send", "cancelled"]
    good = host.peers["good"] = GuestPeer(host.socket("good", "ctl"), host.socket("good", "data"), "good")
    good.serve["message.send"] = lambda port, ident, *_: port.reply(ident)
    assert client.wait_job(f"/org/vmferry1/job/{second}", 20)["State"] == "done"
    assert of(news(JOB_ID=str(second)), "RESULT", "TOPIC", "BYTES") == ["done", "app.go", "1"]
    news(2)


def test_call_of_one_who_left(host, client, news):
    other = Client(host.bus.address, signals=False)
    asked = []
    host.peers["liar"].serve["message.call"] = lambda port, ident, *_: asked.append(ident)
    other.connection.call(NAME, PATH, NAME + ".Manager", "Call",
                          GLib.Variant("(sssa{sv})", ("liar", "t", "x", options(timeout=3_600_000_000))), None, 0, -1, None, None)
    eventually(lambda: asked, 10, "the call")
    other.close()
    assert of(news(), "VERB", "RESULT", "TOPIC") == ["call", "cancelled", "t"]
    host.peers["liar"].serve.clear()
