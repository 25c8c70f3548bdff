"""The audit: append-only, each record chained to the one before, written with the fact it is about.

What is committed as an event of a kind that is audited is audited in the same transaction, by whichever
part of the hub and whichever use case: acknowledged means audited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from thopter.kit.caller import HUB
from thopter.model.api.audit import AuditLine
from thopter.model.events import Event
from thopter.store import codec
from thopter.store.audit_chain import Anchor, Fault, Row, bounded, canonical, link, looked_over, name_of
from thopter.store.db import Conn, Database

TOPIC = "audit"
KINDS = frozenset({"hub.started", "run.created", "run.told", "run.budget", "box.destroyed"})
FAMILIES = (
    "egress.", "approval.", "snapshot.", "secret.", "git.", "push.", "token.", "policy.", "budget.",
    "peer.", "person.", "audit.", "session.",
)  # fmt: skip
# What the hub itself does all the time, and is of interest when a person asked for it.
PEOPLES = frozenset({"box.state", "message", "label"})
_COLUMNS = "seq, at_ms, kind, box, name, record, hash"
_PAGE = 2000


def audited(kind: str, by: str) -> bool:
    """Whether an event of this kind, written for ``by``, belongs into the audit."""
    return kind in KINDS or kind.startswith(FAMILIES) or (by != HUB.name and kind in PEOPLES)


class Wanted(Struct, frozen=True, kw_only=True):
    """Which records are wanted; empty fields mean any. ``box``: a thopter's name or id; ``kind``: a kind,
    or a family of them with its dot."""

    box: str = ""
    kind: str = ""
    since_ms: int = 0


class AuditTable:
    """The audit inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def head(self) -> Anchor:
        """Where the chain ends."""
        row = self._conn.row("SELECT seq, hash FROM audit_head")
        assert row is not None  # the migration made it
        return Anchor(int(row[0]), str(row[1]))

    def append(self, event: Event, by: str = "") -> None:
        """Put it at the chain's end. ``by``: who did it, by default who asked for this write."""
        self._extend([event], by or self._conn.by)

    def of_events(self, events: Sequence[Event]) -> None:
        """Put those of ``events`` that belong there at the chain's end."""
        by = self._conn.by
        kept = [e for e in events if audited(e.kind, by)]
        if kept:
            self._extend(kept, by)

    def _extend(self, events: Sequence[Event], by: str) -> None:
        head = self.head()
        seq, last, rows = head.seq, head.hash, []
        for event in events:
            seq += 1
            data = bounded(self._named(event))
            at_ms = codec.clean_ms(event.at_ms)
            told: dict[str, Any] = {
                "seq": seq, "at_ms": at_ms, "kind": event.kind, "by": by, "box": event.box,
                "run": event.run, "flow": event.flow, "data": data,
            }  # fmt: skip
            record = canonical(told)
            last = link(last, record)
            rows.append((seq, at_ms, event.kind, event.box, name_of(event.box, data), record, last))
        self._conn.many(f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._conn.run("UPDATE audit_head SET seq = ?, hash = ?", (seq, last))
        self._conn.touch(TOPIC, seq)

    def _named(self, event: Event) -> dict[str, Any]:
        """Its data, with the thopter's name: it is looked for by that when the box is long forgotten."""
        if not event.box or isinstance(event.data.get("name"), str):
            return event.data
        row = self._conn.row("SELECT name FROM boxes WHERE id = ?", (event.box,))
        return {**event.data, "name": str(row[0])} if row else event.data

    def rows(self, after: int, limit: int) -> list[Row]:
        """The next records as they are stored."""
        found = self._conn.rows(
            f"SELECT {_COLUMNS} FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [Row(*row) for row in found]

    def read(self, want: Wanted, after: int = 0, limit: int = 500, last: bool = False) -> list[AuditLine]:
        """The next matching records after number ``after``; with ``last`` the newest ones, in order."""
        where, args = ["seq > ?"], [after]
        _where(want, where, args)
        order = "DESC" if last else "ASC"
        rows = self._conn.rows(
            f"SELECT record, hash FROM audit WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?",
            [*args, limit],
        )
        return [_line(record, hash_) for record, hash_ in (reversed(rows) if last else rows)]

    def faults(self, anchors: Sequence[Anchor], most: int = 100) -> list[Fault]:
        """What is wrong with the chain, at most ``most`` things; see :func:`looked_over`."""
        found = []
        for fault in looked_over(self._all(), Anchor(0, "0" * 64), self.head(), anchors):
            found.append(fault)
            if len(found) == most:
                break
        return found

    def _all(self) -> Iterator[Row]:
        after = -(1 << 62)
        while True:
            rows = self.rows(after, _PAGE)
            yield from rows
            if len(rows) < _PAGE or type(rows[-1].seq) is not int:
                return
            after = rows[-1].seq


def _where(want: Wanted, where: list[str], args: list[Any]) -> None:
    if want.box:
        where.append("(box = ? OR name = ?)")
        args += [want.box, want.box]
    if want.kind.endswith("."):
        where.append("kind >= ? AND kind < ?")
        args += [want.kind, want.kind[:-1] + "/"]  # '/' follows '.'
    elif want.kind:
        where.append("kind = ?")
        args.append(want.kind)
    if want.since_ms:
        where.append("at_ms >= ?")
        args.append(want.since_ms)


def _line(record: str, hash_: str) -> AuditLine:
    try:
        told = json.loads(record)
        data = told["data"]
        return AuditLine(
            seq=int(told["seq"]), at_ms=int(told["at_ms"]), kind=str(told["kind"]), by=str(told["by"]),
            box=str(told["box"]), name=name_of(str(told["box"]), data), run=str(told["run"]),
            flow=str(told["flow"]), data=dict(data), hash=hash_,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):  # tampered with: shown as such, never hidden
        return AuditLine(
            seq=0, at_ms=0, kind="unreadable", hash=str(hash_), data={"record": str(record)[:1000]}
        )


class Audit:
    """The audit for the rest of the hub."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def append(self, event: Event, by: str = "") -> None:
        """A record of what is no event of the log."""
        await self._db.write(lambda c: AuditTable(c).append(event, by))

    async def head(self) -> Anchor:
        """See :meth:`AuditTable.head`."""
        return await self._db.read(lambda c: AuditTable(c).head())

    async def rows(self, after: int, limit: int) -> list[Row]:
        """See :meth:`AuditTable.rows`."""
        return await self._db.read(lambda c: AuditTable(c).rows(after, limit))

    async def read(
        self, want: Wanted, after: int = 0, limit: int = 500, last: bool = False
    ) -> list[AuditLine]:
        """See :meth:`AuditTable.read`."""
        return await self._db.read(lambda c: AuditTable(c).read(want, after, limit, last))

    async def faults(self, anchors: Sequence[Anchor]) -> tuple[Anchor, list[Fault]]:
        """The head, and what is wrong; of one moment."""
        return await self._db.read(lambda c: (AuditTable(c).head(), AuditTable(c).faults(anchors)))

    async def changed(self, after: int) -> int:
        """Wait until there is a record above ``after``; return the newest number. Bound it yourself."""
        return await self._db.topic(TOPIC).beyond(after)
