"""Sessions of the page, as digests of what their browsers hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from thopter.store import codec
from thopter.store.db import Conn, Database

_COLUMNS = "id, digest, key_digest, role, device, agent, created_ms, seen_ms, expires_ms"


class SessionRow(Struct, frozen=True, kw_only=True):
    """One session. ``digest`` and ``key_digest``: SHA-256 in hex of its cookie and of its page's key."""

    id: str
    digest: str
    key_digest: str
    role: str
    device: str
    agent: str
    created_ms: int
    seen_ms: int
    expires_ms: int


class SessionTable:
    """Sessions inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def all(self) -> list[SessionRow]:
        """Every session, the oldest first."""
        rows = self._conn.rows(f"SELECT {_COLUMNS} FROM page_sessions ORDER BY created_ms, id")
        names = _COLUMNS.split(", ")
        return [SessionRow(**dict(zip(names, row, strict=True))) for row in rows]

    def add(self, row: SessionRow) -> None:
        """Record one."""
        values = (
            row.id, row.digest, row.key_digest, row.role,
            codec.clean_text(row.device), codec.clean_text(row.agent),
            codec.clean_ms(row.created_ms), codec.clean_ms(row.seen_ms), codec.clean_ms(row.expires_ms),
        )  # fmt: skip
        self._conn.run(f"INSERT INTO page_sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Forget these; returns those that were there."""
        return [i for i in ids if self._conn.run("DELETE FROM page_sessions WHERE id = ?", (i,)) == 1]

    def seen(self, when: Mapping[str, int]) -> None:
        """Note when sessions were last used."""
        rows = [(codec.clean_ms(ms), id_) for id_, ms in when.items()]
        self._conn.many("UPDATE page_sessions SET seen_ms = ? WHERE id = ?", rows)


class PageSessions:
    """Sessions for the rest of the hub; each call is one durable transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def all(self) -> list[SessionRow]:
        """See :meth:`SessionTable.all`."""
        return await self._db.read(lambda c: SessionTable(c).all())

    async def seen(self, when: Mapping[str, int]) -> None:
        """See :meth:`SessionTable.seen`."""
        await self._db.write(lambda c: SessionTable(c).seen(when))
