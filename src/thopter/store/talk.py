"""Messages that the hub keeps for agents, and the labels (note, status line) on thopters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct, field, structs

from thopter.model.api.talk import TalkView
from thopter.model.errors import Conflict, NotFound, Refused
from thopter.model.events import Event
from thopter.store import codec
from thopter.store.db import Conn, Database, Row
from thopter.store.events import EventTable

OPEN_MAX = 100  # messages that may wait for one thopter
OPEN_CHARS = 8 << 20  # and their characters together
KEPT = 50  # of those that are over, by box
UNHEARD_MAX = 200  # and of those that no conversation has shown yet
OPEN = ("queued", "sending", "working", "asking")
_COLUMNS = (
    "id, box, run, ordinal, kind, state, text, created_ms, changed_ms, sent_ms, entries, marks, outcome,"
    " heard_ms"
)


class Outcome(Struct, frozen=True, kw_only=True):
    """What has come of a message so far; see :class:`thopter.model.api.talk.Message`."""

    receipt: str = ""
    evidence: str = ""
    answer: str = ""
    problem: str = ""
    reason: str = ""
    asks: str = ""
    tools: list[str] = field(default_factory=list)
    turn_ms: int = 0
    taken_ms: int = 0


class Letter(Struct, frozen=True, kw_only=True):
    """A message as recorded. ``entries`` and ``marks``: how many entries its run had, and how far its
    box had been read, when it was begun to be typed (at ``sent_ms``). ``heard_ms``: when the agent's
    conversation was seen to hold it; 0 not yet."""

    id: str
    box: str
    run: str
    kind: str
    state: str
    text: str
    created_ms: int
    changed_ms: int
    ordinal: int = 0
    sent_ms: int = 0
    entries: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    outcome: Outcome = Outcome()
    heard_ms: int = 0

    @property
    def unheard(self) -> bool:
        """The agent said that it has it, and its conversation does not show it (yet)."""
        return self.state == "delivered" and not self.heard_ms

    @property
    def open(self) -> bool:
        """True until nothing more will come of it."""
        return self.state in OPEN


def _letter(row: Row) -> Letter:
    return Letter(
        id=row[0], box=row[1], run=row[2], ordinal=row[3], kind=row[4], state=row[5], text=row[6],
        created_ms=row[7], changed_ms=row[8], sent_ms=row[9], entries=row[10],
        marks=codec.from_json(row[11], dict[str, int]), outcome=codec.from_json(row[12], Outcome),
        heard_ms=row[13],
    )  # fmt: skip


def _row(letter: Letter) -> tuple[Any, ...]:
    return (
        letter.id, letter.box, letter.run, letter.ordinal, letter.kind, letter.state,
        codec.clean_text(letter.text, 4 << 20), letter.created_ms, letter.changed_ms, letter.sent_ms,
        letter.entries, codec.to_json(letter.marks), codec.to_json(letter.outcome, 16 << 20),
        letter.heard_ms,
    )  # fmt: skip


class LetterTable:
    """Messages inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def add(self, letter: Letter) -> Letter:
        """Record it behind the others of its box; the same id again changes nothing. Refused when too
        much waits already and it is one that shall wait."""
        found = self._conn.row(f"SELECT {_COLUMNS} FROM messages WHERE id = ?", (letter.id,))
        if found is not None:
            return _letter(found)
        waiting = [x for x in self.of_box(letter.box) if x.open]
        chars = sum(len(x.text) for x in waiting) + len(letter.text)
        if letter.open and letter.kind != "go_on" and (len(waiting) >= OPEN_MAX or chars > OPEN_CHARS):
            raise Refused(
                f"{len(waiting)} messages wait for this thopter already",
                hint="see them with 'thopter queue NAME'; '--drop ID' takes one back",
            )
        row = self._conn.row("SELECT max(ordinal) FROM messages WHERE box = ?", (letter.box,))
        letter = structs.replace(letter, ordinal=int(row[0] or 0) + 1 if row else 1)
        marks = ", ".join("?" * 14)
        self._conn.run(f"INSERT INTO messages ({_COLUMNS}) VALUES ({marks})", _row(letter))
        self._clear(letter.box)
        return letter

    def _clear(self, box: str) -> None:
        found = [x for x in self.of_box(box) if not x.open]
        over = [x.id for x in found if not x.unheard]
        too_old, chars = over[: max(len(over) - KEPT, 0)], 0
        for number, letter in enumerate(reversed([x for x in found if x.unheard])):
            chars += len(letter.text)
            if number >= UNHEARD_MAX or (number and chars > OPEN_CHARS):
                too_old.append(letter.id)
        for old in too_old:
            self._conn.run("DELETE FROM messages WHERE id = ?", (old,))

    def get(self, letter: str) -> Letter:
        """The one with this id; NotFound."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM messages WHERE id = ?", (letter,))
        if row is None:
            raise NotFound(f"there is no message {letter[:60]}", hint="see 'thopter queue NAME'")
        return _letter(row)

    def of_box(self, box: str) -> list[Letter]:
        """All of a box, oldest first."""
        rows = self._conn.rows(f"SELECT {_COLUMNS} FROM messages WHERE box = ? ORDER BY ordinal", (box,))
        return [_letter(r) for r in rows]

    def heard(self, letters: Collection[str], now_ms: int) -> None:
        """Record that the conversation holds these."""
        self._conn.many(
            "UPDATE messages SET heard_ms = ? WHERE id = ? AND heard_ms = 0", [(now_ms, x) for x in letters]
        )

    def update(self, letter: Letter, was: Collection[str]) -> None:
        """Record a changed one, only when its recorded state is one of ``was``; Conflict otherwise."""
        now = self.get(letter.id)
        if now.state not in was:
            raise Conflict(f"message {letter.id} is {now.state}", hint="", state=now.state)
        sets = ", ".join(f"{c.strip()} = ?" for c in _COLUMNS.split(",")[1:])
        self._conn.run(f"UPDATE messages SET {sets} WHERE id = ?", [*_row(letter)[1:], letter.id])


class LabelTable:
    """Labels inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def set(self, box: str, kind: str, author: str, run: str, at_ms: int, text: str) -> None:
        """Put a label on a box in place of that author's earlier one; an empty text removes it."""
        self._conn.run("DELETE FROM labels WHERE box = ? AND kind = ? AND author = ?", (box, kind, author))
        if text:
            self._conn.run(
                "INSERT INTO labels (box, kind, author, run, at_ms, text) VALUES (?, ?, ?, ?, ?, ?)",
                (box, kind, author, run, codec.clean_ms(at_ms), codec.clean_text(text)),
            )

    def views(self, runs: Mapping[str, str]) -> dict[str, TalkView]:
        """What is shown for each box of ``runs`` (its present run); boxes with nothing are left out.
        Of two status lines the operator's counts; one set for an earlier run is not shown."""
        found: dict[str, dict[str, Any]] = {}
        rows = self._conn.rows("SELECT box, kind, author, run, at_ms, text FROM labels ORDER BY author")
        for box, kind, author, run, at_ms, text in rows:  # agent before operator
            if box in runs and (kind == "note" or run == runs[box]):
                view = found.setdefault(box, {})
                view |= {kind: text, f"{kind}_ms": at_ms}
                if kind == "statusline":
                    view["statusline_by"] = author
        marks = ", ".join("?" * len(OPEN))
        rows = self._conn.rows(
            f"SELECT box, count(*) FROM messages WHERE state IN ({marks}) GROUP BY box", OPEN
        )
        for box, count in rows:
            if box in runs:
                found.setdefault(box, {})["queued"] = count
        return {box: TalkView(**view) for box, view in found.items()}


