"""Who may call over TCP: bearer tokens compared in constant time, failures throttled, also on loopback."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from thopter.model.errors import Refused

if TYPE_CHECKING:
    from thopter.kit.clock import Clock

READ, OPERATE, ADMIN = "read", "operate", "admin"
ALL_SCOPES = frozenset({READ, OPERATE, ADMIN})

TOKEN_PREFIX = "thp_"
TOKEN_MAX = 200
_FAILURES = 20  # this many at once,
_REFILL = 0.5  # then this many a second


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
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(token.encode() + b"\n")
        file.flush()
        os.fsync(fd)
    os.replace(new, path)
    return token


class Throttle:
    """A bucket of failures. Over it, failures are answered 429 and logged once until it refills."""

    def __init__(self, clock: Clock, room: int = _FAILURES, refill: float = _REFILL) -> None:
        self._clock = clock
        self._room = float(room)
        self._refill = refill
        self._left = float(room)
        self._at = clock.monotonic()

    def failed(self) -> float:
        """Count one failure; return 0, or the seconds after which one more may be tried."""
        now = self._clock.monotonic()
        self._left = min(self._room, self._left + (now - self._at) * self._refill)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._refill
        self._left -= 1
        return 0.0


class Tokens:
    """The tokens that a door accepts, each with its scopes. Only digests are kept in memory.

    A right token passes also while failures are throttled: it has 256 random bits, so it can't be
    guessed, and refusing it would let any program on this machine lock its owner out.
    """

    def __init__(self, tokens: Mapping[str, frozenset[str]], throttle: Throttle) -> None:
        self._digests = [(_digest(token), scopes) for token, scopes in tokens.items()]
        self.throttle = throttle

    def scopes(self, authorization: list[bytes]) -> frozenset[str] | None:
        """Scopes of the one ``Authorization`` header given, or None when it is not a right one."""
        if len(authorization) != 1 or len(authorization[0]) > TOKEN_MAX + 10:
            return None
        scheme, _, given = authorization[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        mine = hashlib.sha256(given).digest()
        found: frozenset[str] | None = None
        for digest, scopes in self._digests:  # no early end: the time says nothing about which
            if hmac.compare_digest(digest, mine):
                found = scopes
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
