# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees of files: one with everything odd in it, and a description of a tree that can be compared with another's."""

import errno
import hashlib
import os
import random
import shutil
import stat


def build(path, n_files=300, seed=1):
    """Returns how many entries it has."""
    chance = random.Random(seed)
    os.mkdir(path)
    names = [b"plain", b"with space", b"-rf", b"new\nline", "ümläut".encode(), b"\xff\xfe not utf-8", b"'quote\"", b"x" * 255,
             b"back\\slash", b".hidden", b"tab\t", b"~", b"%s%n", b"\x1b[31mred"]
    base = os.fsencode(path)
    for i, name in enumerate(names):
        with open(os.path.join(base, name), "wb") as file:
            file.write(bytes([i]) * (i * 1000))
    deep = base
    for i in range(40):
        deep = os.path.join(deep, b"d%d" % i)
        os.mkdir(deep)
    directories = [base, deep]
    for i in range(max(1, n_files // 20)):
        directory = os.path.join(chance.choice(directories), b"dir%d" % i)
        os.mkdir(directory)
        directories.append(directory)
    for i in range(n_files):
        file_path = os.path.join(chance.choice(directories), b"file%d" % i)
        with open(file_path, "wb") as file:
            file.write(chance.randbytes(int(chance.expovariate(1 / 3000))))
        os.chmod(file_path, chance.choice((0o644, 0o600, 0o755, 0o444, 0o000 if os.geteuid() == 0 else 0o400)))
        os.utime(file_path, ns=(0, chance.randrange(10**18, 17 * 10**17)))
    os.mkdir(os.path.join(base, b"empty"))
    os.symlink(b"plain", os.path.join(base, b"link"))
    os.symlink(b"/etc/passwd", os.path.join(base, b"absolute link"))
    os.symlink(b"nowhere at all", os.path.join(base, b"dangling"))
    os.symlink(b"d0/d1", os.path.join(base, b"link to directory"))
    os.link(os.path.join(base, b"plain"), os.path.join(base, b"hard link"))
    os.link(os.path.join(base, b"plain"), os.path.join(deep, b"hard link"))
    with open(os.path.join(base, b"holes"), "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"island" * 1000)
    with open(os.path.join(base, b"only a hole"), "wb") as file:
        file.truncate(10 << 20)
    for directory in sorted(directories, reverse=True):
        os.utime(directory, ns=(0, chance.randrange(10**18, 17 * 10**17)))
    return sum(len(d) + len(f) for _, d, f in os.walk(base)) + 1


def add_xattrs(path):
    """False where the file system has none."""
    try:
        os.setxattr(path, "user.vmferry", b"value\0with a NUL")
        os.setxattr(os.path.join(path, "plain"), "user.long", b"y" * 1000)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return False
    return True


def build_large(path, n_entries, seed=1):
    """Real headers, again and again until there are so many entries, with everything odd beside them. Their number."""
    n = build(path, 1000, seed)
    chance = random.Random(seed)
    for copy in range(1000):
        if n >= n_entries:
            break
        target = os.path.join(path, f"include{copy}")
        shutil.copytree("/usr/include", target, symlinks=True)
        names = [os.path.join(d, f) for d, _, files in os.walk(target) for f in files]
        for name in chance.sample(names, len(names) // 50):
            os.link(name, name + ".again")
        for name in chance.sample(names, len(names) // 50):
            os.symlink(os.path.basename(name), name + ".link")
            os.utime(name + ".link", ns=(0, chance.randrange(10**18, 17 * 10**17)), follow_symlinks=False)
        for name in chance.sample(names, len(names) // 50):
            if not os.path.islink(name):
                os.setxattr(name, "user.origin", name.encode())
        for i in range(20):
            with open(os.path.join(target, f"sparse{i}"), "wb") as file:
                file.seek(chance.randrange(8 << 20))
                file.write(b"island")
                file.truncate(chance.randrange(8 << 20, 16 << 20))
        n = sum(len(d) + len(f) for _, d, f in os.walk(path)) + 1
    return n


def holes(path, size):
    """The data extents of a file in whole MiB: how exactly they are kept is the file systems' business."""
    fd = os.open(path, os.O_RDONLY)
    try:
        extents, at = [], 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start >> 20, (at + (1 << 20) - 1) >> 20))
        return tuple(extents)
    finally:
        os.close(fd)


def describe(path, owners=False, xattrs=False):
    """relative path → what a user would notice of the entry."""
    base = os.fsencode(path)
    entries, inodes = {}, {}

    def one(relative):
        full = os.path.join(base, relative) if relative else base
        s = os.lstat(full)
        entry = [stat.S_IFMT(s.st_mode)]
        entry.append(s.st_mtime_ns)
        if stat.S_ISLNK(s.st_mode):
            entry.append(os.readlink(full))
        else:
            entry.append(oct(stat.S_IMODE(s.st_mode)))
        if stat.S_ISREG(s.st_mode):
            with open(full, "rb") as file:
                entry += [s.st_size, hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest")
                          else hashlib.sha256(file.read()).hexdigest()]
            if s.st_size > 4 << 20:
                entry.append(holes(full, s.st_size))
            if s.st_nlink > 1:
                entry.append((s.st_nlink, "same as", inodes.setdefault(s.st_ino, relative)))
        if owners:
            entry += [s.st_uid, s.st_gid]
        if xattrs:
            entry.append(tuple((n, os.getxattr(full, n, follow_symlinks=False))
                               for n in sorted(os.listxattr(full, follow_symlinks=False))))
        entries[relative] = entry
        if stat.S_ISDIR(s.st_mode):
            for name in sorted(os.listdir(full)):
                one(os.path.join(relative, name))

    one(b"")
    return entries


def differences(a, b):
    """A readable list; empty if the trees are the same."""
    result = []
    for name in sorted(set(a) | set(b)):
        if a.get(name) != b.get(name):
            result.append(f"{name!r}: {a.get(name)} != {b.get(name)}")
    return result
