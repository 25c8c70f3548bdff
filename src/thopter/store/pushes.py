"""What boxes pushed that has to go upstream: an outbox with one row a box and mirror."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from thopter.store import codec
from thopter.store.db import Conn, Database

_COLUMNS = (
    "slug, name, box, run, source, policy, wanted, has, tried, state, origin,"
    " attempts, due_ms, changed_ms, problem"
)
QUEUED, SENT, BLOCKED = "queued", "sent", "blocked"


class PushRow(Struct, frozen=True, kw_only=True):
    """``wanted``: the commit upstream shall have; ``has``: what it has as far as we know ("" nothing);
    ``tried``: ids, parted by spaces, that attempts perhaps pushed of which the outcome is not recorded.
    ``state``: queued, sent, blocked (a person has to look). ``origin``: ``box`` (its policy lets it) or
    ``person``."""

    slug: str
    name: str
    box: str
    run: str
    source: str
    policy: str
    wanted: str
    has: str = ""
    tried: str = ""
    state: str = QUEUED
    origin: str = "box"
    attempts: int = 0
    due_ms: int = 0
    changed_ms: int = 0
    problem: str = ""


class PushTable:
    """Pushes inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def of(self, slug: str, box: str) -> PushRow | None:
        """The row of a box and mirror."""
        sql = f"SELECT {_COLUMNS} FROM git_outbox WHERE slug = ? AND box = ?"
        row = self._conn.row(sql, (slug, box))
        return _row(row) if row else None

    def of_box(self, box: str) -> list[PushRow]:
        """All of a box, by mirror."""
        sql = f"SELECT {_COLUMNS} FROM git_outbox WHERE box = ? ORDER BY slug"
        return [_row(r) for r in self._conn.rows(sql, (box,))]

    def queued(self) -> list[PushRow]:
        """All that is to be pushed, soonest first."""
        sql = f"SELECT {_COLUMNS} FROM git_outbox WHERE state = ? ORDER BY due_ms, changed_ms, box"
        return [_row(r) for r in self._conn.rows(sql, (QUEUED,))]

    def put(self, row: PushRow) -> None:
        """Write a row, new or changed."""
        values = msgspec.structs.asdict(row) | {"problem": codec.clean_text(row.problem, 1000)}
        self._conn.run("DELETE FROM git_outbox WHERE slug = ? AND box = ?", (row.slug, row.box))
        marks = ", ".join("?" for _ in values)
        self._conn.run(f"INSERT INTO git_outbox ({_COLUMNS}) VALUES ({marks})", tuple(values.values()))

    def cursor(self) -> tuple[str, int]:
        """Which process's log was read how far."""
        row = self._conn.row("SELECT boot, seq FROM git_cursor")
        return (str(row[0]), int(row[1])) if row else ("", 0)

    def set_cursor(self, boot: str, seq: int) -> None:
        """Keep that."""
        self._conn.run("DELETE FROM git_cursor")
        self._conn.run("INSERT INTO git_cursor (boot, seq) VALUES (?, ?)", (boot, seq))


def _row(values: tuple[object, ...]) -> PushRow:
    return msgspec.convert(dict(zip(PushRow.__struct_fields__, values, strict=True)), PushRow)


class Pushes:
    """Pushes for the rest of the hub; written by :meth:`Store.write`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of(self, slug: str, box: str) -> PushRow | None:
        """See :meth:`PushTable.of`."""
        return await self._db.read(lambda c: PushTable(c).of(slug, box))

    async def of_box(self, box: str) -> list[PushRow]:
        """See :meth:`PushTable.of_box`."""
        return await self._db.read(lambda c: PushTable(c).of_box(box))

    async def queued(self) -> list[PushRow]:
        """See :meth:`PushTable.queued`."""
        return await self._db.read(lambda c: PushTable(c).queued())

    async def cursor(self) -> tuple[str, int]:
        """See :meth:`PushTable.cursor`."""
        return await self._db.read(lambda c: PushTable(c).cursor())
