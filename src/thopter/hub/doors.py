"""The hub's doors: its unix socket and, when asked for, one TCP address: loopback, or any with TLS."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import ssl
import stat
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from thopter.hub.auth import Tokens
from thopter.kit.durable import write_private
from thopter.kit.settings import Settings
from thopter.model.errors import BadInput, Conflict, Refused

_BACKLOG = 1024
_SUN_PATH = 107
_REMEMBERED = "page.listen"
PAGE_LISTEN, ANY_LISTEN = "127.0.0.1:8480", "127.0.0.1:0"


class Door(Struct, frozen=True, kw_only=True):
    """One listener and what a caller at it must show.

    ``hosts``: the only values of ``Host`` it accepts (``Origin``: the same with ``http://``, with
    ``https://`` for those in ``secure``). ``tls``: it speaks TLS itself.
    ``tokens`` None: whoever can open it is let in, with all scopes (the unix socket: 0600 in 0700).
    """

    label: str
    sock: socket.socket
    hosts: frozenset[str]
    tokens: Tokens | None = None
    secure: frozenset[str] = frozenset()
    tls: ssl.SSLContext | None = None

    def origin_of(self, host: str) -> str:
        """The origin of pages at an accepted host."""
        return ("https://" if host in self.secure else "http://") + host


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


def parse_listen(text: str, far: bool = False) -> tuple[str, int]:
    """``127.0.0.1:8480`` or ``[::1]:8480`` → address and port; anything but loopback is refused unless the
    door speaks TLS (``far``)."""
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
    if not address.is_loopback and not far:
        raise BadInput(
            f"the hub listens on loopback only, {bare} is reachable by others",
            hint="use 127.0.0.1:PORT and a tunnel, or set hub.tls_cert and hub.tls_key",
        )
    return bare, number


def parse_page_url(text: str) -> str:
    """``page.url`` → the host (and port) that browsers send: https, or http on loopback; no path."""
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port is not None else ""
        host = (parts.hostname or "").lower()
        plain = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"
        if not host or text.rstrip("/").lower() != plain or not _HOST.fullmatch(host):
            raise ValueError
    except ValueError:
        raise BadInput(f"page.url = {text[:100]!r} is no address of a page", hint=_URL_HINT) from None
    if parts.scheme != "https" and not (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")):
        raise BadInput(f"page.url = {text[:100]!r} is not safe: its scheme must be https", hint=_URL_HINT)
    return plain.partition("//")[2]


_HOST = re.compile(r"[a-z0-9.:-]{1,253}")
_URL_HINT = "such as https://laptop.example.ts.net, without a path"


def load_certificate(settings: Settings, into: ssl.SSLContext | None = None) -> ssl.SSLContext | None:
    """What ``hub.tls_cert`` and ``hub.tls_key`` say, read anew (``into``: for connections to come)."""
    cert, key = str(settings.get("hub.tls_cert")), str(settings.get("hub.tls_key"))
    if not cert and not key:
        return None
    if not cert or not key:
        raise BadInput("hub.tls_cert and hub.tls_key belong together", hint="set both, or neither")
    context = into or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        if os.stat(key).st_mode & 0o077:
            raise Refused(f"the key {key} can be read by others", hint=f"chmod 600 {key}")
        context.load_cert_chain(cert, key, password=_no_password)
    except OSError as e:  # ssl.SSLError is one
        why = e.strerror if not isinstance(e, ssl.SSLError) else str(e.reason or "they do not fit")
        raise BadInput(f"the certificate {cert} with the key {key} can't be used: {why}") from None
    return context


def _no_password() -> str:
    raise BadInput("the key in hub.tls_key has a password", hint="give the hub a key without one, mode 0600")


def open_tcp(text: str, tokens: Tokens, url: str = "", tls: ssl.SSLContext | None = None) -> Door:
    """Bind ``hub.listen`` (port 0: any free one) for callers with a token or a session. ``url``: where pages
    reach it, too (``page.url``); with ``tls`` it may be an address that others reach."""
    host, port = parse_listen(text, tls is not None)
    named = parse_page_url(url) if url else ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if ipaddress.ip_address(host).is_unspecified and not named:
        raise BadInput(f"{text} is every address of this machine: by which one are pages reached?",
                       hint="set page.url, such as https://laptop.example.org:8480")  # fmt: skip
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
    usual = 443 if tls is not None else 80
    hosts = {f"{name}:{bound}", f"localhost:{bound}"} | ({name, "localhost"} if bound == usual else set())
    secure = set(hosts) if tls is not None else set()
    if named:
        hosts.add(named)
        secure |= {named} if url.lower().startswith("https:") else set()
    return Door(
        label=f"{'https' if tls else 'http'}://{name}:{bound}", sock=sock, hosts=frozenset(hosts),
        tokens=tokens, secure=frozenset(secure), tls=tls,
    )  # fmt: skip


def remembered_listen(state: Path) -> str:
    """The address that was opened for pages, or ""."""
    try:
        return (state / _REMEMBERED).read_text("ascii").strip()[:100]
    except (OSError, ValueError):
        return ""


def remember_listen(state: Path, door: Door) -> None:
    """Open this address again when the hub starts anew."""
    write_private(state / _REMEMBERED, door.label.partition("//")[2].encode() + b"\n")
