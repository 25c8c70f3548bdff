"""Transcript entries of a run: stored once each however often they are read, paged by ordinal."""

from __future__ import annotations

from collections.abc import Sequence

from thopter.model.api import TranscriptPage
from thopter.model.nouns import Entry, Role
from thopter.store import codec
from thopter.store.db import Conn, Database, Row

_COLUMNS = "session, key, at_ms, role, summary, text, tool, is_error, sidechain"
PAGE_MAX = 1000
_KEY_MAX = 512
_SUMMARY_MAX = 200


def _entry(row: Row) -> Entry:
    return Entry(
        session=row[0], key=row[1], at_ms=row[2], role=Role(row[3]), summary=row[4], text=row[5],
        tool=row[6], is_error=bool(row[7]), sidechain=bool(row[8]),
    )  # fmt: skip


class EntryTable:
    """Entries inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def add(self, run: str, entries: Sequence[Entry]) -> list[Entry]:
        """Store those that are not there yet (same session and key); return just these, in order.

        Their ordinals, from 1, follow the run's last one without a gap."""
        fresh: list[Entry] = []
        count = self.count(run) if entries else 0
        copied = self._elsewhere(run, entries)
        for e in entries:
            if e.key in copied and e.session not in copied[e.key]:
                continue
            added = self._conn.run(
                f"""INSERT INTO entries (run, ordinal, {_COLUMNS})
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                (
                    run, count + 1, codec.clean_text(e.session, _KEY_MAX), codec.clean_text(e.key, _KEY_MAX),
                    codec.clean_ms(e.at_ms), e.role.value, codec.clean_text(e.summary, _SUMMARY_MAX),
                    codec.clean_text(e.text), codec.clean_text(e.tool, _KEY_MAX), e.is_error, e.sidechain,
                ),
            )  # fmt: skip
            if added:
                count += 1
                fresh.append(e)
        return fresh

    def _elsewhere(self, run: str, entries: Sequence[Entry]) -> dict[str, set[str]]:
        """Sessions by key of entries that a run with a parent has already: a forked session repeats
        what was said before under the same keys."""
        forked = self._conn.row("SELECT 1 FROM runs WHERE id = ? AND parent <> ''", (run,))
        found: dict[str, set[str]] = {}
        if forked is None or not entries:
            return found
        wanted = {e.key for e in entries}
        for key, session in self._conn.rows("SELECT key, session FROM entries WHERE run = ?", (run,)):
            if key in wanted:
                found.setdefault(key, set()).add(session)
        for e in entries:  # also within this very batch
            found.setdefault(e.key, {e.session})
        return found

    def sessions(self, run: str) -> list[str]:
        """The sessions that entries of a run belong to."""
        return [s for (s,) in self._conn.rows("SELECT DISTINCT session FROM entries WHERE run = ?", (run,))]

    def count(self, run: str) -> int:
        """How many entries the run has; also the ordinal of its last one."""
        row = self._conn.row("SELECT max(ordinal) FROM entries WHERE run = ?", (run,))
        return int(row[0] or 0) if row else 0

    def prompts(self, run: str, after: int) -> list[tuple[int, Entry]]:
        """What the user said in the run itself, with its ordinals, of those over ``after``."""
        rows = self._conn.rows(
            f"""SELECT {_COLUMNS}, ordinal FROM entries
                WHERE run = ? AND ordinal > ? AND role = ? AND NOT sidechain ORDER BY ordinal""",
            (run, after, Role.USER.value),
        )
        return [(r[-1], _entry(r)) for r in rows]

    def page(self, run: str, after: int = 0, limit: int = 200, last: int = 0) -> TranscriptPage:
        """Entries with an ordinal over ``after``, at most ``limit``; or, with ``last``, the last
        that many. ``next`` of the page is the ``after`` for what follows it."""
        total = self.count(run)
        if last > 0:
            limit = last
            after = max(total - last, 0)
        limit = min(max(limit, 1), PAGE_MAX)
        rows = self._conn.rows(
            f"SELECT {_COLUMNS}, ordinal FROM entries WHERE run = ? AND ordinal > ? ORDER BY ordinal LIMIT ?",
            (run, after, limit),
        )
        return TranscriptPage(
            entries=[_entry(r) for r in rows], next=rows[-1][-1] if rows else after, total=total
        )


class Entries:
    """Entries for the rest of the hub (they come in by :meth:`Store.ingest`)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(self, run: str, after: int = 0, limit: int = 200, last: int = 0) -> TranscriptPage:
        """See :meth:`EntryTable.page`; an unknown run has an empty transcript."""
        return await self._db.read(lambda c: EntryTable(c).page(run, after, limit, last))

    async def prompts(self, run: str, after: int) -> list[tuple[int, Entry]]:
        """See :meth:`EntryTable.prompts`."""
        return await self._db.read(lambda c: EntryTable(c).prompts(run, after))

    async def sessions(self, run: str) -> list[str]:
        """See :meth:`EntryTable.sessions`."""
        return await self._db.read(lambda c: EntryTable(c).sessions(run))
