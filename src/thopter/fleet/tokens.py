"""Tokens for callers over TCP as use cases: made, listed, revoked, each with an event."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from thopter.kit.clock import Clock
from thopter.model.errors import Conflict, NotFound
from thopter.model.events import Event
from thopter.store.store import Store, Tx
from thopter.store.tokens import TokenRow

HUB = "hub"  # the token in the state folder; it is no row
_OTHERS = ("operator",)  # whoever is at the hub's socket, who needs none


class Tokens:
    """One per hub. Only digests pass here: the door makes a token, its caller alone is told it."""

    def __init__(self, store: Callable[[], Store], clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def all(self) -> list[TokenRow]:
        """Every token, also those that have expired."""
        return await self._store().tokens.all()

    async def add(self, name: str, token: str, scopes: list[str], seconds: int) -> TokenRow:
        """Record one; durable. Conflict when there is one of that name, or it stands for somebody else."""
        if name in _OTHERS:
            raise Conflict(f"no token may be called {name!r}", hint="choose another name")
        now = self._clock.now_ms()
        row = TokenRow(
            name=name,
            digest=hashlib.sha256(token.encode()).hexdigest(),
            scopes=tuple(sorted(set(scopes))),
            created_ms=now,
            expires_ms=now + seconds * 1000 if seconds else 0,
        )
        data = {"name": name, "scopes": list(row.scopes), "expires_ms": row.expires_ms}

        def record(tx: Tx) -> bool:
            added = tx.tokens.add(row)
            if added:
                tx.events.append([Event(kind="token.created", at_ms=now, data=data)])
            return added

        if name == HUB or not await self._store().write(record):
            raise Conflict(f"there is a token {name!r}", hint="choose another name, or revoke it first")
        return row

    async def revoke(self, name: str) -> None:
        """Forget one; durable. NotFound when there is none (``hub`` is always there)."""
        now = self._clock.now_ms()

        def record(tx: Tx) -> bool:
            found = name == HUB or tx.tokens.delete(name)
            if found:
                tx.events.append([Event(kind="token.revoked", at_ms=now, data={"name": name})])
            return found

        if not await self._store().write(record):
            raise NotFound(f"there is no token {name[:80]!r}", hint="see 'thopter token list'")
