"""What people allowed single boxes, and how far the egress gateway's log was read."""

from __future__ import annotations

from msgspec import Struct

from thopter.store import codec
from thopter.store.db import Conn, Database


class GrantRow(Struct, frozen=True, kw_only=True):
    """A host and port that a person allowed a box."""

    host: str
    port: int
    at_ms: int


class EgressTable:
    """Egress inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def grants(self, box: str) -> list[GrantRow]:
        """What a box was allowed, oldest first."""
        rows = self._conn.rows(
            "SELECT host, port, at_ms FROM egress_grants WHERE box = ? ORDER BY at_ms, host, port", (box,)
        )
        return [GrantRow(host=h, port=p, at_ms=at) for h, p, at in rows]

    def grant(self, box: str, row: GrantRow) -> None:
        """Allow it; twice is once."""
        self._conn.run(
            """INSERT INTO egress_grants (box, host, port, at_ms) VALUES (?, ?, ?, ?)
               ON CONFLICT (box, host, port) DO NOTHING""",
            (box, row.host, row.port, codec.clean_ms(row.at_ms)),
        )

    def forget(self, box: str) -> None:
        """The box is gone."""
        self._conn.run("DELETE FROM egress_grants WHERE box = ?", (box,))

    def cursor(self) -> tuple[str, int]:
        """Which process's log was read how far."""
        row = self._conn.row("SELECT boot, seq FROM egress_cursor")
        return (str(row[0]), int(row[1])) if row else ("", 0)

    def set_cursor(self, boot: str, seq: int) -> None:
        """Keep that."""
        self._conn.run("DELETE FROM egress_cursor")
        self._conn.run("INSERT INTO egress_cursor (boot, seq) VALUES (?, ?)", (boot, seq))


class Egress:
    """Egress for the rest of the hub; written by :meth:`Store.write`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def grants(self, box: str) -> list[GrantRow]:
        """See :meth:`EgressTable.grants`."""
        return await self._db.read(lambda c: EgressTable(c).grants(box))

    async def cursor(self) -> tuple[str, int]:
        """See :meth:`EgressTable.cursor`."""
        return await self._db.read(lambda c: EgressTable(c).cursor())