class Talk:
    """Messages and labels for the rest of the hub; each call is one transaction, events inside."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, letter: Letter, event: Event) -> Letter:
        """See :meth:`LetterTable.add`; durable when this returns."""

        def both(conn: Conn) -> Letter:
            kept = LetterTable(conn).add(letter)
            if kept.created_ms == letter.created_ms:  # else it was there already
                EventTable(conn).append([event])
            return kept

        return await self._db.write(both)

    async def get(self, letter: str) -> Letter:
        """See :meth:`LetterTable.get`."""
        return await self._db.read(lambda c: LetterTable(c).get(letter))

    async def of_box(self, box: str) -> list[Letter]:
        """See :meth:`LetterTable.of_box`."""
        return await self._db.read(lambda c: LetterTable(c).of_box(box))

    async def update(self, letter: Letter, event: Event, was: Collection[str]) -> Letter:
        """See :meth:`LetterTable.update`; returns ``letter``."""

        def both(conn: Conn) -> Letter:
            LetterTable(conn).update(letter, was)
            EventTable(conn).append([event])
            return letter

        return await self._db.write(both)

    async def heard(self, letters: Collection[str], now_ms: int) -> None:
        """See :meth:`LetterTable.heard`."""
        await self._db.write(lambda c: LetterTable(c).heard(letters, now_ms))

    async def label(
        self, box: str, kind: str, author: str, run: str, at_ms: int, text: str, *events: Event
    ) -> None:
        """See :meth:`LabelTable.set`."""

        def both(conn: Conn) -> None:
            LabelTable(conn).set(box, kind, author, run, at_ms, text)
            EventTable(conn).append(events)

        await self._db.write(both)

    async def views(self, runs: Mapping[str, str]) -> dict[str, TalkView]:
        """See :meth:`LabelTable.views`."""
        return await self._db.read(lambda c: LabelTable(c).views(runs))
