"""Events: append-only, numbered by the hub without a gap, readable again from any number, live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import Struct

from thopter.model.events import Event
from thopter.model.ids import EventSeq
from thopter.store import codec
from thopter.store.audit import AuditTable
from thopter.store.db import Conn, Database, Row

TOPIC = "events"
_COLUMNS = "seq, kind, at_ms, box, run, flow, data"


def _event(row: Row) -> Event:
    return Event(
        seq=row[0], kind=row[1], at_ms=row[2], box=row[3], run=row[4], flow=row[5],
        data=codec.from_json(row[6], dict[str, Any]),
    )  # fmt: skip


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events are wanted; an empty field means any."""

    box: str = ""
    run: str = ""
    flow: str = ""
    kinds: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # kinds that are not wanted


ANY = EventFilter()


class Page(Struct, frozen=True):
    """Some events in order, and the number up to which they are all that match."""

    events: list[Event]
    upto: int


class EventTable:
    """Events inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def append(self, events: Sequence[Event]) -> list[EventSeq]:
        """Number and store ``events`` in this order; their numbers follow the last one without a
        gap, and numbers are given in the order of commits. Those to be audited are, with them."""
        if not events:
            return []
        row = self._conn.row(
            "UPDATE counters SET value = value + ? WHERE name = 'events' RETURNING value", (len(events),)
        )
        assert row is not None  # the migration made it
        last: int = row[0]
        first = last - len(events) + 1
        self._conn.many(
            f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (first + i, e.kind, codec.clean_ms(e.at_ms), e.box, e.run, e.flow, codec.to_json(e.data))
                for i, e in enumerate(events)
            ],
        )
        AuditTable(self._conn).of_events(events)
        self._conn.touch(TOPIC, last)
        return [EventSeq(n) for n in range(first, last + 1)]

    def last_seq(self) -> int:
        """The highest number given so far, 0 when there is none."""
        row = self._conn.row("SELECT value FROM counters WHERE name = 'events'")
        return int(row[0]) if row else 0

    def read(self, after: int = 0, limit: int = 1000, want: EventFilter = ANY) -> Page:
        """The next matching events after number ``after``, at most ``limit``, in order."""
        where, args = _where(want)
        rows = self._conn.rows(
            f"SELECT {_COLUMNS} FROM events WHERE seq > ?{where} ORDER BY seq LIMIT ?",
            [after, *args, limit],
        )
        events = [_event(r) for r in rows]
        full = len(events) == limit and events
        return Page(events, events[-1].seq if full else max(self.last_seq(), after))

    def newest(self, count: int, want: EventFilter = ANY) -> Page:
        """The last ``count`` matching events, oldest of them first."""
        where, args = _where(want)
        rows = self._conn.rows(
            f"SELECT {_COLUMNS} FROM events WHERE seq > 0{where} ORDER BY seq DESC LIMIT ?", [*args, count]
        )
        return Page([_event(r) for r in reversed(rows)], self.last_seq())


def _where(want: EventFilter) -> tuple[str, list[str]]:
    sql, args = "", []
    for column, value in (("box", want.box), ("run", want.run), ("flow", want.flow)):
        if value:
            sql += f" AND {column} = ? AND {column} <> ''"  # the second lets the partial index serve
            args.append(value)
    if want.kinds:
        sql += f" AND kind IN ({', '.join('?' * len(want.kinds))})"
        args += want.kinds
    if want.without:
        sql += f" AND kind NOT IN ({', '.join('?' * len(want.without))})"
        args += want.without
    return sql, args


class Events:
    """Events for the rest of the hub."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def append(self, events: Sequence[Event]) -> list[EventSeq]:
        """See :meth:`EventTable.append`; returns once they are durable."""
        return await self._db.write(lambda c: EventTable(c).append(events))

    async def read(self, after: int = 0, limit: int = 1000, want: EventFilter = ANY) -> Page:
        """See :meth:`EventTable.read`."""
        return await self._db.read(lambda c: EventTable(c).read(after, limit, want))

    async def newest(self, count: int, want: EventFilter = ANY) -> Page:
        """See :meth:`EventTable.newest`."""
        return await self._db.read(lambda c: EventTable(c).newest(count, want))

    def last(self) -> int:
        """The highest number known to be committed."""
        return self._db.topic(TOPIC).value

    async def changed(self, after: int) -> int:
        """Wait until an event with a number over ``after`` is committed; return the newest number.
        Bound the wait yourself."""
        return await self._db.topic(TOPIC).beyond(after)

    async def follow(
        self, after: int = 0, want: EventFilter = ANY, limit: int = 1000
    ) -> AsyncIterator[Sequence[Event]]:
        """Yield every matching event after ``after``, first those stored, then live, for ever.

        Nothing is skipped or repeated; a slow reader only makes the batches larger (to ``limit``).
        """
        while True:
            page = await self.read(after, limit, want)
            if page.events:
                yield page.events
            after = page.upto
            if len(page.events) < limit:
                await self.changed(after)
