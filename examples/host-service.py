#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers the topic "time" for guests: in one of them, `vmferry-guestd call time` prints the host's. hostd.conf has to allow it,
as with AllowGuestCall=time:*. With --user on the session bus. See org.vmferry1(5)."""
import datetime
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib


class Service(dbus.service.Object):
    @dbus.service.method("org.vmferry1.Service", in_signature="sssay", out_signature="ay")
    def Call(self, guest, uuid, topic, payload):
        # What a guest sends is its own: it is shown, and nothing else is done with it.
        print(f"{guest} asks: {bytes(payload)!r}", flush=True)
        return datetime.datetime.now(datetime.timezone.utc).isoformat().encode()


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus() if "--user" in sys.argv[1:] else dbus.SystemBus()
service = Service(bus, "/org/vmferry1/service")
manager = dbus.Interface(bus.get_object("org.vmferry1", "/org/vmferry1"), "org.vmferry1.Manager")
manager.RegisterTopic("time")
GLib.MainLoop().run()
