"""Boxes as the hub recorded them; a name belongs to at most one box that is not gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import msgspec

from thopter.model.errors import Conflict, NotFound, StorageError
from thopter.model.events import Event
from thopter.model.ids import BoxId, check_name
from thopter.model.nouns import Box, BoxState, Isolation, Limits
from thopter.store import codec, sqlite
from thopter.store.db import Conn, Database, Row
from thopter.store.events import EventTable

T = TypeVar("T")

_COLUMNS = (
    "id, name, provider, state, created_ms, changed_ms, limits, isolation, golden, problem, memory, snapshot"
)
_HINT_NAME = "give another --name, or 'thopter destroy' the one that has it"


def _row(box: Box) -> tuple[Any, ...]:
    return (
        box.id, box.name, box.provider, box.state.value, box.created_ms, box.changed_ms,
        codec.to_json(box.limits), box.isolation.value if box.isolation else None, box.golden,
        codec.clean_text(box.problem), codec.to_json(box.memory), box.snapshot,
    )  # fmt: skip


def _box(row: Row) -> Box:
    return Box(
        id=BoxId(row[0]), name=row[1], provider=row[2], state=BoxState(row[3]), created_ms=row[4],
        changed_ms=row[5], limits=codec.from_json(row[6], Limits),
        isolation=Isolation(row[7]) if row[7] else None, golden=row[8], problem=row[9],
        memory=codec.from_json(row[10], dict[str, Any]), snapshot=row[11],
    )  # fmt: skip


class BoxTable:
    """Boxes inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def get(self, box: str) -> Box:
        """The box with this id, gone ones included; NotFound."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM boxes WHERE id = ?", (box,))
        if row is None:
            raise NotFound(f"there is no box {box}")
        return _box(row)

    def list(self, *, gone: bool = False) -> list[Box]:
        """All boxes, oldest first; gone ones only when asked."""
        where = "" if gone else "WHERE state <> 'gone'"
        return [
            _box(r) for r in self._conn.rows(f"SELECT {_COLUMNS} FROM boxes {where} ORDER BY created_ms, id")
        ]

    def find(self, name: str) -> Box:
        """The one box that is not gone and has this name, or whose name alone starts so (boxes that
        wait in a pool are found by their whole name only).

        NotFound; Conflict listing the matches when the beginning is ambiguous."""
        rows = self._conn.rows(
            f"""SELECT {_COLUMNS} FROM boxes WHERE name >= ? AND name < ? AND state <> 'gone'
                  AND (name = ? OR id NOT IN (SELECT box FROM pool_boxes)) ORDER BY name""",
            (name, name + "\U0010ffff", name),
        )
        boxes = [_box(r) for r in rows] if name else []
        exact = [b for b in boxes if b.name == name]
        if exact or len(boxes) == 1:
            return (exact or boxes)[0]
        if not boxes:
            raise NotFound(f"there is no thopter {name!r}", hint="see 'thopter list'")
        names = [b.name for b in boxes]
        raise Conflict(
            f"{name!r} could be {', '.join(names[:8])}{', …' if len(names) > 8 else ''}",
            hint="type more of the name",
            matches=names,
        )

    def find_any(self, name: str) -> Box:
        """As :meth:`find`; when there is none, the one of exactly this name that went last."""
        try:
            return self.find(name)
        except NotFound:
            row = self._conn.row(
                f"SELECT {_COLUMNS} FROM boxes WHERE name = ? ORDER BY changed_ms DESC, id DESC LIMIT 1",
                (name,),
            )
            if row is None:
                raise
            return _box(row)

    def insert(self, box: Box) -> Box:
        """Record a new box; returns what is recorded.

        The same id again returns the box as it is now (a repeated step does nothing twice); a name
        that another box has is a Conflict."""
        check_name(box.name)
        marks = ", ".join("?" * 12)
        try:
            self._conn.run(
                f"INSERT INTO boxes ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", _row(box)
            )
        except sqlite.dbapi.IntegrityError:
            raise Conflict(f"there is a thopter {box.name!r} already", hint=_HINT_NAME) from None
        return self.get(box.id)

    def reserve_name(self, box: Box, candidates: Iterable[str]) -> Box:
        """Record ``box`` under the first candidate that is free; Conflict when none is.

        Idempotent on the id: a second call returns the box with the name it already has."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM boxes WHERE id = ?", (box.id,))
        if row is not None:
            return _box(row)
        taken = {name for (name,) in self._conn.rows("SELECT name FROM boxes WHERE state <> 'gone'")}
        tried = list(candidates)
        name = next((n for n in tried if n not in taken), None)
        if name is None:
            if len(tried) == 1:
                raise Conflict(f"there is a thopter {tried[0]!r} already", hint=_HINT_NAME)
            raise Conflict(f"the names {', '.join(tried[:5])} … are taken", hint=_HINT_NAME)
        return self.insert(msgspec.structs.replace(box, name=name))

    def update(self, box: Box, *, was: Collection[BoxState] | None = None) -> None:
        """Record a changed box. With ``was``, only when its recorded state is one of these;
        Conflict with ``data["state"]`` otherwise. NotFound."""
        args = [*_row(box)[1:], box.id]
        guard = ""
        if was is not None:
            guard = f" AND state IN ({', '.join('?' * len(was))})"
            args += [state.value for state in was]
        sets = ", ".join(f"{c.strip()} = ?" for c in _COLUMNS.split(",")[1:])
        try:
            changed = self._conn.run(f"UPDATE boxes SET {sets} WHERE id = ?{guard}", args)
        except sqlite.dbapi.IntegrityError:
            raise Conflict(f"there is a thopter {box.name!r} already", hint=_HINT_NAME) from None
        if changed == 1:
            return
        now = self.get(box.id)
        if was is None:
            raise StorageError(f"{box.id} was not updated")
        raise Conflict(
            f"{box.name} is {now.state}, not {' or '.join(sorted(was))}", hint="", state=now.state.value
        )


class Boxes:
    """Boxes for the rest of the hub; each call is one transaction, with its events inside."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, box: str) -> Box:
        """See :meth:`BoxTable.get`."""
        return await self._db.read(lambda c: BoxTable(c).get(box))

    async def list(self, *, gone: bool = False) -> list[Box]:
        """See :meth:`BoxTable.list`."""
        return await self._db.read(lambda c: BoxTable(c).list(gone=gone))

    async def find(self, name: str) -> Box:
        """See :meth:`BoxTable.find`."""
        return await self._db.read(lambda c: BoxTable(c).find(name))

    async def find_any(self, name: str) -> Box:
        """See :meth:`BoxTable.find_any`."""
        return await self._db.read(lambda c: BoxTable(c).find_any(name))

    async def insert(self, box: Box, *events: Event) -> Box:
        """See :meth:`BoxTable.insert`; ``events`` are appended in the same transaction."""
        return await self._write(lambda t: t.insert(box), events)

    async def reserve_name(self, box: Box, candidates: Iterable[str], *events: Event) -> Box:
        """See :meth:`BoxTable.reserve_name`."""
        names = list(candidates)
        return await self._write(lambda t: t.reserve_name(box, names), events)

    async def update(self, box: Box, *events: Event, was: Collection[BoxState] | None = None) -> None:
        """See :meth:`BoxTable.update`; the events are appended only when it was changed."""
        await self._write(lambda t: t.update(box, was=was), events)

    async def _write(self, fn: Callable[[BoxTable], T], events: tuple[Event, ...]) -> T:
        def both(conn: Conn) -> T:
            value = fn(BoxTable(conn))
            EventTable(conn).append(events)
            return value

        return await self._db.write(both)
