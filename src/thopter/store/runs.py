"""Runs: one agent at work on one prompt in one box."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from thopter.model.errors import Conflict, NotFound, StorageError
from thopter.model.events import Event
from thopter.model.ids import BoxId, RunId
from thopter.model.nouns import RepoRef, Run, RunState, WaitReason
from thopter.store import codec, sqlite
from thopter.store.db import Conn, Database, Row
from thopter.store.events import EventTable

_COLUMNS = (
    "id, box, agent, prompt, state, created_ms, changed_ms, reason, session, repo, cwd, problem, exit_code,"
    " parent"
)


def _row(run: Run) -> tuple[Any, ...]:
    return (
        run.id, run.box, run.agent, codec.clean_text(run.prompt, 4 << 20), run.state.value,
        run.created_ms, run.changed_ms, run.reason.value if run.reason else None,
        codec.clean_text(run.session, 1000), codec.to_json(run.repo) if run.repo else None,
        codec.clean_text(run.cwd, 8192), codec.clean_text(run.problem), run.exit_code, run.parent,
    )  # fmt: skip


def _run(row: Row) -> Run:
    return Run(
        id=RunId(row[0]), box=BoxId(row[1]), agent=row[2], prompt=row[3], state=RunState(row[4]),
        created_ms=row[5], changed_ms=row[6], reason=WaitReason(row[7]) if row[7] else None,
        session=row[8], repo=codec.from_json(row[9], RepoRef) if row[9] else None, cwd=row[10],
        problem=row[11], exit_code=row[12], parent=row[13],
    )  # fmt: skip


class RunTable:
    """Runs inside one transaction."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def get(self, run: str) -> Run:
        """The run with this id; NotFound."""
        row = self._conn.row(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run,))
        if row is None:
            raise NotFound(f"there is no run {run}")
        return _run(row)

    def of_box(self, box: str) -> list[Run]:
        """Every run of a box, oldest first."""
        rows = self._conn.rows(f"SELECT {_COLUMNS} FROM runs WHERE box = ? ORDER BY created_ms, id", (box,))
        return [_run(r) for r in rows]

    def latest(self) -> dict[BoxId, Run]:
        """The newest run of each box that is not gone, by box."""
        names = ", ".join("r." + c.strip() for c in _COLUMNS.split(","))
        rows = self._conn.rows(
            f"""SELECT {names} FROM runs r JOIN boxes b ON b.id = r.box AND b.state <> 'gone'
                ORDER BY r.created_ms, r.id"""
        )
        return {run.box: run for run in map(_run, rows)}

    def insert(self, run: Run) -> Run:
        """Record a new run; returns what is recorded (the same id again changes nothing)."""
        marks = ", ".join("?" * 14)
        try:
            self._conn.run(
                f"INSERT INTO runs ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", _row(run)
            )
        except sqlite.dbapi.IntegrityError:
            raise NotFound(f"there is no box {run.box} for run {run.id}") from None
        return self.get(run.id)

    def update(self, run: Run, *, was: Collection[RunState] | None = None) -> None:
        """Record a changed run. With ``was``, only when its recorded state is one of these;
        Conflict with ``data["state"]`` otherwise. NotFound."""
        args = [*_row(run)[1:], run.id]
        guard = ""
        if was is not None:
            guard = f" AND state IN ({', '.join('?' * len(was))})"
            args += [state.value for state in was]
        sets = ", ".join(f"{c.strip()} = ?" for c in _COLUMNS.split(",")[1:])
        if self._conn.run(f"UPDATE runs SET {sets} WHERE id = ?{guard}", args) == 1:
            return
        now = self.get(run.id)
        if was is None:
            raise StorageError(f"{run.id} was not updated")
        raise Conflict(
            f"the run is {now.state}, not {' or '.join(sorted(was))}", hint="", state=now.state.value
        )


class Runs:
    """Runs for the rest of the hub; each call is one transaction, with its events inside."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, run: str) -> Run:
        """See :meth:`RunTable.get`."""
        return await self._db.read(lambda c: RunTable(c).get(run))

    async def of_box(self, box: str) -> list[Run]:
        """See :meth:`RunTable.of_box`."""
        return await self._db.read(lambda c: RunTable(c).of_box(box))

    async def latest(self) -> dict[BoxId, Run]:
        """See :meth:`RunTable.latest`."""
        return await self._db.read(lambda c: RunTable(c).latest())

    async def insert(self, run: Run, *events: Event) -> Run:
        """See :meth:`RunTable.insert`; ``events`` are appended in the same transaction."""

        def both(conn: Conn) -> Run:
            value = RunTable(conn).insert(run)
            EventTable(conn).append(events)
            return value

        return await self._db.write(both)

    async def update(self, run: Run, *events: Event, was: Collection[RunState] | None = None) -> None:
        """See :meth:`RunTable.update`; the events are appended only when it was changed."""

        def both(conn: Conn) -> None:
            RunTable(conn).update(run, was=was)
            EventTable(conn).append(events)

        await self._db.write(both)
