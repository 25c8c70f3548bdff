"""Who calls, and what they may: scopes are the server's word, whatever a caller says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from thopter.kit.clock import Clock

READ, OPERATE, APPROVE, ADMIN = "read", "operate", "approve", "admin"
ALL_SCOPES = frozenset({READ, OPERATE, APPROVE, ADMIN})


class Holder(Struct, frozen=True, eq=False):
    """Who calls: the operator by the unix socket, or whoever has the token of that name. ``scopes`` are the
    server's word. ``over`` is set when the token is revoked; ``expires_ms`` 0: never."""

    name: str
    scopes: frozenset[str]
    expires_ms: int = 0
    over: asyncio.Event | None = None

    def good(self, now_ms: int) -> bool:
        """Whether it still may."""
        revoked = self.over is not None and self.over.is_set()
        return not revoked and (not self.expires_ms or now_ms < self.expires_ms)

    async def ended(self, clock: Clock) -> None:
        """Return when its token is revoked or has expired; until then wait."""
        over = self.over or asyncio.Event()
        while self.good(clock.now_ms()):
            left = (self.expires_ms - clock.now_ms()) / 1000 if self.expires_ms else 3600.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(left, 3600.0), 0.01)):
                    await over.wait()


OPERATOR = Holder("operator", ALL_SCOPES)


def expanded(scopes: Iterable[str]) -> frozenset[str]:
    """What scopes include: whoever acts or approves may look, an admin may everything."""
    found = set(scopes) & ALL_SCOPES
    return ALL_SCOPES if ADMIN in found else frozenset(found | ({READ} if found else set()))
