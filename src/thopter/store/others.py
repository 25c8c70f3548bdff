"""Further agents of each box: a row each, written with what was read of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from thopter.model.errors import StorageError
from thopter.model.others import OtherAgent
from thopter.store import codec
from thopter.store.db import Conn, Database

log = logging.getLogger(__name__)


class OtherTable:
    """Further agents inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def put(self, box: str, agents: Sequence[OtherAgent], forgotten: Sequence[int] = ()) -> None:
        """Record these in place of what was recorded under their numbers, and forget others."""
        self._conn.many(
            """INSERT INTO other_agents (box, number, body) VALUES (?, ?, ?)
               ON CONFLICT (box, number) DO UPDATE SET body = excluded.body""",
            [(box, a.number, codec.to_json(a)) for a in agents],
        )
        self._conn.many(
            "DELETE FROM other_agents WHERE box = ? AND number = ?", [(box, n) for n in forgotten]
        )

    def of_box(self, box: str) -> list[OtherAgent]:
        """Those of a box, by number; what can't be read is left out."""
        rows = self._conn.rows("SELECT body FROM other_agents WHERE box = ? ORDER BY number", (box,))
        found = []
        for (body,) in rows:
            try:
                found.append(codec.from_json(body, OtherAgent))
            except StorageError as e:  # written by a version that knew other facts
                log.warning("a further agent of box %s is skipped: %s", box, e.message)
        return found


class Others:
    """Further agents for the rest of the hub (they come in by :meth:`Store.ingest`)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of_box(self, box: str) -> list[OtherAgent]:
        """See :meth:`OtherTable.of_box`."""
        return await self._db.read(lambda c: OtherTable(c).of_box(box))
