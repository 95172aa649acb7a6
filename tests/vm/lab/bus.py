# SPDX-License-Identifier: LGPL-2.1-or-later
"""A private message bus, and a client of vmferry's interfaces on it. GDBus, so that signatures are written out and descriptors travel."""

import os
import socket
import time

from .need import eventually, need, tool

try:
    import gi

    gi.require_version("Gio", "2.0")
    from gi.repository import Gio, GLib
except (ImportError, ValueError):
    Gio = GLib = None

NAME = "org.vmferry1"
PATH = "/org/vmferry1"
PREFIX = "org.vmferry1.Error."

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="max_replies_per_connection">50000</limit>
  <limit name="reply_timeout">3600000</limit>
</busconfig>
"""


class BusError(Exception):
    """An error reply: name without vmferry's prefix, and the sentence."""

    def __init__(self, name, message):
        super().__init__(f"{name}: {message}")
        self.name = name[len(PREFIX):] if name.startswith(PREFIX) else name
        self.message = message


class BusDaemon:
    def __init__(self, place, name="bus"):
        self.socket = place.file(name)
        self.address = f"unix:path={self.socket}"
        config = place.file(name + ".conf")
        with open(config, "w") as file:
            file.write(CONFIG.format(path=self.socket))
        self.process = place.start(name, [tool("dbus-daemon"), "--config-file", config, "--nofork", "--nopidfile"])
        eventually(self._listens, 10, "the bus")

    def _listens(self):
        """The socket's file is there an instant before anybody can connect to it."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0


def unpacked(value):
    """Bytes at once, which as a list of numbers take a fifth of a second for 64 KiB."""
    return value.get_data_as_bytes().get_data() or b"" if value.get_type_string() == "ay" else value.unpack()


def options(**values):
    """a{sv} of keyword arguments: bool, str, bytes, list of str, dict of str, (type, value) for the rest."""
    result = {}
    for key, value in values.items():
        if isinstance(value, bool):
            value = GLib.Variant("b", value)
        elif isinstance(value, str):
            value = GLib.Variant("s", value)
        elif isinstance(value, bytes):
            value = GLib.Variant("ay", value)
        elif isinstance(value, list):
            value = GLib.Variant("as", value)
        elif isinstance(value, dict):
            value = GLib.Variant("a{ss}", value)
        elif isinstance(value, tuple):
            value = GLib.Variant(*value)
        else:  # microseconds are 64-bit everywhere
            value = GLib.Variant("t", value)
        result[key] = value
    return result


class Client:
    """One connection to the bus. signals: all of vmferry's are kept, for wait_signal()."""

    def __init__(self, address, signals=True):
        need(Gio, "python3-gi")
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        self.connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
        self.signals = []
        if signals:
            self.connection.signal_subscribe(NAME, None, None, None, None, Gio.DBusSignalFlags.NONE, self._on_signal)

    def _on_signal(self, connection, sender, path, interface, signal, parameters):
        self.signals.append((time.monotonic(), path, signal, tuple(unpacked(parameters.get_child_value(i))
                                                                   for i in range(parameters.n_children()))))

    def close(self):
        self.connection.close_sync(None)

    def call(self, path, interface, method, signature="()", *args, timeout=60, fds=None, destination=NAME):
        """Returns the reply's values: none, one, or a tuple; a BusError where the reply is one. fds: (reply, descriptors)."""
        parameters = GLib.Variant(signature, args)
        fd_list = Gio.UnixFDList.new_from_array([os.dup(fd) for fd in fds]) if fds else None
        try:
            reply, reply_fds = self.connection.call_with_unix_fd_list_sync(
                destination, path, interface, method, parameters, None, Gio.DBusCallFlags.NONE, int(timeout * 1000),
                fd_list, None)
        except GLib.Error as error:
            name = Gio.DBusError.get_remote_error(error)
            # GDBus puts its own words and the name before the sentence.
            raise BusError(name or "local", error.message.partition(f"{name}: ")[2] or error.message) from None
        values = reply.unpack()
        if reply_fds is not None and reply_fds.get_length():
            return values, reply_fds.steal_fds()
        return values[0] if len(values) == 1 else values or None

    def get(self, path, interface, name):
        return self.call(path, "org.freedesktop.DBus.Properties", "Get", "(ss)", interface, name)

    def get_all(self, path, interface):
        return self.call(path, "org.freedesktop.DBus.Properties", "GetAll", "(s)", interface)

    def heard(self):
        """All signals so far: time, path, name, arguments."""
        context = GLib.MainContext.default()
        while context.pending():
            context.iteration(False)
        return self.signals

    def wait_signal(self, matches, timeout=10, since=0):
        """Runs the loop until matches(path, signal, args) is true of a signal that came after `since`."""
        deadline = time.monotonic() + timeout
        while True:
            for at, path, signal, args in self.heard():
                if at >= since and matches(path, signal, args):
                    return path, signal, args
            if time.monotonic() > deadline:
                raise AssertionError(f"no such signal within {timeout} s, but {[s[2:] for s in self.signals[-10:]]}")
            time.sleep(0.02)

    # vmferry's own

    def manager(self, method, signature="()", *args, **kw):
        return self.call(PATH, NAME + ".Manager", method, signature, *args, **kw)

    def guest(self, name, method, signature="()", *args, **kw):
        return self.call(self.guest_path(name), NAME + ".Guest", method, signature, *args, **kw)

    def guest_path(self, name):
        return self.manager("GetGuest", "(s)", name)

    def guest_properties(self, name):
        return self.get_all(self.guest_path(name), NAME + ".Guest")

    def state(self, name):
        return self.get(self.guest_path(name), NAME + ".Guest", "State")

    def job(self, path, method, signature="()", *args, **kw):
        return self.call(path, NAME + ".Job", method, signature, *args, **kw)

    def job_properties(self, path):
        return self.get_all(path, NAME + ".Job")

    def wait_ready(self, name, timeout=60):
        self.manager("WaitReady", "(st)", name, int(timeout * 1e6), timeout=timeout + 10)

    def ping(self, name, timeout=60):
        return self.manager("Ping", "(s)", name, timeout=timeout)

    def message(self, name, topic, text, method="Call", **opts):
        return self.manager(method, "(sssa{sv})", name, topic, text, options(**opts))

    def run(self, name, *argv, wait=60, **opts):
        return self.manager("Run", "(sasa{sv})", name, list(argv), options(**opts), timeout=wait)

    def guestd_pid(self, name):
        """Of the daemon; those that supervise commands have its name too, and outlive it."""
        return self.run(name, "sh", "-c", "for p in $(pidof vmferry-guestd); do"
                        " grep -q lab-supervise /proc/$(awk '/^PPid/ {print $2}' /proc/$p/status)/cmdline && echo $p; done")[1].strip()

    def kill_guestd(self, name):
        """As a crash would. The command dies with who would tell of it."""
        try:
            self.run(name, "kill", "-9", self.guestd_pid(name), wait=20)
        except BusError as e:
            assert e.name in ("Interrupted", "NotReady", "Timeout"), str(e)

    def push(self, name, source, destination, **opts):
        return self.manager("Push", "(sssa{sv})", name, source, destination, options(**opts))

    def pull(self, name, source, destination, **opts):
        return self.manager("Pull", "(sssa{sv})", name, source, destination, options(**opts))

    def wait_job(self, path, timeout=120):
        """The job's properties when it has ended."""
        state = self.job(path, "Wait", "(t)", int(timeout * 1e6), timeout=timeout + 10)
        properties = self.job_properties(path)
        assert properties["State"] == state
        return properties

    def done(self, id_and_path, timeout=120):
        """Waits for a job and expects it to have succeeded."""
        properties = self.wait_job(id_and_path[1], timeout)
        assert properties["State"] == "done", (properties["ErrorName"], properties["ErrorMessage"])
        return properties

    def failed(self, id_and_path, timeout=120):
        """Waits for a job that is to fail; its error's name."""
        properties = self.wait_job(id_and_path[1], timeout)
        assert properties["State"] == "failed", properties
        assert properties["ErrorMessage"]
        name = properties["ErrorName"]
        return name[len(PREFIX):] if name.startswith(PREFIX) else name
