"""Who may call over TCP: bearer tokens compared in constant time, failures throttled, also on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from thopter.hub.holders import ADMIN as ADMIN
from thopter.hub.holders import ALL_SCOPES as ALL_SCOPES
from thopter.hub.holders import APPROVE as APPROVE
from thopter.hub.holders import OPERATE as OPERATE
from thopter.hub.holders import OPERATOR as OPERATOR
from thopter.hub.holders import READ as READ
from thopter.hub.holders import Holder as Holder
from thopter.hub.holders import expanded as expanded
from thopter.hub.sessions import Sessions
from thopter.hub.tickets import Tickets
from thopter.kit.durable import write_private
from thopter.model.errors import Refused

if TYPE_CHECKING:
    from thopter.kit.clock import Clock

TOKEN_PREFIX = "thp_"
TOKEN_MAX = 200
_PREFIX = TOKEN_PREFIX.encode()
_FAILURES = 20  # this many at once,
_REFILL = 0.5  # then this many a second
_SOURCES = 1024  # whose failures are remembered
_ALL = 10  # all sources together: so many times that
_LOAD_SECONDS = 20.0


def token_file(state: Path) -> Path:
    """Where the hub's own token is kept (0600)."""
    return state / "token"


def load_token(path: Path) -> str:
    """Read the token, making it at first use. One that others could have read is refused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _make_token(path)
    except OSError as e:
        raise Refused(f"the token file {path} can't be opened: {e.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise Refused(
                f"the token file {path} can be read by others",
                hint="remove it; the hub makes a new one when it starts",
            )
        text = file.read(4096).decode("ascii", "replace").strip()
    if not text.startswith(TOKEN_PREFIX) or not 40 <= len(text) <= TOKEN_MAX or not text.isprintable():
        raise Refused(f"{path} holds no token", hint="remove it; the hub makes a new one when it starts")
    return text


def _make_token(path: Path) -> str:
    token = fresh_token()
    write_private(path, token.encode() + b"\n")
    return token


def source_of(address: str) -> str:
    """Who is throttled together: an address; of IPv6 its /64, since whoever has one address has all of it.
    What is no address stays as it is."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.IPv6Address(int(found) >> 64 << 64))


class Throttle:
    """Buckets of failures, one for each source and one for all together. Over them, failures are answered
    429. So many sources are remembered and no more."""

    def __init__(
        self, clock: Clock, room: int = _FAILURES, refill: float = _REFILL, sources: int = _SOURCES
    ) -> None:
        self.clock = clock
        self._room = float(room)
        self._refill = refill
        self._most = sources
        self._all = _Bucket(self._room * _ALL, clock.monotonic())
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()

    def failed(self, source: str = "") -> float:
        """Count one failure of ``source``; return 0, or the seconds after which one more may be tried."""
        now = self.clock.monotonic()
        bucket = self._sources.get(source)
        if bucket is None:
            while len(self._sources) >= self._most:
                self._sources.popitem(last=False)
            bucket = self._sources[source] = _Bucket(self._room, now)
        self._sources.move_to_end(source)
        wait = bucket.take(now, self._room, self._refill)
        return wait or self._all.take(now, self._room * _ALL, self._refill * _ALL)

    @property
    def sources(self) -> int:
        """How many are remembered now."""
        return len(self._sources)


class _Bucket:
    def __init__(self, left: float, at: float) -> None:
        self.left, self.at = left, at

    def take(self, now: float, room: float, refill: float) -> float:
        self.left = min(room, self.left + (now - self.at) * refill)
        self.at = now
        if self.left < 1:
            return (1 - self.left) / refill
        self.left -= 1
        return 0.0


class Tokens:
    """The tokens that doors accept, each with its scopes. Only digests are kept in memory.

    A right token passes also while failures are throttled: it has 256 random bits, so it can't be
    guessed, and refusing it would let any program on this machine lock its owner out.
    """

    def __init__(
        self, tokens: Mapping[str, frozenset[str]], throttle: Throttle, file: Path | None = None
    ) -> None:
        """``tokens``: those known from the start (the hub's own); ``file`` is where that one is kept."""
        self._known: dict[str, tuple[bytes, Holder]] = {}
        for number, (token, scopes) in enumerate(tokens.items()):
            name = "hub" if not number else f"hub{number}"
            self._known[name] = (_digest(token), Holder(name, scopes, over=asyncio.Event()))
        self.throttle = throttle
        self.tickets = Tickets(throttle.clock)
        self.pages = Sessions(throttle.clock)
        self.file = file
        self.loaded = asyncio.Event()  # set once the tokens of the store are known too
        self.used_ms: dict[str, int] = {}

    def add(self, name: str, digest: str, scopes: Iterable[str], expires_ms: int) -> None:
        """Accept a token from now on; ``digest`` in hex."""
        holder = Holder(name, expanded(scopes), expires_ms, asyncio.Event())
        self._known[name] = (bytes.fromhex(digest), holder)

    def remove(self, name: str) -> None:
        """Accept it no more; its conversations end."""
        known = self._known.pop(name, None)
        if known is not None and known[1].over is not None:
            known[1].over.set()

    def renew(self) -> None:
        """Replace the hub's own token, in its file too; the old one is worth nothing any more."""
        if self.file is not None:
            token = _make_token(self.file)
            self.remove("hub")
            self._known["hub"] = (_digest(token), Holder("hub", ALL_SCOPES, over=asyncio.Event()))

    async def holder(self, authorization: list[bytes], now_ms: int) -> Holder | None:
        """Whose token the one ``Authorization`` header holds, or None when it is not a right one. While
        the hub starts, one that is not known yet waits (bounded) until the store has been read."""
        given = _bearer(authorization)
        found = self._find(given, now_ms)
        if found is None and given and given.startswith(_PREFIX) and not self.loaded.is_set():
            await self.known()
            found = self._find(given, now_ms)
        if found is not None:
            self.used_ms[found.name] = now_ms
        return found

    async def known(self) -> None:
        """Wait (bounded) until the store's tokens and sessions are known."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOAD_SECONDS):
                await self.loaded.wait()

    def own(self, file: Path) -> None:
        """Accept the hub's own token too, which is kept in ``file`` (made when it is not there)."""
        self.file = file
        self._known["hub"] = (_digest(load_token(file)), Holder("hub", ALL_SCOPES, over=asyncio.Event()))

    def _find(self, given: bytes | None, now_ms: int) -> Holder | None:
        if given is None:
            return None
        mine = hashlib.sha256(given).digest()
        found: Holder | None = None
        for digest, holder in self._known.values():  # no early end: the time says nothing about which
            if hmac.compare_digest(digest, mine):
                found = holder
        return found if found is not None and found.good(now_ms) else None


def _bearer(authorization: list[bytes]) -> bytes | None:
    """The token in the one header given, if it may be one."""
    if len(authorization) != 1 or len(authorization[0]) > TOKEN_MAX + 10:
        return None
    scheme, _, given = authorization[0].partition(b" ")
    return given if scheme.lower() == b"bearer" else None


def fresh_token() -> str:
    """A token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
