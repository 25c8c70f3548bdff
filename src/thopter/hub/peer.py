"""Who is at the other end of the hub's unix socket, by the kernel's word."""

from __future__ import annotations

import functools
import pwd
import socket
import struct
from typing import Any

_UCRED = struct.Struct("3i")


def peer_of(transport: Any) -> tuple[str, int] | None:
    """``(who, pid)`` as ASGI's ``client``; None when it is no unix socket or the kernel does not say."""
    sock = transport.get_extra_info("socket")
    if sock is None or getattr(sock, "family", None) != socket.AF_UNIX:
        return None
    try:
        pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:  # it hung up already
        return None
    return who(uid), pid


@functools.cache
def who(uid: int) -> str:
    """The user as people know them."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # an id without a name, as in many containers
        return f"uid {uid}"
