"""Notes to people: an outbox. A note is recorded once for its key, together with the place in the event
log up to which notes were decided; each sending of it is claimed, tried, and settled or tried again."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from thopter.model.api.notes import NoteView
from thopter.model.events import Event
from thopter.model.notes import Letter, Note, NoteKind, Send
from thopter.store import codec
from thopter.store.db import Conn, Database, Row
from thopter.store.events import EventTable

_NOTE = "id, key, kind, box, run, name, letter, held, created_ms"
_SEND = "note, target, state, attempts, next_ms, problem, sent_ms"
_HOUR_MS = 3_600_000
_PROBLEM_MAX = 500


def _note(row: Row) -> Note:
    return Note(
        id=row[0], key=row[1], kind=NoteKind(row[2]), box=row[3], run=row[4], name=row[5],
        letter=codec.from_json(row[6], Letter), held=row[7], created_ms=row[8],
    )  # fmt: skip


def _send(row: Row) -> Send:
    return Send(
        note=row[0], target=row[1], state=row[2], attempts=row[3], next_ms=row[4], problem=row[5],
        sent_ms=row[6],
    )  # fmt: skip


class NoteTable:
    """Notes inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def add(self, note: Note, targets: Sequence[str], per_hour: int = 0) -> Note | None:
        """Record ``note`` for sending to ``targets``; None when its key has one already.

        More than ``per_hour`` in an hour (0: no limit), or no target at all, and it is held."""
        if self._conn.row("SELECT 1 FROM notes WHERE key = ?", (note.key,)) is not None:
            return None
        if not note.held and not targets:
            note = structs.replace(note, held="nowhere to send it")
        if not note.held and per_hour and self.sent_since(note.created_ms - _HOUR_MS) >= per_hour:
            note = structs.replace(note, held=f"more than {per_hour} notes in an hour")
        marks = ", ".join("?" * 9)
        self._conn.run(
            f"INSERT INTO notes ({_NOTE}) VALUES ({marks})",
            (
                note.id, note.key, note.kind.value, note.box, note.run, note.name,
                codec.to_json(note.letter), note.held, note.created_ms,
            ),
        )  # fmt: skip
        if not note.held:
            self._conn.many(
                f"INSERT INTO note_sends ({_SEND}) VALUES (?, ?, 'queued', 0, ?, '', 0)",
                [(note.id, target, note.created_ms) for target in targets],
            )
            data = {"name": note.name, "text": note.letter.title, "kind": note.kind.value}
            EventTable(self._conn).append(
                [Event(kind="note", at_ms=note.created_ms, box=note.box, run=note.run, data=data)]
            )
        return note

    def sent_since(self, since_ms: int) -> int:
        """How many notes were not held since then."""
        row = self._conn.row(
            "SELECT count(*) FROM notes WHERE held = '' AND created_ms > ? AND kind <> 'test'", (since_ms,)
        )
        return int(row[0]) if row else 0

    def cursor(self) -> int:
        """Number of the last event that was looked at for notes."""
        row = self._conn.row("SELECT value FROM counters WHERE name = 'notes'")
        return int(row[0]) if row else 0

    def move(self, cursor: int) -> None:
        """Everything up to this event has been looked at; never goes back."""
        self._conn.run("UPDATE counters SET value = ? WHERE name = 'notes' AND value < ?", (cursor, cursor))

    def claim(self, send: Send, now_ms: int, until_ms: int) -> bool:
        """Take one sending for an attempt, until ``until_ms`` (when nobody settles it by then, it is
        due again); False when it is not due any more."""
        return (
            self._conn.run(
                """UPDATE note_sends SET attempts = attempts + 1, next_ms = ?
                   WHERE note = ? AND target = ? AND state = 'queued' AND next_ms <= ?""",
                (until_ms, send.note, send.target, now_ms),
            )
            == 1
        )

    def hurry(self, now_ms: int) -> None:
        """Make everything that is on its way due now: nobody holds a claim of before, and what
        failed then may go through now."""
        self._conn.run(
            "UPDATE note_sends SET next_ms = ? WHERE state = 'queued' AND next_ms > ?", (now_ms, now_ms)
        )

    def settle(self, send: Send) -> None:
        """Record how an attempt went."""
        self._conn.run(
            """UPDATE note_sends SET state = ?, next_ms = ?, problem = ?, sent_ms = ?
               WHERE note = ? AND target = ?""",
            (
                send.state, send.next_ms, codec.clean_text(send.problem, _PROBLEM_MAX), send.sent_ms,
                send.note, send.target,
            ),
        )  # fmt: skip

    def due(self, now_ms: int, limit: int) -> list[tuple[Send, Note]]:
        """Sendings to try now, the longest due first."""
        rows = self._conn.rows(
            f"""SELECT {_SEND} FROM note_sends WHERE state = 'queued' AND next_ms <= ?
                ORDER BY next_ms LIMIT ?""",
            (now_ms, limit),
        )
        return [(_send(row), self.get(row[0]).note) for row in rows]

    def next_due(self) -> int | None:
        """When the next sending is due; None when none is."""
        row = self._conn.row("SELECT min(next_ms) FROM note_sends WHERE state = 'queued'")
        return None if row is None or row[0] is None else int(row[0])

    def get(self, note: str) -> NoteView:
        """A note and its fate; it must exist."""
        row = self._conn.row(f"SELECT {_NOTE} FROM notes WHERE id = ?", (note,))
        assert row is not None  # callers have its id from here
        return self._view(_note(row))

    def of_key(self, key: str) -> Note:
        """The note of an episode; it must exist."""
        row = self._conn.row(f"SELECT {_NOTE} FROM notes WHERE key = ?", (key,))
        assert row is not None  # callers know that it is there
        return _note(row)

    def list(self, limit: int, box: str = "") -> list[NoteView]:
        """The newest notes, newest first; of one box when asked."""
        where, args = ("WHERE box = ?", [box]) if box else ("", [])
        rows = self._conn.rows(
            f"SELECT {_NOTE} FROM notes {where} ORDER BY created_ms DESC, id DESC LIMIT ?", [*args, limit]
        )
        return [self._view(_note(row)) for row in rows]

    def _view(self, note: Note) -> NoteView:
        rows = self._conn.rows(f"SELECT {_SEND} FROM note_sends WHERE note = ? ORDER BY target", (note.id,))
        sends = [_send(row) for row in rows]
        return NoteView(note=note, fate=_fate(note, sends), sends=sends)

    def counts(self, since_ms: int) -> dict[str, int]:
        """How many sendings of notes since then are in each state."""
        rows = self._conn.rows(
            """SELECT s.state, count(*) FROM note_sends s JOIN notes n ON n.id = s.note
               WHERE n.created_ms >= ? AND n.kind <> 'test' GROUP BY s.state""",
            (since_ms,),
        )
        return {state: int(count) for state, count in rows}

    def mute(self, box: str, muted: bool, now_ms: int) -> None:
        """Mute a box (empty: everything) or let it be heard again. Idempotent."""
        self._conn.run("DELETE FROM note_mutes WHERE box = ?", (box,))
        if muted:
            self._conn.run("INSERT INTO note_mutes (box, at_ms) VALUES (?, ?)", (box, now_ms))

    def muted(self) -> set[str]:
        """Ids of muted boxes; an empty one among them mutes everything."""
        return {box for (box,) in self._conn.rows("SELECT box FROM note_mutes")}

    def forget(self, before_ms: int) -> None:
        """Remove old notes that are on their way to nobody."""
        old = "SELECT id FROM notes WHERE created_ms < ?"
        busy = "SELECT note FROM note_sends WHERE state = 'queued'"
        self._conn.run(f"DELETE FROM note_sends WHERE state <> 'queued' AND note IN ({old})", (before_ms,))
        self._conn.run(f"DELETE FROM notes WHERE created_ms < ? AND id NOT IN ({busy})", (before_ms,))


