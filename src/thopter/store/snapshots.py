"""Saved boxes as the hub recorded them; a name belongs to at most one that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from thopter.model.errors import Conflict, NotFound, StorageError
from thopter.model.events import Event
from thopter.model.ids import check_name
from thopter.model.nouns import RepoRef, Snapshot, SnapshotKind, SnapshotState
from thopter.store import codec, sqlite
from thopter.store.db import Conn, Database, Row
from thopter.store.events import EventTable

T = TypeVar("T")

_COLUMNS = (
    "id, name, provider, kind, state, created_ms, box, box_name, run, agent, session, repo, cwd, golden,"
    " parent, label, size, turn_ms"
)
_THERE = "state NOT IN ('dropping', 'gone')"
_HINT_NAME = "give another name, or 'thopter snapshot replace' the one that has it"


def _row(s: Snapshot) -> tuple[Any, ...]:
    return (
        s.id, s.name, s.provider, s.kind.value, s.state.value, s.created_ms, s.box, s.box_name, s.run,
        s.agent, codec.clean_text(s.session, 1000), codec.to_json(s.repo) if s.repo else None,
        codec.clean_text(s.cwd, 8192), s.golden, s.parent, codec.clean_text(s.label, 500), s.size, s.turn_ms,
    )  # fmt: skip


def _snapshot(row: Row) -> Snapshot:
    return Snapshot(
        id=row[0], name=row[1], provider=row[2], kind=SnapshotKind(row[3]), state=SnapshotState(row[4]),
        created_ms=row[5], box=row[6], box_name=row[7], run=row[8], agent=row[9], session=row[10],
        repo=codec.from_json(row[11], RepoRef) if row[11] else None, cwd=row[12], golden=row[13],
        parent=row[14], label=row[15], size=row[16], turn_ms=row[17],
    )  # fmt: skip


class SnapshotTable:
    """Saved boxes inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def get(self, snap: str) -> Snapshot:
        """The one with this id, gone ones included; NotFound."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM snapshots WHERE id = ?", (snap,))
        if row is None:
            raise NotFound(f"there is no snapshot {snap}")
        return _snapshot(row)

    def all(self, *, gone: bool = False) -> list[Snapshot]:
        """All of them, oldest first; gone ones only when asked."""
        where = "" if gone else "WHERE state <> 'gone'"
        sql = f"SELECT {_COLUMNS} FROM snapshots {where} ORDER BY created_ms, id"
        return [_snapshot(r) for r in self._conn.rows(sql)]

    def of_box(self, box: str) -> list[Snapshot]:
        """The checkpoints of a box that are there, oldest first."""
        rows = self._conn.rows(
            f"""SELECT {_COLUMNS} FROM snapshots WHERE box = ? AND kind = 'checkpoint' AND {_THERE}
                ORDER BY created_ms, id""",
            (box,),
        )
        return [_snapshot(r) for r in rows]

    def find(self, word: str) -> Snapshot:
        """The one that is there and has this name, or this id, or whose id alone begins so.

        NotFound; Conflict listing the ids when a beginning of ids is ambiguous."""
        sql = f"SELECT {_COLUMNS} FROM snapshots WHERE name = ? AND name <> '' AND {_THERE}"
        named = self._conn.row(sql, (word,))
        if named is not None:
            return _snapshot(named)
        rows = self._conn.rows(
            f"SELECT {_COLUMNS} FROM snapshots WHERE id >= ? AND id < ? AND {_THERE} ORDER BY id",
            (word, word + "\U0010ffff"),
        )
        found = [_snapshot(r) for r in rows] if word else []
        exact = [s for s in found if s.id == word]
        if exact or len(found) == 1:
            return (exact or found)[0]
        if not found:
            raise NotFound(f"there is no snapshot {word!r}", hint="see 'thopter snapshot list'")
        ids = [s.id for s in found]
        raise Conflict(
            f"{word!r} could be {', '.join(ids[:8])}{', …' if len(ids) > 8 else ''}",
            hint="type more of the id",
            matches=ids,
        )

    def insert(self, snapshot: Snapshot, candidates: Iterable[str] = ()) -> Snapshot:
        """Record a new one, under the first of ``candidates`` that is free when there are some.

        The same id again returns what is recorded. Conflict: its name is taken."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM snapshots WHERE id = ?", (snapshot.id,))
        if row is not None:
            return _snapshot(row)
        tried = list(candidates)
        if tried:
            taken = {n for (n,) in self._conn.rows(f"SELECT name FROM snapshots WHERE {_THERE}")}
            free = next((n for n in tried if n not in taken), None)
            if free is None:
                raise Conflict(f"there is a snapshot {tried[0]!r} already", hint=_HINT_NAME)
            snapshot = msgspec.structs.replace(snapshot, name=free)
        if snapshot.name:
            check_name(snapshot.name)
        marks = ", ".join("?" * 18)
        self._named(f"INSERT INTO snapshots ({_COLUMNS}) VALUES ({marks})", _row(snapshot), snapshot.name)
        return snapshot

    def update(self, snapshot: Snapshot) -> None:
        """Record a changed one. Conflict: its name is taken; NotFound."""
        sets = ", ".join(f"{c.strip()} = ?" for c in _COLUMNS.split(",")[1:])
        args = (*_row(snapshot)[1:], snapshot.id)
        if self._named(f"UPDATE snapshots SET {sets} WHERE id = ?", args, snapshot.name) != 1:
            self.get(snapshot.id)
            raise StorageError(f"{snapshot.id} was not updated")

    def _named(self, sql: str, args: tuple[Any, ...], name: str) -> int:
        try:
            return self._conn.run(sql, args)
        except sqlite.dbapi.IntegrityError:
            raise Conflict(f"there is a snapshot {name!r} already", hint=_HINT_NAME) from None


class SnapshotStore:
    """Saved boxes for the rest of the hub; each call is one transaction, with its events inside."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, snap: str) -> Snapshot:
        """See :meth:`SnapshotTable.get`."""
        return await self._db.read(lambda c: SnapshotTable(c).get(snap))

    async def all(self, *, gone: bool = False) -> list[Snapshot]:
        """See :meth:`SnapshotTable.all`."""
        return await self._db.read(lambda c: SnapshotTable(c).all(gone=gone))

    async def of_box(self, box: str) -> list[Snapshot]:
        """See :meth:`SnapshotTable.of_box`."""
        return await self._db.read(lambda c: SnapshotTable(c).of_box(box))

    async def find(self, word: str) -> Snapshot:
        """See :meth:`SnapshotTable.find`."""
        return await self._db.read(lambda c: SnapshotTable(c).find(word))

    async def insert(self, snapshot: Snapshot, candidates: Iterable[str] = (), *events: Event) -> Snapshot:
        """See :meth:`SnapshotTable.insert`; ``events`` are appended in the same transaction."""
        names = list(candidates)
        return await self._write(lambda t: t.insert(snapshot, names), events)

    async def update(self, snapshot: Snapshot, *events: Event) -> None:
        """See :meth:`SnapshotTable.update`."""
        await self._write(lambda t: t.update(snapshot), events)

    async def _write(self, fn: Callable[[SnapshotTable], T], events: tuple[Event, ...]) -> T:
        def both(conn: Conn) -> T:
            value = fn(SnapshotTable(conn))
            EventTable(conn).append(events)
            return value

        return await self._db.write(both)
