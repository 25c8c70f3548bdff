"""Sessions of the page as use cases: begun, ended, looked after, each with an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from thopter.kit.clock import Clock
from thopter.model.errors import Conflict
from thopter.model.events import Event
from thopter.store.page_sessions import SessionRow
from thopter.store.store import Store, Tx

MOST = 200


class PageSessions:
    """One per hub. Only digests pass here: the door makes the secrets, its caller alone is told them."""

    def __init__(self, store: Callable[[], Store], clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def all(self) -> list[SessionRow]:
        """Every session that is kept."""
        return await self._store().page_sessions.all()

    async def offered(self, role: str, expires_ms: int) -> None:
        """Record that a link was made; durable."""
        await self._tell("session.link", {"role": role, "expires_ms": expires_ms})

    async def begin(self, row: SessionRow) -> None:
        """Record a login; durable. Conflict when there are too many sessions."""
        data = {"session": row.id, "role": row.role, "device": row.device, "agent": row.agent}
        event = Event(kind="session.begun", at_ms=row.created_ms, data=data)

        def record(tx: Tx) -> bool:
            if len(tx.page_sessions.all()) >= MOST:
                return False
            tx.page_sessions.add(row)
            tx.events.append([event])
            return True

        if not await self._store().write(record):
            raise Conflict(
                f"there are {MOST} sessions already", hint="end some: thopter dashboard --list, --revoke"
            )

    async def end(self, ids: Sequence[str] | None, why: str) -> list[str]:
        """Forget these (None: all, whatever is begun meanwhile too); durable. Returns those that were
        there."""
        now = self._clock.now_ms()

        def record(tx: Tx) -> list[str]:
            wanted = [row.id for row in tx.page_sessions.all()] if ids is None else ids
            gone = tx.page_sessions.delete(wanted)
            tx.devices.delete_of(gone)
            data = [{"session": i, "why": why} for i in gone]
            tx.events.append([Event(kind="session.ended", at_ms=now, data=d) for d in data])
            return gone

        return await self._store().write(record)

    async def seen(self, when: Mapping[str, int]) -> None:
        """Note when sessions were last used."""
        await self._store().page_sessions.seen(when)

    async def _tell(self, kind: str, data: dict[str, object]) -> None:
        event = Event(kind=kind, at_ms=self._clock.now_ms(), data=data)
        await self._store().write(lambda tx: tx.events.append([event]))
