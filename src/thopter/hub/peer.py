"""Who calls: at the other end of the unix socket by the kernel's word, on TCP by the token."""

from __future__ import annotations

import functools
import pwd
import socket
import struct
from typing import Any

from thopter.hub.asgi import Scope
from thopter.kit.caller import Caller, caller

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


def announce(scope: Scope, token: str | None, admin: bool) -> None:
    """From here on what this request does is this caller's doing, in the audit too. ``token``: which one was
    shown, None at a door that needs none."""
    client = scope.get("client")
    place = str(client[0]) if client else ""
    name = place or "somebody at the hub's socket"
    if token is not None:
        name = f"the page ({token[5:]})" if token.startswith("page:") else f"token {token}"
        name = "somebody who logs in" if token == "(login)" else name
        name += f", from {place}" if place else ""
    caller.set(Caller(name, admin))
