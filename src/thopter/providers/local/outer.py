"""The outer user namespace of boxes made by an ordinary user, and the way back into it.

As root there is none: builders stay in the user namespace they were started in.
"""

from __future__ import annotations

import fcntl
import os
import signal

from thopter.kit.linux import calls

_NS_GET_USERNS = 0xB701


def enter(user: dict[str, object]) -> None:
    """Enter a new user namespace as its root; ``user`` says who we are (``uid``, ``gid``).

    Only that one id exists inside: the box is "root" with the powers of the user. Raises OSError.
    """
    calls.unshare(calls.CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {user['uid']} 1\n")
    _write("/proc/self/gid_map", f"0 {user['gid']} 1\n")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # The change of credentials made our own /proc files somebody else's.
    calls.prctl(calls.PR_SET_DUMPABLE, 1)


def stored_ids(stored: int, base: int, count: int) -> int:
    """A user namespace, as a descriptor, that idmaps files stored under ``stored`` to ``base``. Our own
    id stays as it is: the overlay makes its whiteouts and work files with it. Raises OSError."""
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            calls.unshare(calls.CLONE_NEWUSER)
            os.write(ready[1], b"u")
            os.close(done[1])
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        if os.read(ready[0], 1) != b"u":
            raise OSError(1, "unshare(0x10000000) failed in a helper")
        for kind in ("uid_map", "gid_map"):
            _write(f"/proc/{pid}/{kind}", f"0 0 1\n{stored} {base} {count}\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (ready[0], *done):
            os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def open_network(pid: int) -> tuple[int | None, int]:
    """Return (user namespace that owns the network namespace of ``pid``, the network namespace).

    The first is None when it is the one we are in.
    """
    net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    user = fcntl.ioctl(net, _NS_GET_USERNS)
    if same(user, "/proc/self/ns/user"):
        os.close(user)
        return None, net
    return user, net


def same(namespace: int, path: str) -> bool:
    """True when the open ``namespace`` is the one at ``path``."""
    here, there = os.fstat(namespace), os.stat(path)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
