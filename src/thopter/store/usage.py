"""What runs used of their models, added up by run, model, day and length of prompt; each call once."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from thopter.store import codec
from thopter.store.db import Conn, Database, Row

_COLUMNS = (
    "run, model, day, band, box, requests, failed, input, output, cache_read, cache_write, cache_write_1h, "
    "first_ms, last_ms"
)
_ADDED = ("requests", "failed", "input", "output", "cache_read", "cache_write", "cache_write_1h")


class Used(Struct, frozen=True, kw_only=True):
    """Calls that are paid alike: one run, one model, one day (UTC, ``2026-11-30``), one ``band`` of
    prompt lengths. ``requests`` were answered, ``failed`` were not; the rest are tokens. Of the tokens
    written to the cache, ``cache_write_1h`` are counted in ``cache_write`` too."""

    run: str
    model: str
    day: str
    band: int
    box: str
    requests: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    first_ms: int = 0
    last_ms: int = 0


def _used(row: Row) -> Used:
    return Used(
        run=row[0], model=row[1], day=row[2], band=row[3], box=row[4], requests=row[5], failed=row[6],
        input=row[7], output=row[8], cache_read=row[9], cache_write=row[10], cache_write_1h=row[11],
        first_ms=row[12], last_ms=row[13],
    )  # fmt: skip


class UsageTable:
    """Usage inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def mark(self, book: str) -> int:
        """How many lines of a book have been counted."""
        row = self._conn.row("SELECT line FROM usage_marks WHERE book = ?", (book,))
        return int(row[0]) if row is not None else 0

    def count(self, book: str, after: int, line: int, used: Sequence[Used]) -> bool:
        """Add what lines ``after``+1 to ``line`` of a book say; False, and nothing is added, when the
        book has been counted to somewhere else meanwhile."""
        if self.mark(book) != after:
            return False
        self._conn.run(
            """INSERT INTO usage_marks (book, line) VALUES (?, ?)
               ON CONFLICT (book) DO UPDATE SET line = excluded.line""",
            (book, line),
        )
        sums = ", ".join(f"{c} = usage.{c} + excluded.{c}" for c in _ADDED)
        self._conn.many(
            f"""INSERT INTO usage ({_COLUMNS}) VALUES ({", ".join("?" * 14)})
                ON CONFLICT (run, model, day, band) DO UPDATE SET {sums}, last_ms = excluded.last_ms""",
            [
                (
                    codec.clean_text(u.run, 64), codec.clean_text(u.model, 128), u.day, u.band,
                    codec.clean_text(u.box, 64), u.requests, u.failed, u.input, u.output, u.cache_read,
                    u.cache_write, u.cache_write_1h, codec.clean_ms(u.first_ms), codec.clean_ms(u.last_ms),
                )
                for u in used
            ],
        )  # fmt: skip
        return True

    def forget(self, book: str) -> None:
        """The book is gone for good."""
        self._conn.run("DELETE FROM usage_marks WHERE book = ?", (book,))

    def of(self, box: str = "") -> list[Used]:
        """What is counted, of one box or of all."""
        where, values = ("WHERE box = ?", (box,)) if box else ("", ())
        rows = self._conn.rows(f"SELECT {_COLUMNS} FROM usage {where} ORDER BY run, model, day, band", values)
        return [_used(r) for r in rows]


class Usage:
    """Usage for the rest of the hub; each call is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def mark(self, book: str) -> int:
        """See :meth:`UsageTable.mark`."""
        return await self._db.read(lambda c: UsageTable(c).mark(book))

    async def count(self, book: str, after: int, line: int, used: Sequence[Used]) -> bool:
        """See :meth:`UsageTable.count`."""
        return await self._db.write(lambda c: UsageTable(c).count(book, after, line, used))

    async def forget(self, book: str) -> None:
        """See :meth:`UsageTable.forget`."""
        await self._db.write(lambda c: UsageTable(c).forget(book))

    async def of(self, box: str = "") -> list[Used]:
        """See :meth:`UsageTable.of`."""
        return await self._db.read(lambda c: UsageTable(c).of(box))
