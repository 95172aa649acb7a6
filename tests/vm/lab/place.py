# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory of its own for one lab, and the processes that run in it.

Its path is short: libvirt puts channel sockets below it, and sun_path has 108 bytes. libvirtd and QEMU run as an ordinary
user, always: as the caller, or as nobody if the caller is root. So nothing of the machine's own libvirt is touched.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile

from .need import eventually


class Place:
    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="vfl-", dir="/tmp")
        self.processes = []
        self.uid = os.geteuid()
        self.popen_as_owner = {}
        if self.uid == 0:
            nobody = pwd.getpwnam("nobody")
            self.uid = nobody.pw_uid
            self.popen_as_owner = dict(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
            os.chown(self.path, nobody.pw_uid, nobody.pw_gid)
        os.chmod(self.path, 0o755)

    def file(self, *parts):
        return os.path.join(self.path, *parts)

    def directory(self, *parts, mode=0o755, owned=False):
        """owned: by the user who runs libvirtd."""
        path = self.path
        for part in os.path.join(*parts).split("/"):
            path = os.path.join(path, part)
            if not os.path.isdir(path):
                os.mkdir(path)
                os.chmod(path, mode)
                if owned and self.popen_as_owner:
                    os.chown(path, self.uid, -1)
        return path

    def environment(self, home, **more):
        """Private XDG directories below home, and nothing of the caller's session."""
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": home,
            "XDG_CONFIG_HOME": os.path.join(home, "cfg"),
            "XDG_CACHE_HOME": os.path.join(home, "cache"),
            "XDG_STATE_HOME": os.path.join(home, "state"),
            "XDG_RUNTIME_DIR": os.path.join(home, "run"),
            "ASAN_OPTIONS": f"log_path={self.path}/sanitizer:exitcode=99:detect_leaks=1",
            "UBSAN_OPTIONS": f"log_path={self.path}/sanitizer:print_stacktrace=1",
        }
        env.update(more)
        return env

    def start(self, name, argv, as_owner=False, **popen):
        """Starts a process; what it says goes to NAME.log."""
        if as_owner:
            popen.update(self.popen_as_owner)
        with open(self.file(name + ".log"), "ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen)
        self.processes.append(process)
        return process

    def stop(self, process, timeout=20):
        """SIGTERM, and SIGKILL if that is ignored. Returns the exit status, None if it had to be killed."""
        if process in self.processes:
            self.processes.remove(process)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return None
        return process.returncode

    def end_pidfile(self, path):
        """Ends a daemon that has left its parent."""
        try:
            with open(path) as file:
                pid = int(file.read())
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not os.path.exists(f"/proc/{pid}"), 10, f"the end of {path}")
        except (OSError, ValueError):
            pass

    def log(self, name):
        try:
            with open(self.file(name + ".log"), errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def sanitizer_reports(self):
        text = ""
        for name in sorted(os.listdir(self.path)):
            if name.startswith("sanitizer."):
                with open(self.file(name), errors="replace") as file:
                    text += file.read()
        return text

    def remove(self):
        for process in reversed(list(self.processes)):
            self.stop(process)
        if os.environ.get("VMFERRY_KEEP"):
            print(f"kept: {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)
