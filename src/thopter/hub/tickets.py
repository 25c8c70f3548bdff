"""Tickets: what a web page shows in the place of a token, where it can set no header (WebSockets, SSE).

A ticket is good once, for half a minute, for one path, for what its caller may; only digests are kept, in
memory. In an address it may be seen by others (histories, logs of proxies): by then it is worth nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from msgspec import Struct

if TYPE_CHECKING:
    from thopter.hub.auth import Holder
    from thopter.kit.clock import Clock

TICKET_PREFIX = "tht_"
TICKET_SECONDS = 30.0
_MOST = 512  # not used yet, of all callers together; the oldest goes first
_MOST_OF_ONE = 64


class _Issued(Struct, frozen=True):
    path: str
    holder: Holder
    until: float


class Tickets:
    """The tickets of one hub that have not been used."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._issued: OrderedDict[bytes, _Issued] = OrderedDict()

    def issue(self, path: str, holder: Holder) -> str:
        """Make one for ``holder`` at exactly ``path``."""
        ticket = TICKET_PREFIX + secrets.token_urlsafe(32)
        self._sweep()
        own = [k for k, t in self._issued.items() if t.holder.name == holder.name]
        for key in own[: max(len(own) + 1 - _MOST_OF_ONE, 0)]:
            del self._issued[key]
        while len(self._issued) >= _MOST:
            self._issued.popitem(last=False)
        self._issued[_digest(ticket)] = _Issued(path, holder, self._clock.monotonic() + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str, path: str) -> Holder | None:
        """Who comes with it, or None. Whatever the answer, it can't be used again."""
        found = self._issued.pop(_digest(ticket), None)
        if found is None or found.path != path or found.until <= self._clock.monotonic():
            return None
        return found.holder if found.holder.good(self._clock.now_ms()) else None

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        for key in [k for k, t in self._issued.items() if t.until <= now]:
            del self._issued[key]


def ticket_in(query: bytes) -> str | None:
    """The one ``ticket`` of a query string, or None."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=50)
    except (ValueError, UnicodeDecodeError):
        return None
    found = [value for name, value in pairs if name == "ticket"]
    return found[0] if len(found) == 1 and len(found[0]) <= 100 else None


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
