"""The hub's doors: its unix socket and, when asked for, one loopback TCP address."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
from pathlib import Path

from msgspec import Struct

from thopter.hub.auth import Tokens
from thopter.model.errors import BadInput, Conflict, Refused

_BACKLOG = 1024
_SUN_PATH = 107


class Door(Struct, frozen=True, kw_only=True):
    """One listener and what a caller at it must show.

    ``hosts``: the only values of ``Host`` it accepts (``Origin``: the same with ``http://``).
    ``tokens`` None: whoever can open it is let in, with all scopes (the unix socket: 0600 in 0700).
    """

    label: str
    sock: socket.socket
    hosts: frozenset[str]
    tokens: Tokens | None = None


class UnixDoor:
    """The socket file, made and removed under the hub's locks."""

    def __init__(self, path: Path) -> None:
        """Bind and listen at ``path``, replacing what a dead hub left there.

        The caller holds the locks, so nothing listens there any more. The new socket is made under
        another name and renamed: there is no moment at which a client finds none.
        """
        self.path = path
        _check_replaceable(path)
        new = path.with_name(f".{path.name}.new")
        if len(os.fsencode(new)) > _SUN_PATH:
            raise BadInput(f"the path {path} is too long for a socket", hint="set THOPTER_RUNTIME_DIR")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)  # created 0600: there is no moment at which others may connect
        try:
            self.sock.bind(os.fspath(new))
        except OSError as e:
            self.sock.close()
            raise Refused(f"the socket {path} can't be made: {e.strerror}") from None
        finally:
            os.umask(umask)
        self.sock.listen(_BACKLOG)
        os.replace(new, path)
        made = path.lstat()
        self._identity = (made.st_dev, made.st_ino)

    def door(self) -> Door:
        """What callers of the unix socket must show: only a Host that no web page can forge."""
        return Door(label=f"unix:{self.path}", sock=self.sock, hosts=frozenset({"thopter", "localhost"}))

    def remove(self) -> None:
        """Remove the socket file, unless it is another's by now."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()


def _check_replaceable(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(f"{path} is in the way and is not a socket of this user", hint="remove it")


def parse_listen(text: str) -> tuple[str, int]:
    """``127.0.0.1:8480`` or ``[::1]:8480`` → address and port; anything but loopback is refused."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bare = "127.0.0.1" if bare == "localhost" else bare
    try:
        address = ipaddress.ip_address(bare)
        number = int(port) if port.isascii() and port.isdigit() else -1
        if not 0 <= number <= 65535 or (address.version == 6) != host.startswith("["):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"{text!r} is not an address to listen on", hint="write hub.listen like 127.0.0.1:8480"
        ) from None
    if not address.is_loopback:
        raise BadInput(
            f"the hub listens on loopback only, {bare} is reachable by others",
            hint="use 127.0.0.1:PORT, and an ssh tunnel to reach it from elsewhere",
        )
    return bare, number


def open_tcp(text: str, tokens: Tokens) -> Door:
    """Bind ``hub.listen`` (port 0: any free one) for callers with a token."""
    host, port = parse_listen(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as e:
        sock.close()
        raise Conflict(
            f"can't listen on {text}: {e.strerror}", hint="choose another port with hub.listen"
        ) from None
    bound = int(sock.getsockname()[1])
    name = f"[{host}]" if family == socket.AF_INET6 else host
    hosts = {f"{name}:{bound}", f"localhost:{bound}"} | ({name, "localhost"} if bound == 80 else set())
    return Door(label=f"http://{name}:{bound}", sock=sock, hosts=frozenset(hosts), tokens=tokens)
