# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does not fit into one message of a bus with its stock limit: the one who asked is told, and hostd stays on the bus."""

import pytest
from conftest import Host
from hostpeer import EOF

from lab.bus import NAME, PATH, BusError, Client, Gio, GLib, options

MESSAGE_MAX = 32 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def host():
    host = Host(peers=("good", "liar"), domains={"off": ""}, config="MaxQueuedPerGuest=5000\n")
    yield host
    host.end()


@pytest.fixture(autouse=True)
def stays(host, client):
    """hostd does, as the one that it was."""
    process, name = host.hostd.process, client.connection.call_sync(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetNameOwner", GLib.Variant("(s)", (NAME,)),
        None, 0, 10000, None).unpack()[0]
    yield
    assert process.poll() is None, host.log()[-3:]
    assert client.call(PATH, NAME + ".Manager", "Ping", "(s)", "good", destination=name) < 10_000_000


def writes(liar, out=b"", err=b""):
    """The liar's next command writes this, and ends well."""
    state = {"open": 2}

    def start(port, ident, body, payload):
        state["id"] = body["id"]
        port.reply(ident, {"pid": 7})

    def stream(data):
        def serve(port, s):
            port.opened(s)
            port.send_data(s, data)
            port.send(EOF, stream=s.id)
            state["open"] -= 1
            if not state["open"]:
                liar.control.message(18, 0, {"method": "process.exited", "id": state["id"], "exit_status": 3})
        return serve

    liar.serve.update({"process.start": start, "process.kill": lambda port, ident, *_: port.reply(ident),
                       "process.forget": lambda port, ident, *_: port.reply(ident)})
    liar.opens.update(stdio=stream(out), stderr=stream(err))


def run_bytes(client):
    """Status and outputs; unpacked as lists of numbers they would take minutes."""
    try:
        reply = client.connection.call_sync(NAME, client.guest_path("liar"), NAME + ".Guest", "Run",
                                            GLib.Variant("(asa{sv})", (["it"], {})), None, 0, 120_000, None)
    except GLib.Error as error:
        raise BusError(Gio.DBusError.get_remote_error(error).rpartition(".")[2], error.message) from None
    return reply.get_child_value(0).unpack(), *(reply.get_child_value(i).get_data_as_bytes().get_data() for i in (1, 2))


def test_text_that_grows(client, liar):
    """12 MB that are no text take 36 MB as text."""
    writes(liar, bytes(12_000_000))
    with pytest.raises(BusError) as e:
        client.run("liar", "it", wait=120)
    assert e.value.name == "TooLarge", e.value
    assert "Exec" in e.value.message and "12000000" in e.value.message and "status 3" in e.value.message
    writes(liar, bytes(10_000_000))
    status, out, err = client.run("liar", "it", wait=120)
    assert status == 3 and out == "\ufffd" * 10_000_000 and err == ""


def test_one_full_output(client, liar):
    writes(liar, b"\xff" * (16 * MIB), b"warning\n")
    status, out, err = run_bytes(client)
    assert status == 3 and out == b"\xff" * (16 * MIB) and err == b"warning\n"


def test_two_full_outputs(client, liar):
    """Together they would be a message by themselves, without a header."""
    writes(liar, bytes(16 * MIB), bytes(16 * MIB))
    with pytest.raises(BusError) as e:
        run_bytes(client)
    assert e.value.name == "TooLarge" and "32 MiB" in e.value.message
    writes(liar, bytes(16 * MIB), bytes(16 * MIB - 8192))
    _, out, err = run_bytes(client)
    assert (len(out), len(err)) == (16 * MIB, 16 * MIB - 8192)


def test_objects(host, client):
    """So many jobs with so long command lines that the object manager's answer would be too large; lists are none the worse."""
    context, left = GLib.MainContext.default(), [2100]

    def on_reply(connection, result):
        connection.call_finish(result)
        left[0] -= 1

    long = GLib.Variant("(sasa{sv})", ("off", ["/bin/sh", "-c", "x" * 17000], options(queue=True)))
    for _ in range(left[0]):
        client.connection.call(NAME, PATH, NAME + ".Manager", "Run", long, None, 0, 60000, None, on_reply)
    while left[0]:
        context.iteration(True)
    with pytest.raises(BusError) as e:
        client.call(PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    assert e.value.name == "TooLarge", e.value
    jobs = [job for job in client.manager("ListJobs") if job[2] == "off"]
    assert len(jobs) == 2100
    with pytest.raises(BusError) as e:
        client.manager("ListQueue", "(s)", "off")
    assert e.value.name == "TooLarge", e.value
    shown = client.job_properties(jobs[-1][1])["Source"]
    assert len(shown.encode()) <= 16380 and shown.startswith("/bin/sh -c xxx") and shown.endswith("…")
    argv = client.get(jobs[-1][1], NAME + ".Process", "Argv")
    assert argv[:2] == ["/bin/sh", "-c"] and len(argv) == 3 and argv[2].strip("x") == "…" and 16300 < len(argv[2]) < 16380
    for ident, *_ in jobs[:-100]:
        client.manager("DropQueued", "(u)", ident)
    assert len(client.manager("ListQueue", "(s)", "off")) == 100


def whole(path, interface, method, make):
    """A call that is as large as the bus takes, most of it one string."""
    def build(n):
        message = Gio.DBusMessage.new_method_call(NAME, path, interface, method)
        message.set_serial(7)
        message.set_body(make("a" * n))
        return message

    return build(MESSAGE_MAX - (len(build(4096).to_blob(0)) - 4096) - 16)


WHOLE = {
    "topic": (PATH, NAME + ".Manager", "RegisterTopic", lambda s: GLib.Variant("(s)", ("/" + s,))),
    "option": (PATH, NAME + ".Manager", "Send", lambda s: GLib.Variant("(sssa{sv})", ("good", "t", "", options(**{s: True})))),
    "guest": (PATH, NAME + ".Manager", "Push", lambda s: GLib.Variant("(sssa{sv})", (s, "/x", "/x", {}))),
    "path": (PATH, NAME + ".Manager", "Push", lambda s: GLib.Variant("(sssa{sv})", ("good", "/x", s, {}))),
    "property": (PATH, "org.freedesktop.DBus.Properties", "Get", lambda s: GLib.Variant("(ss)", (NAME + ".Manager", s))),
    "interface": (PATH, "org.freedesktop.DBus.Properties", "GetAll", lambda s: GLib.Variant("(s)", (s,))),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_said_back(host, name):
    """An error that repeats what was wrong is not larger than what was said, nor is the question to polkit."""
    if host.hostd.is_sanitized():
        pytest.skip("sd-bus takes minutes to read so much under a sanitizer")
    other = Client(host.bus.address, signals=False)
    try:
        reply, _ = other.connection.send_message_with_reply_sync(whole(*WHOLE[name]), 0, 60000, None)
        assert reply.get_error_name() and len(reply.get_body().unpack()[0].encode()) <= 16380
    finally:
        other.close()
