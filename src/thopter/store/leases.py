"""Leases: how long each box may go on, kept so that a restart of the hub forgets no deadline."""

from __future__ import annotations

from thopter.model.nouns import Lease
from thopter.store.db import Conn, Database, Row

_COLUMNS = "box, keep_min, expires_ms, idle_min, idle_until_ms, on_idle, from_ms"


def _lease(row: Row) -> Lease:
    return Lease(
        box=row[0], keep_min=row[1], expires_ms=row[2], idle_min=row[3], idle_until_ms=row[4], on_idle=row[5],
        from_ms=row[6],
    )  # fmt: skip


class LeaseTable:
    """Leases inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def put(self, lease: Lease) -> None:
        """Record it in place of the box's earlier one."""
        self._conn.run(
            f"""INSERT INTO leases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (box) DO UPDATE SET keep_min = excluded.keep_min,
                  expires_ms = excluded.expires_ms, idle_min = excluded.idle_min,
                  idle_until_ms = excluded.idle_until_ms, on_idle = excluded.on_idle,
                  from_ms = excluded.from_ms""",
            (
                lease.box, lease.keep_min, lease.expires_ms, lease.idle_min, lease.idle_until_ms,
                lease.on_idle, lease.from_ms,
            ),
        )  # fmt: skip

    def get(self, box: str) -> Lease | None:
        """The box's lease, or None."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM leases WHERE box = ?", (box,))
        return _lease(row) if row else None

    def forget(self, box: str) -> None:
        """The box has none."""
        self._conn.run("DELETE FROM leases WHERE box = ?", (box,))

    def all(self) -> list[Lease]:
        """The leases of boxes that are not gone."""
        names = ", ".join("l." + c.strip() for c in _COLUMNS.split(","))
        rows = self._conn.rows(
            f"SELECT {names} FROM leases l JOIN boxes b ON b.id = l.box AND b.state <> 'gone' ORDER BY l.box"
        )
        return [_lease(r) for r in rows]


class Leases:
    """Leases for the rest of the hub; each call is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put(self, lease: Lease) -> None:
        """See :meth:`LeaseTable.put`; durable when this returns."""
        await self._db.write(lambda c: LeaseTable(c).put(lease))

    async def get(self, box: str) -> Lease | None:
        """See :meth:`LeaseTable.get`."""
        return await self._db.read(lambda c: LeaseTable(c).get(box))

    async def all(self) -> list[Lease]:
        """See :meth:`LeaseTable.all`."""
        return await self._db.read(lambda c: LeaseTable(c).all())
