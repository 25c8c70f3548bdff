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

    def add(self, run: str, entries: Sequence[Entry], aside: bool = False) -> list[Entry]:
        """Store those that are not there yet (same session and key); return just these, in order.
        ``aside``: they are of another agent of the box, and no part of the run's conversation.

        Their ordinals, from 1, follow the run's last one without a gap."""
        fresh: list[Entry] = []
        count = self.count(run) if entries else 0
        copied = self._elsewhere(run, entries)
        for e in entries:
            if e.key in copied and e.session not in copied[e.key]:
                continue
            added = self._conn.run(
                f"""INSERT INTO entries (run, ordinal, aside, {_COLUMNS})
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                (
                    run, count + 1, int(aside), codec.clean_text(e.session, _KEY_MAX),
                    codec.clean_text(e.key, _KEY_MAX),
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
        """The sessions that entries of the run's conversation belong to."""
        rows = self._conn.rows("SELECT DISTINCT session FROM entries WHERE run = ? AND aside = 0", (run,))
        return [s for (s,) in rows]

    def adopt(self, run: str, session: str) -> None:
        """What was said in ``session`` is the run's own: its agent went over to it."""
        self._conn.run(
            "UPDATE entries SET aside = 0 WHERE run = ? AND session = ? AND aside = 1",
            (run, codec.clean_text(session, _KEY_MAX)),
        )

    def count(self, run: str) -> int:
        """The ordinal of its last entry, those of other agents in its box included."""
        row = self._conn.row("SELECT max(ordinal) FROM entries WHERE run = ?", (run,))
        return int(row[0] or 0) if row else 0

    def prompts(self, run: str, after: int) -> list[tuple[int, Entry]]:
        """What the user said in the run itself, with its ordinals, of those over ``after``."""
        rows = self._conn.rows(
            f"""SELECT {_COLUMNS}, ordinal FROM entries
                WHERE run = ? AND ordinal > ? AND role = ? AND NOT sidechain AND aside = 0
                ORDER BY ordinal""",
            (run, after, Role.USER.value),
        )
        return [(r[-1], _entry(r)) for r in rows]

    def page(
        self, run: str, after: int = 0, limit: int = 200, last: int = 0, session: str = ""
    ) -> TranscriptPage:
        """Entries of the run's conversation with an ordinal over ``after``, at most ``limit``; or, with
        ``last``, the last that many. ``next`` of the page is the ``after`` for what follows it; ``total``
        the ordinal of the last entry of all. With a ``session``: what was said in that one, by another
        agent of the box."""
        total = self.count(run)
        limit = min(max(last if last > 0 else limit, 1), PAGE_MAX)
        which = "aside = 1 AND session = ?" if session else "aside = 0"
        given = [codec.clean_text(session, _KEY_MAX)] if session else []
        order = "DESC" if last > 0 else "ASC"
        rows = list(
            self._conn.rows(
                f"""SELECT {_COLUMNS}, ordinal FROM entries
                    WHERE run = ? AND ordinal > ? AND {which} ORDER BY ordinal {order} LIMIT ?""",
                (run, 0 if last > 0 else after, *given, limit),
            )
        )
        if last > 0:
            rows.reverse()
        end = rows[-1][-1] if rows else after
        return TranscriptPage(entries=[_entry(r) for r in rows], next=end, total=total)


class Entries:
    """Entries for the rest of the hub (they come in by :meth:`Store.ingest`)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(
        self, run: str, after: int = 0, limit: int = 200, last: int = 0, session: str = ""
    ) -> TranscriptPage:
        """See :meth:`EntryTable.page`; an unknown run has an empty transcript."""
        return await self._db.read(lambda c: EntryTable(c).page(run, after, limit, last, session))

    async def prompts(self, run: str, after: int) -> list[tuple[int, Entry]]:
        """See :meth:`EntryTable.prompts`."""
        return await self._db.read(lambda c: EntryTable(c).prompts(run, after))

    async def sessions(self, run: str) -> list[str]:
        """See :meth:`EntryTable.sessions`."""
        return await self._db.read(lambda c: EntryTable(c).sessions(run))
