"""Devices that get notes by web push."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from msgspec import Struct

from thopter.model.api.push import Quiet
from thopter.store import codec
from thopter.store.db import Conn, Database, Row

_COLUMNS = "id, session, endpoint, p256dh, auth, kinds, quiet, device, role, created_ms"
MOST = 10  # of one session


class DeviceRow(Struct, frozen=True, kw_only=True):
    """One subscription of a browser; who has ``endpoint`` and the keys can ring it. ``role``: of its
    session, which it does not outlive."""

    id: str
    session: str
    endpoint: str
    p256dh: str
    auth: str
    kinds: tuple[str, ...]
    quiet: Quiet | None
    device: str
    role: str
    created_ms: int

    @property
    def service(self) -> str:
        """Whose push service it is: its host; the rest of the address is a secret."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def target(self) -> str:
        """Its name among the places that notes go to."""
        return f"page-{self.id[-8:]}"


def _row(row: Row) -> DeviceRow:
    return DeviceRow(
        id=row[0], session=row[1], endpoint=row[2], p256dh=row[3], auth=row[4], kinds=tuple(row[5].split()),
        quiet=codec.from_json(row[6], Quiet) if row[6] else None, device=row[7], role=row[8],
        created_ms=row[9],
    )  # fmt: skip


class DeviceTable:
    """Devices inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def all(self) -> list[DeviceRow]:
        """Every device, the oldest first."""
        sql = f"SELECT {_COLUMNS} FROM push_subscriptions ORDER BY created_ms, id"
        return [_row(row) for row in self._conn.rows(sql)]

    def put(self, row: DeviceRow) -> bool:
        """Record it in the place of what had its endpoint; of too many of a session the oldest goes. False,
        and nothing is recorded, when its session is over."""
        if not self._conn.rows("SELECT id FROM page_sessions WHERE id = ?", (row.session,)):
            return False
        self._conn.run("DELETE FROM push_subscriptions WHERE endpoint = ?", (row.endpoint,))
        own = [r.id for r in self.all() if r.session == row.session]
        self.delete(own[: max(len(own) + 1 - MOST, 0)])
        marks = ", ".join("?" * 10)
        self._conn.run(
            f"INSERT INTO push_subscriptions ({_COLUMNS}) VALUES ({marks})",
            (
                row.id, row.session, row.endpoint, row.p256dh, row.auth, " ".join(row.kinds),
                codec.to_json(row.quiet) if row.quiet is not None else "", row.device, row.role,
                row.created_ms,
            ),
        )  # fmt: skip
        return True

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Forget these; returns those that were there."""
        return [i for i in ids if self._conn.run("DELETE FROM push_subscriptions WHERE id = ?", (i,)) == 1]

    def delete_of(self, sessions: Iterable[str]) -> None:
        """Forget all of these sessions."""
        for session in sessions:
            self._conn.run("DELETE FROM push_subscriptions WHERE session = ?", (session,))


class Devices:
    """Devices for the rest of the hub; each call is one durable transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def all(self) -> list[DeviceRow]:
        """See :meth:`DeviceTable.all`."""
        return await self._db.read(lambda c: DeviceTable(c).all())

    async def put(self, row: DeviceRow) -> bool:
        """See :meth:`DeviceTable.put`."""
        return await self._db.write(lambda c: DeviceTable(c).put(row))

    async def delete(self, id_: str) -> bool:
        """Forget it; False when it was not there."""
        return bool(await self._db.write(lambda c: DeviceTable(c).delete([id_])))
