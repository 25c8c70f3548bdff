"""The outer user namespace of boxes made by an ordinary user, and the way back into it.

As root there is none: builders stay in the user namespace they were started in.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from thopter.kit.linux import calls

_NS_GET_PARENT = 0xB702
_NS_GET_USERNS = 0xB701


def mapper(spec: dict[str, object]) -> Callable[[], None]:
    """Return the function with which a builder enters its outer user namespace.

    ``spec``: ``uid``, ``gid`` (who we are) and, where newuidmap may be used, ``subuid``/``subgid``:
    ``[first, count]``.
    """

    def enter() -> None:
        uid, gid = int(str(spec["uid"])), int(str(spec["gid"]))
        helper = _Helper(spec) if "subuid" in spec else None
        calls.unshare(calls.CLONE_NEWUSER)
        if helper is not None:
            helper.map()
        else:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1\n")
            _write("/proc/self/gid_map", f"0 {gid} 1\n")
            # Without this the process would stay undumpable and its own /proc files root's.
            calls.prctl(calls.PR_SET_DUMPABLE, 1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        calls.prctl(calls.PR_SET_DUMPABLE, 1)

    return enter


class _Helper:
    """A child outside the new namespace that runs newuidmap and newgidmap (setuid programs)."""

    def __init__(self, spec: dict[str, object]) -> None:
        here = os.getpid()
        go_read, self._go = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if self._child:
            os.close(go_read)
            return
        code = 1
        try:
            os.close(self._go)
            os.read(go_read, 1)
            code = 0
            for tool, own, sub in (("newuidmap", "uid", "subuid"), ("newgidmap", "gid", "subgid")):
                extra = spec[sub]
                assert isinstance(extra, list)
                argv = [tool, str(here), "0", str(spec[own]), "1", "1", str(extra[0]), str(extra[1])]
                code |= os.waitstatus_to_exitcode(
                    os.waitpid(os.posix_spawnp(tool, argv, {"PATH": os.defpath}), 0)[1]
                )
        finally:
            os._exit(code)

    def map(self) -> None:
        """Have the ids mapped; raises OSError when the tools refuse."""
        os.write(self._go, b"g")
        os.close(self._go)
        if os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1]) != 0:
            raise OSError(1, "newuidmap or newgidmap refused (see /etc/subuid and /etc/subgid)")


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
    ours = os.stat("/proc/self/ns/user")
    owner = os.fstat(user)
    if (ours.st_dev, ours.st_ino) == (owner.st_dev, owner.st_ino):
        os.close(user)
        return None, net
    return user, net
