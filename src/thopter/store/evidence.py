"""Evidence of a run: the newest facts, and the newest few of every kind however old they are.

Bounded, so that a noisy box can't fill the disk; and a flood of one kind (activity, say) can't push
out the one fact that decides (the process ended).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from thopter.model.evidence import Evidence, Fact, Source
from thopter.store import codec
from thopter.store.db import Conn, Database, Row

log = logging.getLogger(__name__)

KEEP = 200  # newest facts of a run, of any kind
KEEP_EACH = 4  # newest facts of each source and kind
_CLEAR_EVERY = 100  # additions
_DETAIL_MAX = 4096
_DATA_MAX = 65536


def _evidence(row: Row) -> Evidence | None:
    try:
        return Evidence(
            source=Source(row[0]), fact=Fact(row[1]), at_ms=row[2], seen_ms=row[3], detail=row[4],
            data=codec.from_json(row[5], dict[str, Any]),
        )  # fmt: skip
    except ValueError:  # a kind of fact that this version no longer knows
        log.warning("evidence of unknown kind skipped: %s %s", row[0], row[1])
        return None


class EvidenceTable:
    """Evidence inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def add(self, run: str, evidence: Sequence[Evidence]) -> None:
        """Append in this order, then clear what is neither new nor the newest of its kind."""
        if not evidence:
            return
        row = self._conn.row("SELECT max(ordinal) FROM evidence WHERE run = ?", (run,))
        last = int(row[0] or 0) if row else 0
        self._conn.many(
            """INSERT INTO evidence (run, ordinal, source, fact, at_ms, seen_ms, detail, data)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                (
                    run, last + i, e.source.value, e.fact.value, codec.clean_ms(e.at_ms),
                    codec.clean_ms(e.seen_ms), codec.clean_text(e.detail, _DETAIL_MAX),
                    codec.to_json(e.data, _DATA_MAX),
                )
                for i, e in enumerate(evidence, 1)
            ],
        )  # fmt: skip
        end = last + len(evidence)
        if end // _CLEAR_EVERY != last // _CLEAR_EVERY:
            self._clear(run, end)

    def _clear(self, run: str, last: int) -> None:
        self._conn.run(
            """DELETE FROM evidence WHERE run = ? AND ordinal <= ? AND ordinal NOT IN (
                 SELECT ordinal FROM (
                   SELECT ordinal, row_number() OVER (PARTITION BY source, fact ORDER BY ordinal DESC) AS nth
                   FROM evidence WHERE run = ?) AS ranked
                 WHERE nth <= ?)""",
            (run, last - KEEP, run, KEEP_EACH),
        )

    def of_run(self, run: str) -> list[Evidence]:
        """Everything kept, in the order in which it arrived."""
        rows = self._conn.rows(
            """SELECT source, fact, at_ms, seen_ms, detail, data FROM evidence
               WHERE run = ? ORDER BY ordinal""",
            (run,),
        )
        return [e for e in map(_evidence, rows) if e is not None]


class EvidenceLog:
    """Evidence for the rest of the hub."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, run: str, evidence: Sequence[Evidence]) -> None:
        """See :meth:`EvidenceTable.add`."""
        await self._db.write(lambda c: EvidenceTable(c).add(run, evidence))

    async def of_run(self, run: str) -> list[Evidence]:
        """See :meth:`EvidenceTable.of_run`."""
        return await self._db.read(lambda c: EvidenceTable(c).of_run(run))