def _fate(note: Note, sends: Sequence[Send]) -> str:
    states = {s.state for s in sends}
    if note.held:
        return "held"
    if "queued" in states:
        return "queued"
    if states == {"given_up"}:
        return "given_up"
    return "partly_sent" if "given_up" in states else "sent"


class Notes:
    """Notes for the rest of the hub; each call is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(
        self, note: Note, targets: Sequence[str], *, per_hour: int = 0, cursor: int = 0
    ) -> Note | None:
        """See :meth:`NoteTable.add`; the cursor moves in the same transaction when one is given."""

        def both(conn: Conn) -> Note | None:
            table = NoteTable(conn)
            if cursor:
                table.move(cursor)
            return table.add(note, targets, per_hour)

        return await self._db.write(both)

    async def cursor(self) -> int:
        """See :meth:`NoteTable.cursor`."""
        return await self._db.read(lambda c: NoteTable(c).cursor())

    async def move(self, cursor: int) -> None:
        """See :meth:`NoteTable.move`."""
        await self._db.write(lambda c: NoteTable(c).move(cursor))

    async def claim(self, send: Send, now_ms: int, until_ms: int) -> bool:
        """See :meth:`NoteTable.claim`."""
        return await self._db.write(lambda c: NoteTable(c).claim(send, now_ms, until_ms))

    async def hurry(self, now_ms: int) -> None:
        """See :meth:`NoteTable.hurry`."""
        await self._db.write(lambda c: NoteTable(c).hurry(now_ms))

    async def settle(self, send: Send, *events: Event) -> None:
        """See :meth:`NoteTable.settle`; ``events`` are appended in the same transaction."""

        def both(conn: Conn) -> None:
            NoteTable(conn).settle(send)
            EventTable(conn).append(events)

        await self._db.write(both)

    async def due(self, now_ms: int, limit: int = 8) -> list[tuple[Send, Note]]:
        """See :meth:`NoteTable.due`."""
        return await self._db.read(lambda c: NoteTable(c).due(now_ms, limit))

    async def next_due(self) -> int | None:
        """See :meth:`NoteTable.next_due`."""
        return await self._db.read(lambda c: NoteTable(c).next_due())

    async def get(self, note: str) -> NoteView:
        """See :meth:`NoteTable.get`."""
        return await self._db.read(lambda c: NoteTable(c).get(note))

    async def list(self, limit: int = 50, box: str = "") -> list[NoteView]:
        """See :meth:`NoteTable.list`."""
        return await self._db.read(lambda c: NoteTable(c).list(limit, box))

    async def of_key(self, key: str) -> Note:
        """See :meth:`NoteTable.of_key`."""
        return await self._db.read(lambda c: NoteTable(c).of_key(key))

    async def counts(self, since_ms: int) -> dict[str, int]:
        """See :meth:`NoteTable.counts`."""
        return await self._db.read(lambda c: NoteTable(c).counts(since_ms))

    async def mute(self, box: str, muted: bool, now_ms: int) -> None:
        """See :meth:`NoteTable.mute`."""
        await self._db.write(lambda c: NoteTable(c).mute(box, muted, now_ms))

    async def muted(self) -> set[str]:
        """See :meth:`NoteTable.muted`."""
        return await self._db.read(lambda c: NoteTable(c).muted())

    async def forget(self, before_ms: int) -> None:
        """See :meth:`NoteTable.forget`."""
        await self._db.write(lambda c: NoteTable(c).forget(before_ms))
