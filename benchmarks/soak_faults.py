# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong during the soak, one at a time, and how long until all is well again.

`hard` ones end the guest's memory; a guest that counts its small writes is spared them until it has finished.
"""

import os
import signal
import time

from lab.bus import BusError
from lab.need import eventually

BOOT = 90  # a boot under emulation, beside other work


class Faults:
    def __init__(self, soak):
        self.soak, self.lab, self.client = soak, soak.lab, soak.lab.client
        self.silences = 0  # of daemons that have ended

    def all(self, name, spared):
        """(kind, function, the guests it touches)."""
        everybody = list(self.soak.domains)
        soft = [("QEMU stopped", self.qemu_stopped, [name]), ("suspended", self.suspended, [name]),
                ("hostd killed", self.hostd_killed, everybody), ("hostd stopped", self.hostd_stopped, everybody),
                ("hostd killed while the guest is suspended", self.killed_while_suspended, everybody),
                ("libvirtd restarted", self.libvirtd_restarted, everybody),
                ("libvirtd killed", self.libvirtd_killed, everybody)]
        hard = [("power cycle", self.power_cycle, [name]), ("reset", self.reset, [name]), ("reboot", self.reboot, [name]),
                ("QEMU killed", self.qemu_killed, [name]), ("guestd killed", self.guestd_killed, [name]),
                ("guestd stopped", self.guestd_stopped, [name])]
        return soft if spared else hard + hard + soft

    def vm(self, name):
        return self.soak.domains[name]

    def boots_again(self, name, act):
        starts = self.vm(name).guestd_starts()
        act()
        self.vm(name).wait_guestd(starts, BOOT)

    def power_cycle(self, name):
        self.vm(name).destroy()
        self.lab.wait_state(name, "off", 20)
        self.boots_again(name, self.vm(name).start)

    def reset(self, name):
        self.boots_again(name, self.vm(name).reset)

    def reboot(self, name):
        def act():
            try:
                self.client.run(name, "reboot", "-f", wait=30)
            except BusError:
                pass
        self.boots_again(name, act)

    def qemu_killed(self, name):
        os.kill(self.vm(name).qemu_pid(), signal.SIGKILL)
        self.lab.wait_state(name, "off", 20)
        self.boots_again(name, self.vm(name).start)

    def qemu_stopped(self, name):
        """Nothing is announced: a link that goes silent."""
        pid = self.vm(name).qemu_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(self.soak.random.uniform(0.1, 8))
        finally:
            os.kill(pid, signal.SIGCONT)

    def suspended(self, name):
        self.vm(name).suspend()
        time.sleep(self.soak.random.uniform(0.1, 3))
        self.vm(name).resume()

    def guestd_killed(self, name):
        self.boots_again(name, lambda: self.client.kill_guestd(name))

    def guestd_stopped(self, name):
        """Alive and deaf, for some seconds."""
        seconds = self.soak.random.choice((1, 4, 7))
        try:
            self.client.run(name, "sh", "-c", f"p=$(pidof vmferry-guestd | tr ' ' '\\n' | sort -n | head -n 1); "
                            f"setsid sh -c \"sleep 0.2; kill -STOP $p; sleep {seconds}; kill -CONT $p\" "
                            "</dev/null >/dev/null 2>&1 &", wait=30)
        except BusError:
            pass
        time.sleep(seconds + 0.5)

    def remember_silences(self):
        for name in self.soak.domains:
            try:
                self.silences += self.client.guest_properties(name)["Silences"]
            except BusError:
                pass

    def hostd_killed(self, name):
        self.remember_silences()
        self.lab.hostd.restart()

    def hostd_stopped(self, name):
        self.remember_silences()
        status = self.lab.hostd.stop()
        if status != 0:
            self.soak.ledger.fail(f"hostd ended with {status} when it was told to stop")
        self.lab.hostd.start()

    def killed_while_suspended(self, name):
        self.vm(name).suspend()
        self.hostd_killed(name)
        self.vm(name).resume()

    def libvirtd_restarted(self, name):
        self.lab.libvirtd.restart()
        self.libvirt_is_back()

    def libvirtd_killed(self, name):
        self.lab.libvirtd.kill()
        self.lab.libvirtd.start()
        self.libvirt_is_back()

    def libvirt_is_back(self):
        eventually(lambda: self.client.get("/org/vmferry1", "org.vmferry1.Manager", "LibvirtState") == "connected", 30,
                   "hostd's connection to libvirt")

    def cause(self, kind, act, name, touched):
        """Seconds from the end of the fault until each guest it touched answers."""
        self.soak.weather.begin(touched)
        try:
            act(name)
            start = time.monotonic()
            for one in touched:
                self.client.wait_ready(one, BOOT)
                eventually(lambda one=one: self.answers(one), 30, f"{one}'s answer")
            recovered = time.monotonic() - start
            if name in self.soak.pinned:
                self.soak.pin(name)
            return recovered
        except (BusError, AssertionError) as e:
            self.soak.ledger.fail(f"{kind} of {name}: {e}")
            return None
        finally:
            self.soak.weather.end(touched)

    def answers(self, name):
        try:
            return self.client.ping(name, timeout=20) > 0
        except BusError:
            return False
