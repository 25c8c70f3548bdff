"""How far each box has been read: its journal's sequence, its transcripts' offsets, by name."""

from __future__ import annotations

from collections.abc import Mapping

from thopter.store import codec
from thopter.store.db import Conn, Database

NAME_MAX = 4096


class CursorTable:
    """Cursors inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def load(self, box: str) -> dict[str, int]:
        """Every cursor of a box; empty when nothing was read yet."""
        rows = self._conn.rows("SELECT name, value FROM cursors WHERE box = ?", (box,))
        return {name: value for name, value in rows}

    def save(self, box: str, cursors: Mapping[str, int]) -> None:
        """Set these cursors and leave the others as they are."""
        self._conn.many(
            """INSERT INTO cursors (box, name, value) VALUES (?, ?, ?)
               ON CONFLICT (box, name) DO UPDATE SET value = excluded.value""",
            [(box, codec.clean_text(k, NAME_MAX), codec.clean_ms(v)) for k, v in cursors.items()],
        )

    def forget(self, box: str) -> None:
        """Begin again with this box: its files are others now."""
        self._conn.run("DELETE FROM cursors WHERE box = ?", (box,))


class Cursors:
    """Cursors for the rest of the hub; saved by :meth:`Store.ingest` with what was read."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load(self, box: str) -> dict[str, int]:
        """See :meth:`CursorTable.load`."""
        return await self._db.read(lambda c: CursorTable(c).load(box))
